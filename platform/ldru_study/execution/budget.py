"""What a study may cost, and what it has cost so far."""

from __future__ import annotations

import threading
import time

from ldru_study.execution.submit import Submission
from ldru_study.results.facts import read_facts
from ldru_study.training.work import Outcome, Progress, Work


class Budget:
    """Counts GPU hours and wall-clock time while a study runs; a listener.

    Args:
        submission: whose budget; GPU hours of earlier submissions count too.
    """

    def __init__(self, submission: Submission) -> None:
        file = submission.spec.file
        self.budget = file.budget
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, float]] = {}
        self._gpu_seconds = 0.0
        if self.budget.gpu_hours is not None:
            self._gpu_seconds = _gpu_seconds(submission)

    def spent(self) -> str | None:
        """Say which budget is spent, or None while there is some left."""
        now = time.monotonic()
        most = self.budget.wall_clock
        if most is not None and now - self._begun >= most:
            return f"the budget of {most:g} s of wall clock is spent"
        hours = self.budget.gpu_hours
        if hours is None:
            return None
        with self._lock:
            running = sum((now - since) * gpus for since, gpus in self._running.values())
        if self._gpu_seconds + running >= 3600 * hours:
            return f"the budget of {hours:g} GPU hours is spent"
        return None

    def started(self, work: Work) -> None:
        """Begin to count an attempt; one that it replaces is over."""
        self._stop(work)
        with self._lock:
            self._running[work.config.trial_id] = time.monotonic(), work.gpus

    def progressed(self, work: Work, progress: Progress) -> None:
        """Count nothing: time passes by itself."""

    def ended(self, work: Work, outcome: Outcome) -> None:
        """Add what an attempt took."""
        self._stop(work)

    def said(self, text: str) -> None:
        """Count nothing."""

    def _stop(self, work: Work) -> None:
        with self._lock:
            if (counted := self._running.pop(work.config.trial_id, None)) is not None:
                since, gpus = counted
                self._gpu_seconds += (time.monotonic() - since) * gpus


def _gpu_seconds(submission: Submission) -> float:
    """Return the GPU seconds of the study's ended attempts, by its records."""
    attempts = read_facts(submission.store).attempts.to_pylist()
    name = submission.spec.name
    starts = {
        row["attempt_id"]: row
        for row in attempts
        if row["event"] == "start" and row["study"] == name
    }
    total = 0.0
    for end in attempts:
        start = starts.get(end["attempt_id"])
        if end["event"] == "end" and start is not None:
            total += (end["at"] - start["at"]).total_seconds() * (start["gpus"] or 0.0)
    return total
