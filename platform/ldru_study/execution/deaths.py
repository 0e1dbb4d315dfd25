"""Close the record of attempts whose process is gone and could not do it itself."""

from __future__ import annotations

import datetime

from ldru_study.results.facts import read_facts
from ldru_study.results.store import Store
from ldru_study.training.failures import WORKER_DIED


def close_attempts(
    store: Store, trial_id: str, *, final: bool = False, traceback: str | None = None
) -> None:
    """Write an end for every attempt at a trial that has a start and none.

    Args:
        store: where the attempts are recorded.
        trial_id: the trial.
        final: whether the trial is given up (``failed``) or tried again (``interrupted``).
        traceback: what is known of the death.
    """
    attempts = read_facts(store).attempts.to_pylist()
    mine = [row for row in attempts if row["trial_id"] == trial_id]
    over = {row["attempt_id"] for row in mine if row["event"] == "end"}
    for start in mine:
        if start["event"] != "start" or start["attempt_id"] in over:
            continue
        end = {
            "event": "end",
            "state": "failed" if final else "interrupted",
            "cause": WORKER_DIED,
            "message": "the worker process died",
            "traceback": traceback,
            "at": datetime.datetime.now(datetime.UTC),
        }
        row = dict.fromkeys(start) | {
            key: start[key] for key in ("trial_id", "attempt_id", "study", "host", "pid")
        }
        store.commit("attempts", f"{trial_id}-{start['attempt_id']}-end", [row | end])
