"""A study as a Ray job on a real head: sent, followed, stopped, and read when the head is gone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.execution.local_cluster import Head

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
evaluate: {multiples: [1, 2], strings: 512, validation_strings: 32}
resources: {cpus: 1}
"""


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
        given = {"submit": [str(self.spec)], "refine": ["remote"]}.get(verb, [])
        if given:
            given += ["--address", self.head.address]
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
        started.wait_until_up()
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
    claim_a_failure(study.store)
    refined = study.run("refine", "--ratio", "1.5", "--json")
    assert refined.returncode == 0, refined.stderr + study.head.log.read_text()
    lines = refined.stderr.splitlines()
    assert lines[0].startswith("remote: 2 of 2 trials to bisect, about ")
    assert re.search(r"^Sent to http://127.0.0.1:\d+ as job remote-\d+T\d+-\w+\.$", lines[1])
    rows = json.loads(refined.stdout)
    assert all(row["before"] == [8, 16] for row in rows)
    assert all(row["after"] in ([8, 11], [11, 16], [8, 12], [12, 16]) for row in rows)
    assert [row["num_evaluated"] for row in rows] == [1, 1]
    asked = [line for line in lines if re.search(r"seed \d, 1[12] tokens: done$", line)]
    assert len(asked) == 2
    nothing = study.run("refine", "--ratio", "1.5", "--json")
    assert "Nothing is left to do; the cluster is not asked." in nothing.stderr


def claim_a_failure(store):
    """Have newer rows say that every trial is right at 8 tokens and guesses at 16."""
    for row in read_facts(store).evaluations.to_pylist():
        row |= {"num_correct": 512 if row["length"] == 8 else 256, "num_total": 512}
        row |= {"attempt_id": "9"}
        store.commit("evaluations", f"{row['trial_id']}-9-{row['length']}", [row])


JOB_MODULE = ["-m", "ldru_study.cli.job"]
LONG = SPEC.replace("steps: 40", "steps: 200000") + "checkpoint_every_s: 1\n"


@pytest.mark.slow
def test_sent_and_left_alone_then_stopped(head, tmp_path):
    study = Study(head, tmp_path, LONG)
    sent = study.run("submit", "--no-wait", "--json")
    assert sent.returncode == 0, sent.stderr
    assert json.loads(sent.stdout)["job_id"].startswith("remote-")
    study.wait_for(lambda: study.states().get("running") == 2)
    assert head.runs("ldru_study.cli.job")
    # torch is for those who train: who drives them begins seconds earlier without
    [driver] = [one for one in head.children() if one.cmdline()[1:3] == JOB_MODULE]
    assert not any("libtorch" in mapped.path for mapped in driver.memory_maps())
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


# more than the head has: it runs on a node that joined
WIDE = SPEC.replace("cpus: 1", "cpus: 3").replace("seeds: 2", "seeds: 1")
WIDE = WIDE.replace("steps: 40", "steps: 6000") + "checkpoint_every_s: 0.3\n"


@pytest.mark.slow
def test_a_lost_node_is_named_and_its_trial_goes_on_elsewhere(head, tmp_path):
    study = Study(head, tmp_path, WIDE)
    nodes, saved = [head.add_node(4)], []
    try:
        study.wait_for(lambda: study.run("submit", "--no-wait").returncode == 0)
        study.wait_for(lambda: saved_step(study) > 1000)
        nodes[0].raylet().kill()
        saved.append(saved_step(study))
        nodes.append(head.add_node(4))
        [first] = study.wait_for(lambda: ends(study))
        assert (first["state"], first["cause"]) == ("interrupted", "node_lost")
        assert first["message"] == "its machine was lost"
        while len(ends(study)) == 1:
            saved.append(saved_step(study) or saved[-1])
            time.sleep(0.05)
        assert [end["state"] for end in ends(study)] == ["interrupted", "done"]
        # from the beginning, it would have saved an earlier step first
        assert len(set(saved)) > 2
        assert saved == sorted(saved)
    finally:
        for node in nodes:
            node.end()


def saved_step(study):
    """Return the step of the only trial's checkpoint, 0 while, or once, there is none."""
    for entry in study.store.files.list("checkpoints", recursive=True):
        with suppress(FileNotFoundError):
            data = study.store.files.read(entry.name)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["ldru_study"])["about"]
            return about.get("step", 0)
    return 0


def ends(study):
    rows = read_facts(study.store).attempts.to_pylist()
    rows.sort(key=lambda row: row["attempt_id"])
    return [row for row in rows if row["event"] == "end"]


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
