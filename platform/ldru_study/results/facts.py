"""What the store's files say, computed at every read: holdings for planning, states for status."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ldru_study.results.heartbeat import Heartbeat, read_heartbeats
from ldru_study.results.rows import newest, number_trials, only_newest, select
from ldru_study.results.schema import QUESTION
from ldru_study.results.store import Store
from ldru_study.results.table import Damage
from ldru_study.spec.plan import Holdings, Question

WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Facts:
    """One reading of a store, or of some of its trials.

    ``answers`` holds every row of evaluations, ``attempts`` every start and end, ``beats`` the
    attempts that run now. All else follows from these and is computed when first asked for.
    """

    store: Store
    answers: pa.Table
    attempts: pa.Table
    beats: Mapping[str, Heartbeat]
    damage: tuple[Damage, ...]

    @cached_property
    def current(self) -> pa.Table:
        """The rows of evaluations that count: one per trial and question, in no order."""
        return only_newest(self.answers, QUESTION)

    @cached_property
    def evaluations(self) -> pa.Table:
        """The rows that count, sorted."""
        return newest(self.current, QUESTION)

    @cached_property
    def answered(self) -> Mapping[str, frozenset[Question]]:
        """The questions that each trial has answered."""
        trial, trial_ids = number_trials(self.current)
        rows = self.current.select(list(QUESTION)).append_column("trial", trial)
        question = ", ".join(QUESTION)
        # most trials answered the same: their sets are told apart by hashes and made once
        groups = select(
            "select any_value(trial) as trial, list(trial) as trials from ("
            f"  select trial, count(*) as n, sum(hash({question})) as s,"
            f"    bit_xor(hash({question})) as x from rows group by trial"
            ") group by n, s, x",
            rows,
        )
        questions = select(
            f"select trial, list(row({question})) from rows semi join groups using (trial) "
            "group by trial",
            rows,
            groups=groups,
        )
        questions_of = dict(zip(*(column.to_pylist() for column in questions), strict=True))
        answered = {}
        names = trial_ids.to_pylist()
        for one, trials in zip(*(column.to_pylist() for column in groups), strict=True):
            found = frozenset(Question(*question.values()) for question in questions_of[one])
            answered.update(dict.fromkeys((names[number] for number in trials), found))
        return answered

    @cached_property
    def trained(self) -> frozenset[str]:
        """The trials whose weights are there; asking lists all checkpoints."""
        return frozenset(
            entry.name.split("/")[1]
            for entry in self.store.files.list("checkpoints", recursive=True)
            if entry.name.endswith(f"/{WEIGHTS_FILE}")
        )

    @cached_property
    def started(self) -> Mapping[str, tuple[str, ...]]:
        """All attempts at each trial, oldest first."""
        found = select(
            "select trial_id, list(attempt_id order by attempt_id) from rows "
            "where event = 'start' group by trial_id",
            self.attempts,
        )
        trial_ids, attempts = (column.to_pylist() for column in found)
        return dict(zip(trial_ids, map(tuple, attempts), strict=True))

    @cached_property
    def ended(self) -> Mapping[str, Mapping[str, Any]]:
        """How the newest ended attempt at each trial ended."""
        return {row["trial_id"]: row for row in self._ends.to_pylist()}

    @cached_property
    def _ends(self) -> pa.Table:
        ends = self.attempts.filter(pc.equal(self.attempts["event"], "end"))
        return newest(ends.select(["trial_id", "attempt_id", *_END]), ())

    @cached_property
    def holdings(self) -> Holdings:
        """The facts that planning needs."""
        diverged = self._ends.filter(pc.equal(self._ends["cause"], "diverged"))
        return Holdings(
            trained=_WhenAsked(lambda: self.trained),
            answered=self.answered,
            diverged=frozenset(diverged["trial_id"].to_pylist()),
            running=frozenset(self.beats),
        )

    def state_of(self, trial_id: str, questions: Collection[Question]) -> tuple[str, str | None]:
        """Return a trial's state and, when it failed, the cause.

        The states are ``done`` (every question is answered, or the training is over when none is
        asked), ``running``, ``failed``, ``pruned`` (stopped early by a search), ``interrupted``
        (an attempt stopped without an end) and ``waiting``.
        """
        answered = self.answered.get(trial_id, frozenset())
        if answered.issuperset(questions) if questions else trial_id in self.trained:
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


_END = (
    *("state", "cause", "message", "traceback", "step", "seconds"),
    *("micro_batch_size", "cpus", "gpus"),
)


@dataclass(frozen=True)
class _WhenAsked(Container[str]):
    """A set that is made when it is first asked for a member; ``members`` remembers it."""

    members: Callable[[], frozenset[str]]

    def __contains__(self, member: object) -> bool:
        return member in self.members()


def _without_ended(beats: dict[str, Heartbeat], attempts: pa.Table) -> dict[str, Heartbeat]:
    """Return the beats of attempts that have no end: one that was ended may beat once more."""
    if not beats:
        return beats
    running = pa.array([beat.attempt_id for beat in beats.values()], pa.string())
    rows = attempts.filter(pc.is_in(attempts["attempt_id"], running))
    ended = set(rows.filter(pc.equal(rows["event"], "end"))["attempt_id"].to_pylist())
    return {key: beat for key, beat in beats.items() if beat.attempt_id not in ended}


def read_facts(store: Store, trial_ids: Collection[str] | None = None) -> Facts:
    """Read everything that decides states and plans.

    Args:
        store: what is read.
        trial_ids: the trials that matter; None: all. Files of others are not read.

    Raises:
        StoreError: the store cannot be listed.
    """
    # in the order in which they vanish or come: what has stopped beating has committed its rows
    beats = {beat.trial_id: beat for beat in read_heartbeats(store) if beat.is_alive}
    if trial_ids is not None:
        beats = {trial_id: beat for trial_id, beat in beats.items() if trial_id in trial_ids}
    attempts, more = store.read("attempts", trial_ids)
    beats = _without_ended(beats, attempts)
    answers, damage = store.read("evaluations", trial_ids)
    return Facts(store, answers, attempts, beats, (*damage, *more))
