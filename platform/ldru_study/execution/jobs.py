"""A study as a Ray job: this checkout's code and this spec, run by a driver on the cluster."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import requests
from ray.job_submission import JobSubmissionClient

from ldru_study.errors import StudyError
from ldru_study.execution.token import find_token

# these set a level of their own when they are imported
for _name in ("dashboard.modules.dashboard_sdk", "_private.runtime_env.packaging"):
    logging.getLogger(f"ray.{_name}").setLevel(logging.ERROR)

_TIMEOUT_S = 15.0
_LOG_LINES = 20
_ROOTS = {"platform/ldru_study": "ldru_study", "kernels/ldru_kernels": "ldru_kernels"}
ORDER_FILE = "order.json"


class UnreachableError(StudyError):
    """A cluster that cannot be reached, or that does not let us in."""

    exit_code = 6


@dataclass(frozen=True)
class JobOrder:
    """What the driver on the cluster is told: everything but the code.

    ``spec`` is the text of the study file and ``changes`` its ``--set`` arguments; ``provenance``
    is the record of the machine that submitted. With a ``ratio`` the study is not submitted but
    refined to it.
    """

    spec: str
    source: str
    changes: tuple[str, ...]
    store: str
    submission_id: str
    provenance: Mapping[str, Any]
    address: str
    job_id: str
    flags: Mapping[str, bool] = field(default_factory=dict)
    ratio: float | None = None

    def to_json(self) -> str:
        """Return the order as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> JobOrder:
        """Return the order that `to_json` wrote."""
        raw = json.loads(text)
        return cls(**raw | {"changes": tuple(raw["changes"])})


def reach(address: str) -> dict[str, Any]:
    """Return what a cluster says of its versions.

    Args:
        address: of its dashboard, such as ``http://127.0.0.1:8265``.

    Raises:
        UnreachableError: there is no answer, the token is missing or wrong, or its Ray is another.
    """
    try:
        answer = requests.get(f"{address}/api/version", headers=_headers(), timeout=_TIMEOUT_S)
    except requests.RequestException as error:
        raise UnreachableError(
            f"--address {address}: no answer ({_first_line(error)}). Is the cluster up, and does "
            "the tunnel to its dashboard stand (`ray dashboard cluster.yaml`)? Nothing is lost: "
            "what was committed stays in the store, and the same command goes on."
        ) from None
    _check_token(address, answer.status_code)
    try:
        answer.raise_for_status()
        versions: dict[str, Any] = answer.json()
        theirs = str(versions["ray_version"])
    except (requests.RequestException, ValueError, KeyError) as error:
        raise UnreachableError(
            f"--address {address}: answers, but not as a Ray dashboard does "
            f"({_first_line(error)}). Give the address of the head's dashboard, port 8265 unless "
            "it was changed."
        ) from None
    ours = importlib.metadata.version("ray")
    if theirs != ours:
        raise UnreachableError(
            f"--address {address}: the cluster runs Ray {theirs}, this machine {ours}. A study is "
            f"run by one version: install ray=={theirs} here, or set the cluster up with "
            "constraints.txt again."
        )
    return versions


def _check_token(address: str, status: int) -> None:
    if status not in (401, 403):
        return
    has = find_token() is not None
    what = "refuses the token that was sent" if has else "wants a token, and none was found"
    raise UnreachableError(
        f"--address {address}: the cluster {what}. Copy the token of the head "
        "(~/.ray/auth_token there) to ~/.ray/auth_token here, or give it as RAY_AUTH_TOKEN or "
        "the path of its file as RAY_AUTH_TOKEN_PATH."
    )


@dataclass(frozen=True)
class JobState:
    """How far a job is, by Ray: its state in lower case, Ray's message, and once over its end."""

    state: str
    message: str = ""
    exit_code: int | None = None
    log: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing of the job runs any more."""
        return self.state in ("succeeded", "failed", "stopped", "gone")


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard.

    Raises:
        UnreachableError: see `reach`.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        reach(self.address)
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"), self._told():
            self.client = JobSubmissionClient(self.address, headers=_headers())

    def send(self, order: JobOrder) -> None:
        """Start the job of an order.

        Raises:
            UnreachableError: the cluster does not take it.
        """
        with _staged(order) as folder, self._told():
            self.client.submit_job(
                entrypoint=f"python -m ldru_study.cli.job {ORDER_FILE}",
                submission_id=order.job_id,
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {
                        "PYTHONPATH": ":".join(root.split("/")[0] for root in _ROOTS),
                        "RAY_USAGE_STATS_ENABLED": "0",
                    },
                },
                metadata={
                    "study": order.job_id.rpartition("-")[0],
                    "store": order.store,
                    "revision": str(order.provenance.get("revision", "")),
                },
            )

    def state(self, job_id: str) -> JobState:
        """Return how far a job is; ``gone`` when the cluster does not know it.

        Raises:
            UnreachableError: the cluster does not answer.
        """
        try:
            with self._told():
                info = self.client.get_job_info(job_id)
                state = str(info.status.value).lower()
                found = JobState(state, str(info.message or ""), info.driver_exit_code)
                if not found.is_over:
                    return found
                lines = self.client.get_job_logs(job_id).splitlines()
                return replace(found, log="\n".join(lines[-_LOG_LINES:]))
        except UnreachableError as error:
            if "does not exist" in str(error):
                return JobState("gone")
            raise

    def stop(self, job_id: str) -> None:
        """End a job's processes.

        Raises:
            UnreachableError: the cluster does not answer.
        """
        with self._told():
            self.client.stop_job(job_id)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what Ray's client raises into one kind of error."""
        try:
            yield
        except (RuntimeError, ConnectionError, requests.RequestException) as error:
            raise UnreachableError(
                f"--address {self.address}: {_first_line(error)} Nothing is lost: the same "
                "command goes on once the cluster answers."
            ) from error


@contextmanager
def _staged(order: JobOrder) -> Iterator[Path]:
    """Yield a folder with the code that runs here and the order, and nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="ldru-study-job-"))
    try:
        for place, package in _ROOTS.items():
            # found, not imported: the kernels bring torch, which sends nothing
            found = importlib.util.find_spec(package)
            assert found is not None and found.origin is not None  # noqa: S101 - our own invariant
            source = Path(found.origin).parent
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, folder / place, ignore=ignored)
        (folder / ORDER_FILE).write_text(order.to_json())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _without(*names: str) -> Iterator[None]:
    # Ray lets these override the address that it is given
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _headers() -> dict[str, str]:
    token = find_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= 300 else line[:297] + "..."
