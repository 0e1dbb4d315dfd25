"""Signs of life of submissions, and the requests to stop that reach them through the store.

Whoever sees the store can tell whether a study is driven, by whom, and ask the driver to stop;
neither needs the driver's machine, its cluster or its network.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal

from ldru_study.errors import StoreError
from ldru_study.results.processes import is_running
from ldru_study.results.store import Store

StopMode = Literal["drain", "now"]

# a driver that has not renewed its record for this long is taken for dead
_STALE_S = 60.0
_RECORDS, _REQUESTS = "drivers", "stops"


@dataclass(frozen=True)
class DriverRecord:
    """What the driver of a submission says of itself.

    ``address`` and ``job_id`` name the Ray job that it is, '' without one; ``at`` is in seconds
    since 1970; ``stopping`` is the mode of a request that it follows already.
    """

    study: str
    submission_id: str
    host: str
    pid: int
    address: str = ""
    job_id: str = ""
    stopping: StopMode | None = None
    at: float = 0.0

    @property
    def is_alive(self) -> bool:
        """Whether the driver still runs, as far as can be told from here."""
        if time.time() - self.at > _STALE_S:
            return False
        return self.host != socket.gethostname() or is_running(self.pid)


def new_record(
    study: str, submission_id: str, *, address: str = "", job_id: str = ""
) -> DriverRecord:
    """Return the record of this process."""
    return DriverRecord(study, submission_id, socket.gethostname(), os.getpid(), address, job_id)


def renew(store: Store, record: DriverRecord) -> None:
    """Write the record with the time of now.

    Raises:
        StoreError: the store cannot be written.
    """
    now = asdict(record) | {"at": time.time()}
    store.files.write(_record_name(record.submission_id), json.dumps(now).encode())


def read_drivers(store: Store, study: str | None = None) -> list[DriverRecord]:
    """Return the newest record of every driver, of one study or of all, alive or not."""
    found = []
    for entry in store.files.list(_RECORDS):
        # ended between listing and reading, or written by another version
        with suppress(FileNotFoundError, ValueError, TypeError):
            record = DriverRecord(**json.loads(store.files.read(entry.name)))
            if study is None or record.study == study:
                found.append(record)
    return found


def forget(store: Store, submission_id: str) -> None:
    """Remove the record of a driver that is over, and the requests to it."""
    for name in (_record_name(submission_id), _request_name(submission_id)):
        with suppress(StoreError):
            store.files.delete(name)


def request_stop(store: Store, submission_id: str, mode: StopMode) -> None:
    """Ask a driver to stop; a request of mode ``now`` replaces one to drain.

    Raises:
        StoreError: the store cannot be written.
    """
    store.files.write(_request_name(submission_id), json.dumps({"mode": mode}).encode())


def requested_stop(store: Store, submission_id: str) -> StopMode | None:
    """Return the mode of the request to a driver, if there is one.

    Raises:
        StoreError: the store cannot be read.
    """
    name = _request_name(submission_id)
    try:
        mode = json.loads(store.files.read(name)).get("mode")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError):
        # somebody wanted it to stop, whatever else they wrote
        return "drain"
    return "now" if mode == "now" else "drain"


def _record_name(submission_id: str) -> str:
    return f"{_RECORDS}/{submission_id}.json"


def _request_name(submission_id: str) -> str:
    return f"{_REQUESTS}/{submission_id}.json"
