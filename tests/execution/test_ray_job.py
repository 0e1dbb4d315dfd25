"""A study as a Ray job on a real head: sent, followed, stopped, and read when the head is gone."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ldru_study.results.facts import read_facts
from ldru_study.results.heartbeat import read_heartbeats
from ldru_study.results.store import Store

ROOT = Path(__file__).parent.parent.parent
JOB = """
import platform, uuid
import ldru_study, ldru_kernels
print("PLATFORM", platform.__file__, platform.machine() != "")
print("STUDY", ldru_study.__file__)
"""
# a process of its own: Ray takes its token from the environment when it is imported
CLIENT = """
import sys, time
from ray.job_submission import JobStatus, JobSubmissionClient

deadline = time.monotonic() + 60
while True:
    try:
        client = JobSubmissionClient(sys.argv[1])
        job = client.submit_job(
            # this very Python: `python` would be whichever is first on the head's path
            entrypoint=f"{sys.executable} job.py",
            runtime_env={"working_dir": ".", "env_vars": {"PYTHONPATH": "platform:kernels"}},
        )
        break
    except (ConnectionError, RuntimeError):
        # the dashboard answers seconds after its process starts, the node's agent later still
        if time.monotonic() > deadline:
            raise
        time.sleep(0.5)
while not client.get_job_status(job).is_terminal():
    time.sleep(0.2)
print(client.get_job_logs(job))
sys.exit(client.get_job_status(job) != JobStatus.SUCCEEDED)
"""


SCRIPT = str(Path(sys.executable).parent / "ldru-study")
SPEC = """\
name: remote
task: parity_check
grid: {model: [{kind: lstm, width: 8}]}
train: {steps: 40, max_length: 8, batch_size: 16, lengths_per_batch: 4}
seeds: 2
evaluate: {multiples: [1, 2], strings: 64, validation_strings: 32}
resources: {cpus: 1}
"""


class Head:
    """A head on free ports, with a token, and the command line of somebody who has both."""

    def __init__(self, folder):
        # a fixed default port may still belong to a Ray that was killed a moment ago
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.folder, self.address = folder, f"http://127.0.0.1:{port}"
        here = Path(sys.executable).parent
        self.environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # a job's `python` is the first on the head's path
            "PATH": f"{here}:{os.environ['PATH']}",
        }
        options = ["--num-cpus=2", "--port=0", f"--dashboard-port={port}"]
        self.log = folder / "head.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(here / "ray", "start", "--head", "--block"),
                    *(*options, "--dashboard-agent-listen-port=0", "--include-dashboard=true"),
                ],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def end(self):
        family = [self.process.pid, *(child.pid for child in self.children())]
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def children(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def runs(self, *words):
        """Return the command lines below this head in which all of ``words`` occur."""
        found = []
        for child in self.children():
            with suppress(psutil.Error):
                line = " ".join(child.cmdline())
                if all(word in line for word in words):
                    found.append(line)
        return found


class Study:
    """A spec and a store in a folder, submitted to a head."""

    def __init__(self, head, folder, spec=SPEC):
        self.head, self.store = head, Store(str(folder / "results"))
        self.spec = folder / "remote.yaml"
        self.spec.write_text(spec)

    def run(self, *arguments, **environment):
        return subprocess.run(
            self._command(*arguments),
            env=self.head.environment | environment,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def start(self, *arguments):
        return subprocess.Popen(
            self._command(*arguments),
            env=self.head.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _command(self, verb, *arguments):
        given = [str(self.spec), "--address", self.head.address] if verb == "submit" else []
        return [SCRIPT, verb, *given, *arguments, "--store", self.store.uri]

    def states(self):
        """Return how many trials are in each state, by the command line."""
        done = self.run("status", "remote", "--json")
        [study] = json.loads(done.stdout)["studies"]
        states = [trial["state"] for trial in study["trials"]]
        return {state: states.count(state) for state in sorted(set(states))}

    def wait_for(self, holds, timeout_s=120):
        deadline = time.monotonic() + timeout_s
        while not (found := holds()):
            assert time.monotonic() < deadline, self.run("logs", "remote").stdout
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    started = Head(tmp_path_factory.mktemp("head"))
    try:
        yield started
    finally:
        started.end()


@pytest.fixture
def study(head, tmp_path):
    return Study(head, tmp_path)


@pytest.mark.slow
def test_the_standard_librarys_platform_in_a_ray_job(tmp_path, head):
    import platform

    folder = tmp_path / "checkout"
    for root in ("platform", "kernels"):
        shutil.copytree(ROOT / root, folder / root)
    (folder / "job.py").write_text(JOB)
    client = subprocess.run(
        [sys.executable, "-c", CLIENT, head.address],
        cwd=folder,
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    log = head.log.read_text()
    assert client.returncode == 0, client.stdout + client.stderr + log
    assert f"PLATFORM {platform.__file__} True" in client.stdout
    # and the code is the job's own copy
    place = next(line for line in client.stdout.splitlines() if line.startswith("STUDY"))
    assert "working_dir_files" in place


@pytest.mark.slow
def test_a_study_is_followed_to_its_verdicts(study):
    done = study.run("submit")
    assert done.returncode == 0, done.stderr + study.head.log.read_text()
    assert "parity_check" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0].startswith("remote: 2 trials in 1 cells; 2 to train")
    assert re.search(r"^Sent to http://127.0.0.1:\d+ as job remote-\d+T\d+-\w+\.$", lines[1])
    assert sum("seed" in line and " done in " in line for line in lines) == 2
    # the code that ran is named by the checkout it came from, though no git was on the cluster
    [submitted] = study.store.provenance("remote")["submissions"]
    starts = [row for row in read_facts(study.store).attempts.to_pylist() if row["versions"]]
    assert {json.loads(row["versions"])["revision"] for row in starts} == {submitted["revision"]}
    # again: nothing to do, and the cluster is not asked
    again = study.run("submit")
    assert again.returncode == 0
    assert "Nothing is left to do" in again.stderr
    assert again.stdout == done.stdout
    log = study.run("logs", "remote").stdout.splitlines()
    assert sum("seed" in line and " done in " in line for line in log) == 2
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 ", line) for line in log)


LONG = SPEC.replace("steps: 40", "steps: 200000") + "checkpoint_every_s: 1\n"


@pytest.mark.slow
def test_sent_and_left_alone_then_stopped(head, tmp_path):
    study = Study(head, tmp_path, LONG)
    sent = study.run("submit", "--no-wait", "--json")
    assert sent.returncode == 0, sent.stderr
    assert json.loads(sent.stdout)["job_id"].startswith("remote-")
    study.wait_for(lambda: study.states().get("running") == 2)
    assert head.runs("ldru_study.cli.job")
    following = study.start("logs", "remote", "--follow")
    stopped = study.run("stop", "remote", "--now")
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped. `ldru-study submit` continues it." in stopped.stderr
    # the log ends by itself, with why
    out, _ = following.communicate(timeout=60)
    assert "it was asked to stop" in out
    assert study.states() == {"interrupted": 2}
    study.wait_for(lambda: not head.runs("ldru_study.cli.job"), 20)
    assert not head.runs("ray::", "_trial")
    assert not read_heartbeats(study.store)
    # nothing runs any more, and to stop that is no error
    again = study.run("stop", "remote")
    assert (again.returncode, again.stderr) == (0, "remote: nothing runs.\n")


@pytest.mark.slow
def test_a_head_that_is_gone_takes_nothing_with_it(tmp_path):
    (tmp_path / "head").mkdir()
    head = Head(tmp_path / "head")
    study = Study(head, tmp_path, LONG)
    try:
        study.wait_for(lambda: study.run("submit", "--no-wait").returncode == 0)
        study.wait_for(lambda: study.states().get("running") == 2)
        family = [head.process.pid, *(child.pid for child in head.children())]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.process.wait()
        # no false word, from the first question on
        assert study.states() == {"interrupted": 2}
        listed = json.loads(study.run("list", "--json").stdout)
        assert listed[0]["states"] == "2 interrupted"
        assert study.run("logs", "remote", "-f").returncode == 0
        assert study.run("stop", "remote").stderr == "remote: nothing runs.\n"
        unreachable = study.run("submit")
        assert unreachable.returncode == 6
        assert "no answer" in unreachable.stderr
        assert "Nothing is lost" in unreachable.stderr
    finally:
        with suppress(psutil.NoSuchProcess):
            head.end()
    # and on this machine the same command goes on
    here = ["--set", "train.steps=200000", "--set", "budget.wall_clock=10s", "--address", "local"]
    done = study.run("submit", *here)
    assert done.returncode == 5, done.stderr
    assert study.states() == {"interrupted": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "refuses the token that was sent. Copy the token"),
        ({"RAY_AUTH_TOKEN": "", "HOME": "/nonexistent"}, "wants a token, and none was found"),
    ],
)
def test_without_the_right_token_nothing_is_sent_or_written(study, environment, message):
    study.wait_for(
        lambda: "wants a token" in study.run("submit", RAY_AUTH_TOKEN="", HOME="/").stderr
    )
    done = study.run("submit", **environment)
    assert done.returncode == 6
    assert message in done.stderr
    assert not study.store.studies()


@pytest.mark.slow
def test_a_store_that_the_cluster_does_not_see(study):
    # as it would look from a machine with a folder of the same name
    code = """
import json, sys
from ldru_study.cli.job import main
sys.exit(main(sys.argv[1]))
"""
    order = {
        "spec": SPEC,
        "source": "remote",
        "changes": [],
        "store": study.store.uri,
        "submission_id": "x",
        "provenance": {"revision": "x", "submission_id": "x"},
        "address": study.head.address,
        "job_id": "remote-x",
        "flags": {},
    }
    path = study.spec.with_name("order.json")
    path.write_text(json.dumps(order))
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 2
    assert "it sees another store under this name" in done.stderr
    assert "--store s3://bucket/folder" in done.stderr
