"""Follow a study that is driven elsewhere, by what it leaves in the store."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from ldru_study.results.drivers import read_drivers
from ldru_study.results.facts import Facts, read_facts
from ldru_study.results.logs import LogReader
from ldru_study.results.store import Store
from ldru_study.spec.trial import TrialConfig
from ldru_study.training.work import Outcome, Progress, Work

if TYPE_CHECKING:
    from ldru_study.execution.tune import Listener


class Follower(ABC):
    """Tells a listener what becomes of a study, as a run in this process would.

    Args:
        store: where the study lives.
        study: its name.
        listener: told of what happens from now on.
    """

    def __init__(self, store: Store, study: str, listener: Listener) -> None:
        self.store, self.study, self.listener = store, study, listener

    @abstractmethod
    def poll(self) -> None:
        """Tell what happened since the last call.

        Raises:
            StoreError: the store cannot be read.
        """

    def is_driven(self) -> bool:
        """Whether a driver of the study gives signs of life."""
        return any(driver.is_alive for driver in read_drivers(self.store, self.study))


class LogFollower(Follower):
    """Follows one submission by the lines of its log.

    Args:
        store: see `Follower`, and so on.
        study: the same.
        listener: the same.
        submission_id: whose log.
    """

    def __init__(self, store: Store, study: str, listener: Listener, submission_id: str) -> None:
        super().__init__(store, study, listener)
        self._reader = LogReader(store, study, submission_id)

    def poll(self) -> None:
        """See `Follower`; the lines come without their time."""
        for line in self._reader.new_lines():
            self.listener.said(line.partition(" ")[2])


class TrialFollower(Follower):
    """Follows all trials by the attempts and heartbeats that they leave."""

    def __init__(self, store: Store, study: str, listener: Listener) -> None:
        super().__init__(store, study, listener)
        self._works: dict[str, Work] = {}
        self._begun: set[str] = set()
        self._ended = set(_ends(read_facts(store)))

    def poll(self) -> None:
        """See `Follower`."""
        facts = read_facts(self.store)
        for beat in facts.beats.values():
            work = self._work(beat.trial_id)
            if work is None or beat.attempt_id in self._ended:
                continue
            if beat.attempt_id not in self._begun:
                self._begun.add(beat.attempt_id)
                self.listener.started(work)
            self.listener.progressed(
                work,
                Progress(
                    beat.step, beat.steps, beat.validation_accuracy, attempt_id=beat.attempt_id
                ),
            )
        for attempt_id, row in _ends(facts).items():
            if attempt_id in self._ended:
                continue
            self._ended.add(attempt_id)
            at = facts.attempts.slice(row, 1).to_pylist()[0]
            work = self._work(at["trial_id"])
            if work is None or at["study"] != self.study:
                continue
            if at["state"] == "interrupted":
                self.listener.said(f"{work.cell} seed {work.config.seed}: {at['message']}.")
                continue
            seconds = at["seconds"] or 0.0
            self.listener.ended(
                work, Outcome(at["state"], at["cause"], at["message"], seconds, attempt_id)
            )

    def _work(self, trial_id: str) -> Work | None:
        if trial_id not in self._works:
            self._read_works()
        return self._works.get(trial_id)

    def _read_works(self) -> None:
        # a search adds trials while it runs
        resolved = self.store.study(self.study)
        found: list[tuple[str, dict[str, Any], int | None]] = []
        searches = {}
        for cell in resolved["cells"]:
            if "search" in cell:
                searches[cell["search"]["search_id"]] = cell["cell"]
            for seed, _ in zip(resolved["seeds"], cell["trial_ids"], strict=False):
                found.append((cell["cell"], cell["config"] | {"seed": seed}, None))
        rows, _ = self.store.read("suggestions")
        for row in rows.to_pylist() if searches else ():
            if row["search_id"] in searches and row["config"] is not None:
                config = json.loads(row["config"])
                found.append((searches[row["search_id"]], config, row["number"]))
        for cell, raw, suggestion in found:
            config = TrialConfig.model_validate(raw)
            self._works[config.trial_id] = Work(
                config, (), self.study, self.store.uri, cell=cell, suggestion=suggestion
            )


def _ends(facts: Facts) -> dict[str, int]:
    """Return the row of the end of every ended attempt."""
    attempts = facts.attempts
    is_end = pc.equal(attempts["event"], "end")
    rows = pc.indices_nonzero(is_end).to_pylist()
    return dict(zip(attempts["attempt_id"].filter(is_end).to_pylist(), rows, strict=True))
