"""Close the record of attempts whose process is gone and could not do it itself."""

from __future__ import annotations

import datetime
from collections.abc import Collection

from ldru_study.results.facts import read_facts
from ldru_study.results.store import Store


def close_attempts(
    store: Store,
    trial_ids: Collection[str],
    *,
    state: str,
    cause: str,
    message: str,
    traceback: str | None = None,
) -> None:
    """Write an end for every attempt at these trials that has a start and none.

    Args:
        store: where the attempts are recorded.
        trial_ids: the trials.
        state: ``failed`` when the trial is given up, ``interrupted`` when it will be continued.
        cause: what ended the process.
        message: the same for a reader.
        traceback: what more is known of it.
    """
    attempts = read_facts(store).attempts.to_pylist()
    over = {row["attempt_id"] for row in attempts if row["event"] == "end"}
    end = {
        "event": "end",
        "state": state,
        "cause": cause,
        "message": message,
        "traceback": traceback,
        "at": datetime.datetime.now(datetime.UTC),
    }
    for start in attempts:
        if start["trial_id"] not in trial_ids or start["attempt_id"] in over:
            continue
        about = {key: start[key] for key in ("trial_id", "attempt_id", "study", "host", "pid")}
        row = dict.fromkeys(start) | about | end
        store.commit("attempts", f"{start['trial_id']}-{start['attempt_id']}-end", [row])
