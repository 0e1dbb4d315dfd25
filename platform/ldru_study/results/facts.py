"""What the store's files say, computed at every read: holdings for planning, states for status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from ldru_study.results.heartbeat import Heartbeat, read_heartbeats
from ldru_study.results.store import Damage, Store
from ldru_study.spec.plan import Holdings, Question

WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Facts:
    """One reading of a store.

    ``evaluations`` and ``metrics`` hold committed rows, one per trial and question (or step);
    ``ended`` maps a trial to the end of its newest ended attempt, ``started`` to all attempt ids;
    ``beats`` are the attempts that run now.
    """

    evaluations: pa.Table
    attempts: pa.Table
    trained: frozenset[str]
    ended: Mapping[str, Mapping[str, Any]]
    started: Mapping[str, tuple[str, ...]]
    beats: Mapping[str, Heartbeat]
    damage: tuple[Damage, ...]

    @cached_property
    def holdings(self) -> Holdings:
        """The facts that planning needs."""
        answered: dict[str, set[Question]] = {}
        rows = self.evaluations.select(["trial_id", "length", "num_total", "eval_seed"])
        for trial_id, *question in zip(*(column.to_pylist() for column in rows), strict=True):
            answered.setdefault(trial_id, set()).add(Question(*question))
        return Holdings(
            trained=self.trained,
            answered={trial_id: frozenset(found) for trial_id, found in answered.items()},
            diverged=frozenset(
                trial_id for trial_id, end in self.ended.items() if end["cause"] == "diverged"
            ),
            running=frozenset(self.beats),
        )

    def state_of(self, trial_id: str, questions: Sequence[Question]) -> tuple[str, str | None]:
        """Return a trial's state and, when it failed, the cause.

        The states are ``done`` (every question is answered, or the training is over when none is
        asked), ``running``, ``failed``, ``pruned`` (stopped early by a search), ``interrupted``
        (an attempt stopped without an end) and ``waiting``.
        """
        answered = self.holdings.answered.get(trial_id, frozenset())
        if set(questions) <= answered if questions else trial_id in self.trained:
            return "done", None
        if trial_id in self.beats:
            return "running", None
        attempts = self.started.get(trial_id, ())
        end = self.ended.get(trial_id)
        if end is not None and (not attempts or end["attempt_id"] >= attempts[-1]):
            # an attempt that ended well answered other questions than these
            if end["state"] in ("failed", "pruned"):
                return end["state"], end["cause"]
            return "interrupted" if end["state"] == "interrupted" else "waiting", None
        return ("interrupted", None) if attempts else ("waiting", None)


def read_facts(store: Store) -> Facts:
    """Read everything that decides states and plans.

    Raises:
        StoreError: the store cannot be listed.
    """
    evaluations, damage = store.read("evaluations")
    attempts, more = store.read("attempts")
    started: dict[str, list[str]] = {}
    ended: dict[str, Mapping[str, Any]] = {}
    for row in sorted(attempts.to_pylist(), key=lambda row: row["attempt_id"]):
        if row["event"] == "start":
            started.setdefault(row["trial_id"], []).append(row["attempt_id"])
        else:
            ended[row["trial_id"]] = row
    trained = {
        entry.name.split("/")[1]
        for entry in store.files.list("checkpoints", recursive=True)
        if entry.name.endswith(f"/{WEIGHTS_FILE}")
    }
    return Facts(
        evaluations=newest(evaluations, ("length", "num_total", "eval_seed")),
        attempts=attempts,
        trained=frozenset(trained),
        ended=ended,
        started={trial_id: tuple(ids) for trial_id, ids in started.items()},
        beats={beat.trial_id: beat for beat in read_heartbeats(store) if beat.is_alive},
        damage=(*damage, *more),
    )


def newest(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Keep, for every trial and ``key``, the rows of the newest attempt: exactly once."""
    columns = ["trial_id", *key]
    best = rows.group_by(columns).aggregate([("attempt_id", "max")])
    best = best.rename_columns([*columns, "attempt_id"])
    return rows.join(best, [*columns, "attempt_id"], join_type="left semi").sort_by(
        [(column, "ascending") for column in columns]
    )
