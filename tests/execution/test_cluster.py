"""A cluster is taken down when its last job has ended: workers first, the head last."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ldru_study.cli.job import main as run_job
from ldru_study.execution.cluster import CannotTakeDownError, _wait_for_quiet, can_take_down
from ldru_study.execution.jobs import JobOrder

ROOT = Path(__file__).parent.parent.parent
BOOTSTRAP = {
    "head_node_type": "head",
    "available_node_types": {
        "head": {"node_config": {"InstanceInitiatedShutdownBehavior": "terminate"}}
    },
}
# records what it is called with, and by a process of which session
FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$HOME/calls"
ps -o sid= -p $$ >> "$HOME/sessions"
if [ "$2" = --yes ] && [ ! -e "$HOME/tried" ]; then touch "$HOME/tried"; exit 1; fi
"""
# the driver of a study, which is over at once
DRIVER = """
import os, sys
from ldru_study.execution import cluster
print(os.getsid(0), cluster.down_when_done(dashboard=sys.argv[1], quiet_s=float(sys.argv[2])))
"""


class Head(http.server.BaseHTTPRequestHandler):
    """A head that knows jobs by state; the states are the server's."""

    def do_GET(self):
        assert self.path == "/api/jobs/"
        self.server.num_asked += 1
        self.server.tokens.add(self.headers["Authorization"])
        body = json.dumps([{"status": state} for state in self.server.states]).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def head():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Head)
    server.num_asked, server.tokens = 0, set()
    server.states = ["SUCCEEDED"]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return the home of a head that `ray up` started, with `ray` and `sudo` that only record."""
    scripts = tmp_path / "bin"
    scripts.mkdir()
    for name in ("ray", "sudo"):
        (scripts / name).write_text(FAKE)
        (scripts / name).chmod(0o755)
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(BOOTSTRAP))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{scripts}:/usr/bin:/bin")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    return tmp_path


def until(holds, what):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_the_head_of_a_cluster_can(home):
    can_take_down()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda home: (home / "ray_bootstrap_config.yaml").unlink(), "no such file"),
        (
            lambda home: (home / "ray_bootstrap_config.yaml").write_text("[1, 2]"),
            "ray_bootstrap_config.yaml: is no cluster file",
        ),
        (
            lambda home: (home / "ray_bootstrap_config.yaml").write_text(
                json.dumps(BOOTSTRAP).replace("terminate", "stop")
            ),
            "the head would only stop, and its disk go on costing",
        ),
        (lambda home: (home / "bin" / "ray").unlink(), "no ray on this machine's PATH"),
    ],
    ids=["no file", "another file", "would stop", "no ray"],
)
def test_who_cannot_is_told_beforehand(home, damage, expected):
    damage(home)
    with pytest.raises(CannotTakeDownError, match=expected) as error:
        can_take_down()
    assert str(error.value).startswith("--down-when-done: ")
    done = leave("http://127.0.0.1:1", home)
    assert "CannotTakeDownError" in done.stderr
    assert not (home / "ldru-study-down.log").exists()


def leave(address, folder):
    """Run a driver that asks for the end of its cluster and ends."""
    return subprocess.run(
        [sys.executable, "-c", DRIVER, address, "0.2"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "platform:kernels"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_workers_first_the_head_last_and_only_when_no_job_runs(home, head):
    head.states = ["SUCCEEDED", "RUNNING", "PENDING"]
    done = leave(f"http://127.0.0.1:{head.server_port}", home)
    assert done.returncode == 0, done.stderr
    session, log = done.stdout.split()
    calls = home / "calls"
    # the driver is gone; its own job and somebody else's still run
    before = head.num_asked
    until(lambda: head.num_asked > before + 3, "nobody asks for jobs")
    assert not calls.exists()
    head.states = ["SUCCEEDED", "STOPPED", "RUNNING"]
    before = head.num_asked
    until(lambda: head.num_asked > before + 3, "nobody asks for jobs")
    assert not calls.exists()
    head.states = ["SUCCEEDED", "STOPPED", "FAILED"]
    down = f"ray down --yes --workers-only {home}/ray_bootstrap_config.yaml"
    until(lambda: calls.exists() and "sudo" in calls.read_text(), "the head stays")
    # the first try at the workers failed
    assert calls.read_text().splitlines() == ["ray stop", down, down, "sudo shutdown -h now"]
    assert head.tokens == {"Bearer secret"}
    assert session not in (home / "sessions").read_text().split()
    said = Path(log).read_text()
    assert "workers are left; trying again in 0.2 s" in said
    assert said.splitlines()[-1].endswith("$ sudo shutdown -h now")


def test_a_head_that_answers_nobody_is_not_kept_for_ever(home, head, capsys):
    address = f"http://127.0.0.1:{head.server_port}"
    head.states = ["RUNNING"]
    waiting = threading.Thread(target=_wait_for_quiet, args=(address, 0.05), kwargs={"silent_s": 1})
    waiting.start()
    until(lambda: head.num_asked > 3, "nobody asks for jobs")
    assert waiting.is_alive()
    head.shutdown()
    head.server_close()
    waiting.join(60)
    assert not waiting.is_alive()
    assert "cannot tell whether a job runs" in capsys.readouterr().out


def test_a_driver_that_cannot_says_so_and_runs_nothing(home, tmp_path, capsys):
    (home / "ray_bootstrap_config.yaml").unlink()
    order = JobOrder(
        spec="not read",
        source="tiny.yaml",
        changes=(),
        store=str(tmp_path / "results"),
        submission_id="0",
        provenance={},
        address="auto",
        job_id="tiny-0",
        flags={"down_when_done": True},
    )
    (tmp_path / "order.json").write_text(order.to_json())
    assert run_job(str(tmp_path / "order.json")) == 2
    assert "Error: --down-when-done: this is not the head" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
