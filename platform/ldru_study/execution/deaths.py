"""Close the record of attempts whose process is gone, and say why it is."""

from __future__ import annotations

import datetime
import socket
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.tune import TuneError

from ldru_study.errors import StoreError
from ldru_study.results.facts import read_facts
from ldru_study.results.schema import TABLES
from ldru_study.results.store import Store
from ldru_study.training.failures import (
    BUG,
    NODE_LOST,
    OUT_OF_MEMORY,
    PREEMPTED,
    STORE,
    WORKER_DIED,
    WorkerLostError,
)
from ldru_study.training.work import Work

_LOST = "its machine was lost"
_WORDS = (
    # Ray's own words for what befell an actor; the first that is found is the cause
    (PREEMPTED, ("preempted",), "its machine was taken away"),
    (
        NODE_LOST,
        ("node was terminated", "node has died", "node died", "node is dead", "node failure"),
        _LOST,
    ),
    (
        OUT_OF_MEMORY,
        ("OutOfMemory", "low on memory", "memory pressure"),
        "its machine ran out of memory, and Ray ended it",
    ),
)
_DIED = "the worker process died; killed for memory, by hand or with its machine"
# for how long a machine is waited for, and for how many at once
_PATIENCE_S = 2.0
_MOST_AT_ONCE = 32


def newest_error(trial: Any) -> BaseException | None:
    """Return what ended a Tune trial last; None when nobody says.

    `Trial.get_error` looks where Tune copies these files to, which is later, if ever.
    """
    if trial.pickled_error_file and Path(trial.pickled_error_file).exists():
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        return error if isinstance(error, BaseException) else None
    if trial.error_file and Path(trial.error_file).exists():
        text: BaseException = TuneError(Path(trial.error_file).read_text())
        return text
    return None


def cause_of_death(error: BaseException | None) -> tuple[str, str]:
    """Return the cause for which a trial is gone that could not record it, and a message.

    Args:
        error: what Ray says of it; None when it says nothing.
    """
    lost = getattr(error, "cause", error)
    if isinstance(lost, StoreError):
        return STORE, str(lost)
    if isinstance(lost, WorkerLostError):
        return lost.cause, lost.message
    is_gone = error is None or isinstance(error, ray.exceptions.RayError)
    if is_gone and not isinstance(error, ray.exceptions.RayTaskError):
        text = str(error)
        if getattr(error, "preempted", False):
            return PREEMPTED, "its machine was taken away"
        for cause, words, message in _WORDS:
            if any(word.lower() in text.lower() for word in words):
                return cause, message
        if isinstance(error, ray.exceptions.ActorUnavailableError) and _a_node_is_silent():
            return NODE_LOST, _LOST
        return WORKER_DIED, _DIED
    return BUG, str(error).strip().splitlines()[-1]


def _a_node_is_silent() -> bool:
    """Whether a machine does not answer that Ray still counts among the living.

    Ray takes up to half a minute to declare a machine dead. Who talks to a process there notices at
    once, but is only told that it cannot be reached.
    """
    alive = [(n["NodeManagerAddress"], n["NodeManagerPort"]) for n in ray.nodes() if n["Alive"]]
    with ThreadPoolExecutor(_MOST_AT_ONCE) as pool:
        return not all(pool.map(_answers, alive))


def _answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=_PATIENCE_S).close()
    except OSError:
        return False
    return True


def close_attempt(
    store: Store, work: Work, attempt_id: str, *, state: str, message: str, step: int
) -> None:
    """Write the end of an attempt that was ended from outside while it was well.

    Raises:
        StoreError: the store cannot be written.
    """
    trial_id = work.config.trial_id
    row = dict.fromkeys(TABLES["attempts"].names) | {
        "trial_id": trial_id,
        "attempt_id": attempt_id,
        "study": work.study,
        "event": "end",
        "state": state,
        "message": message,
        "step": step,
        "at": datetime.datetime.now(datetime.UTC),
    }
    store.commit("attempts", f"{trial_id}-{attempt_id}-end", [row])


def close_attempts(
    store: Store,
    trial_ids: Collection[str],
    *,
    state: str,
    cause: str,
    message: str,
    traceback: str | None = None,
) -> int:
    """Write an end for every attempt at these trials that has a start and none.

    Args:
        store: where the attempts are recorded.
        trial_ids: the trials.
        state: ``failed`` when the trial is given up, ``interrupted`` when it will be continued.
        cause: what ended the process.
        message: the same for a reader.
        traceback: what more is known of it.

    Returns:
        How many ends were written.

    Raises:
        StoreError: the store cannot be read, or an end cannot be written; the others are, if they
            can be.
    """
    rows = read_facts(store).attempts
    mine = rows.filter(pc.is_in(rows["trial_id"], pa.array(list(trial_ids), pa.string())))
    attempts = mine.to_pylist()
    over = {row["attempt_id"] for row in attempts if row["event"] == "end"}
    now = datetime.datetime.now(datetime.UTC)
    end: dict[str, Any] = {"event": "end", "state": state, "cause": cause, "message": message}
    end |= {"traceback": traceback, "at": now}
    opened = [row for row in attempts if row["event"] == "start" and row["attempt_id"] not in over]
    failure: StoreError | None = None
    for start in opened:
        about = {key: start[key] for key in _KEPT} | {
            "seconds": (now - start["at"]).total_seconds()
        }
        row = dict.fromkeys(start) | about | end
        try:
            store.commit("attempts", f"{start['trial_id']}-{start['attempt_id']}-end", [row])
        except StoreError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return len(opened)


_KEPT = ("trial_id", "attempt_id", "study", "host", "pid", "cpus", "gpus")
