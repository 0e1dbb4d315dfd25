"""Signs of life of running attempts: small files that are renewed while a trial runs."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from ldru_study.errors import StoreError
from ldru_study.results.processes import is_running
from ldru_study.results.store import Store

RENEW_S = 5.0
# a beat older than this is no sign of life; several renewals may be late on a busy machine
STALE_S = 60.0
_FOLDER = "heartbeats"


@dataclass(frozen=True)
class Heartbeat:
    """What a running attempt says of itself.

    ``driver_pid`` is the process, on ``driver_host``, that ordered the work: when it is dead, so
    is the work.
    ``at`` is in seconds since 1970.
    """

    trial_id: str
    attempt_id: str
    host: str
    pid: int
    driver_pid: int
    step: int
    steps: int
    at: float
    driver_host: str = ""
    validation_accuracy: float | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the attempt still runs, as far as can be told from here."""
        if time.time() - self.at > STALE_S:
            return False
        # on its own host a dead process is seen at once, without waiting for the beat to age
        processes = ((self.host, self.pid), (self.driver_host or self.host, self.driver_pid))
        here = socket.gethostname()
        return all(is_running(pid) for host, pid in processes if host == here)


@dataclass
class Pulse:
    """What a running attempt sets, to be told with its next beat."""

    step: int = 0
    validation_accuracy: float | None = None


@contextmanager
def beating(
    store: Store, trial_id: str, attempt_id: str, *, driver_pid: int, driver_host: str, steps: int
) -> Iterator[Pulse]:
    """Renew an attempt's heartbeat until the block ends.

    Yields:
        What the caller sets as training goes on.
    """
    pulse = Pulse()
    name = f"{_FOLDER}/{attempt_id}.json"
    beat = Heartbeat(
        trial_id,
        attempt_id,
        socket.gethostname(),
        os.getpid(),
        driver_pid,
        step=0,
        steps=steps,
        at=0,
        driver_host=driver_host,
    )
    over = threading.Event()

    def renew() -> None:
        while True:
            now = replace(beat, at=time.time(), **asdict(pulse))
            # a missed beat only makes this attempt look older; its rows are what counts, and the
            # end of the attempt must not wait for a store that is away
            with suppress(StoreError):
                store.files.write(name, json.dumps(asdict(now)).encode(), patience_s=0)
            if over.wait(RENEW_S):
                return

    thread = threading.Thread(target=renew, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        over.set()
        thread.join()
        # one that stays behind grows old
        with suppress(StoreError):
            store.files.delete(name, patience_s=0)


def read_heartbeats(store: Store) -> list[Heartbeat]:
    """Return the newest beat of every attempt that has one, alive or not."""
    beats = []
    for entry in store.files.list(_FOLDER):
        try:
            beats.append(Heartbeat(**json.loads(store.files.read(entry.name))))
        except (FileNotFoundError, ValueError, TypeError):
            # ended between listing and reading, or written by another version
            continue
    return beats


def forget_dead(store: Store) -> None:
    """Delete the heartbeats of attempts that are over."""
    for beat in read_heartbeats(store):
        if not beat.is_alive:
            store.files.delete(f"{_FOLDER}/{beat.attempt_id}.json")
