"""Take a cluster of `ray up` down from its own head once no job runs on it.

Run as a module this is the process that waits. It imports all it needs at once: the code of the job
that started it may be gone before it ends.
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from ldru_study.errors import StudyError
from ldru_study.execution.token import find_token

# on the head, as cluster.yaml starts it
DASHBOARD = "http://127.0.0.1:8265"
# `ray up` leaves the cluster file here, in JSON, with everything that it found out
_BOOTSTRAP = "~/ray_bootstrap_config.yaml"
_LOG = "~/ldru-study-down.log"
# long enough for the next submit of somebody who saw the last study end; also between two tries
_QUIET_S = 60.0
_POLL_S = 5.0
# a head that answers nobody for so long runs no job that anybody could see
_SILENT_S = 600.0


class CannotTakeDownError(StudyError):
    """This process cannot end the cluster it runs on."""


def can_take_down() -> None:
    """Return when this machine is the head of a cluster that it can take down, itself included.

    Raises:
        CannotTakeDownError: it is not.
    """
    import yaml

    path = Path(_BOOTSTRAP).expanduser()
    try:
        config = yaml.safe_load(path.read_text())
        head = config["available_node_types"][config["head_node_type"]]["node_config"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise CannotTakeDownError(
            f"--down-when-done: this is not the head of a cluster that `ray up` started "
            f"({path}: {_reason(error)}). Leave the option out, and end the cluster where it was "
            "started."
        ) from None
    if head.get("InstanceInitiatedShutdownBehavior") != "terminate":
        raise CannotTakeDownError(
            "--down-when-done: the head would only stop, and its disk go on costing. Add "
            "'InstanceInitiatedShutdownBehavior: terminate' to its node_config and `ray up` again."
        )
    if missing := [name for name in ("ray", "sudo") if shutil.which(name) is None]:
        raise CannotTakeDownError(
            f"--down-when-done: no {' and no '.join(missing)} on this machine's PATH. "
            "Start the head from the environment that has them."
        )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError):
        return str(error.strerror)
    return "is no cluster file"


def down_when_done(*, dashboard: str = DASHBOARD, quiet_s: float = _QUIET_S) -> Path:
    """Leave a process behind that takes this cluster down when no job runs on it any more.

    It outlives the caller, waits for other people's jobs too, and ends the head last.

    Args:
        dashboard: where this head answers.
        quiet_s: how long the cluster must have been without a job.

    Returns:
        The log of that process.

    Raises:
        CannotTakeDownError: see `can_take_down`.
    """
    can_take_down()
    log = Path(_LOG).expanduser()
    # the job's folder and its relative PYTHONPATH go when the job does
    source_root = Path(__file__).parents[2]
    with log.open("a") as stream:
        subprocess.Popen(
            [sys.executable, "-m", __name__, dashboard, str(quiet_s)],
            cwd=Path.home(),
            env=os.environ | {"PYTHONPATH": str(source_root)},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            # a session of its own: Ray ends the group of a job's processes with the job
            start_new_session=True,
        )
    return log


def _take_down(dashboard: str, quiet_s: float) -> None:
    """Wait until no job has run for ``quiet_s``, then end the workers, then this machine."""
    _say(f"waiting until no job runs on {dashboard}")
    _wait_for_quiet(dashboard, quiet_s)
    _say("no job runs: taking the cluster down")
    # first of all the autoscaler, which would replace what is taken away
    _run("ray", "stop")
    # the head goes last and only when no worker is left: nobody else would end them
    while _run("ray", "down", "--yes", "--workers-only", str(Path(_BOOTSTRAP).expanduser())):
        _say(f"workers are left; trying again in {quiet_s:g} s")
        time.sleep(quiet_s)
    _run("sudo", "shutdown", "-h", "now")


def _wait_for_quiet(dashboard: str, quiet_s: float, *, silent_s: float = _SILENT_S) -> None:
    last_job = last_answer = time.monotonic()
    while True:
        now = time.monotonic()
        try:
            runs = a_job_runs(dashboard)
            last_answer = now
            if runs:
                last_job = now
        except (OSError, ValueError, http.client.HTTPException) as error:
            _say(f"cannot tell whether a job runs: {error}")
            last_job = now
            if now - last_answer > silent_s:
                return
        if now - last_job >= quiet_s:
            return
        time.sleep(min(_POLL_S, quiet_s))


def a_job_runs(dashboard: str) -> bool:
    """Whether anybody's job or driver runs on a cluster.

    Args:
        dashboard: where its head answers.

    Raises:
        OSError: it does not, or refuses the token.
        ValueError: it answers something else.
    """
    # not by Ray's client: Ray would stay in memory for as long as the study runs
    token = find_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{dashboard}/api/jobs/", headers=headers)
    with urllib.request.urlopen(request, timeout=_POLL_S) as answer:
        return any(job["status"] in ("PENDING", "RUNNING") for job in json.load(answer))


def _run(*command: str) -> int:
    _say(f"$ {' '.join(command)}")
    return subprocess.run(command, check=False).returncode


def _say(text: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    sys.stdout.write(f"{now:%Y-%m-%d %H:%M:%S} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _take_down(sys.argv[1], float(sys.argv[2]))
