"""How far a study is, while it runs: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from ldru_study.spec.plan import CellPlan, StudyPlan
from ldru_study.training.work import Outcome, Progress, Work

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# a plain line on running trials at most this often
_LINE_EVERY_S = 30.0


@dataclass
class _Running:
    """A trial that runs now: since when, at which step it began and where it is."""

    since: float
    first_step: int | None = None
    now: Progress | None = None


@dataclass
class CellProgress:
    """What is known of one cell of the grid.

    ``accuracies`` are the latest validation accuracies by trial, ``seconds`` the durations of the
    trials that ended.
    """

    key: str
    num_trials: int
    num_done: int = 0
    num_failed: int = 0
    num_left: int = 0
    accuracies: dict[str, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    running: dict[str, _Running] = field(default_factory=dict)

    def rate(self, now: float) -> float | None:
        """Return training steps per second, all running trials together; None if unknown."""
        rates = [
            (trial.now.step - trial.first_step) / (now - trial.since)
            for trial in self.running.values()
            if trial.now and trial.first_step is not None and now > trial.since
        ]
        return sum(rates) if any(rates) else None

    def seconds_left(self, now: float) -> float | None:
        """Return the work that is left, in seconds of one trial after the other; None: unknown.

        A trial is expected to last as long as those of its cell that ended or, before any did, as
        long as a running one says by its steps.
        """
        if not self.num_left:
            return 0.0
        expected = self._expected(now)
        if expected is None:
            return None
        spent = sum(min(now - trial.since, expected) for trial in self.running.values())
        return self.num_left * expected - spent

    def _expected(self, now: float) -> float | None:
        if self.seconds:
            return sum(self.seconds) / len(self.seconds)
        shares = [
            (now - trial.since) * trial.now.steps / trial.now.step
            for trial in self.running.values()
            if trial.now and trial.now.step
        ]
        return max(shares, default=None)

    def accuracy(self) -> str:
        """Write the range of the latest validation accuracies."""
        if not self.accuracies:
            return ""
        low, high = (f"{100 * end(self.accuracies.values()):.1f}" for end in (min, max))
        return f"{low} %" if low == high else f"{low} .. {high} %"


class StudyProgress(AbstractContextManager["StudyProgress"]):
    """Listens to a run and shows it on ``console``.

    Args:
        plan: every trial of the study, also those that are done.
        console: where to; a live table when it is a terminal, otherwise a line per event.
        clock: seconds that only grow.
        num_seeds: trials that follow in a cell once its search is over.
    """

    def __init__(
        self,
        plan: StudyPlan,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        num_seeds: int = 0,
    ) -> None:
        self.console, self.clock = console, clock
        self.begun = self.last_line = clock()
        self.cells: dict[str, CellProgress] = {}
        for planned in plan.cells:
            self._add(planned, num_seeds)
        self.num_over = 0
        self.num_to_run = sum(cell.num_left for cell in self.cells.values())
        self._most_at_once = 1
        self._live: AbstractContextManager[object] | None = None

    def _add(self, planned: CellPlan, num_seeds: int) -> None:
        cell = self.cells.setdefault(planned.cell.key, CellProgress(planned.cell.key, 0))
        for trial in planned.trials:
            cell.num_trials += 1
            cell.num_done += trial.state in ("done", "pruned")
            cell.num_failed += trial.state in ("diverged", "failed")
            cell.num_left += trial.state in ("train", "evaluate")
        search = planned.search
        if search is not None and not search.is_over:
            to_come = search.num_trials - len(search.suggestions) + num_seeds
            cell.num_trials += to_come
            cell.num_left += to_come

    def __enter__(self) -> StudyProgress:
        """Begin to show."""
        if self.console.is_terminal:
            from rich.live import Live

            self._live = Live(
                console=self.console,
                get_renderable=self.table,
                refresh_per_second=4,
                transient=True,
            )
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the table away; what is final is printed by others."""
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def started(self, work: Work) -> None:
        """An attempt began."""
        cell = self._cell(work)
        cell.running[work.config.trial_id] = _Running(self.clock())
        at_once = sum(len(other.running) for other in self.cells.values())
        self._most_at_once = max(self._most_at_once, at_once)

    def progressed(self, work: Work, progress: Progress) -> None:
        """A trial is further on."""
        trial_id = work.config.trial_id
        cell = self._cell(work)
        running = cell.running.setdefault(trial_id, _Running(self.clock()))
        if running.first_step is None:
            # the rate counts from here: building the model is no training
            running.first_step, running.since = progress.step, self.clock()
        running.now = progress
        if progress.validation_accuracy is not None:
            cell.accuracies[trial_id] = progress.validation_accuracy
        if not self.console.is_terminal and self.clock() - self.last_line >= _LINE_EVERY_S:
            self._line(f"{self._name(work)} at step {progress.step} of {progress.steps}")

    def ended(self, work: Work, outcome: Outcome) -> None:
        """A trial is over, well or not."""
        trial_id = work.config.trial_id
        cell = self._cell(work)
        cell.running.pop(trial_id, None)
        cell.num_left -= 1
        self.num_over += 1
        if outcome.state == "pruned":
            cell.num_done += 1
            if not self.console.is_terminal:
                self._line(f"{self._name(work)} {outcome.message}")
        elif outcome.state == "done":
            cell.num_done += 1
            cell.seconds.append(outcome.seconds)
            accuracy = cell.accuracies.get(trial_id)
            learned = "" if accuracy is None else f", validation {100 * accuracy:.1f} %"
            text = f"{self._name(work)} done in {duration(outcome.seconds)}{learned}"
            if not self.console.is_terminal:
                self._line(text)
        else:
            cell.num_failed += 1
            self._line(f"{self._name(work)} failed ({outcome.cause}): {outcome.message}")

    def said(self, text: str) -> None:
        """Something else is worth knowing."""
        self._print(text)

    def seconds_left(self) -> float | None:
        """Return the seconds until the end, or None while a cell has not been tried."""
        now = self.clock()
        left = [cell.seconds_left(now) for cell in self.cells.values()]
        known = [seconds for seconds in left if seconds is not None]
        if len(known) < len(left):
            return None
        return sum(known) / self._most_at_once

    def table(self) -> Table:
        """Return the table of cells as it is now."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        now = self.clock()
        left = self.seconds_left()
        title = f"{self.num_over} of {self.num_to_run} trials, {duration(now - self.begun)}"
        title += "" if left is None else f", about {duration(left)} left"
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
        for column in ("cell", "done", "validation accuracy", "steps/s", "time left"):
            table.add_column(column, justify="left" if column == "cell" else "right")
        for cell in self.cells.values():
            table.add_row(*(Text(text) for text in self._row(cell, now)))
        return table

    def _row(self, cell: CellProgress, now: float) -> Sequence[str]:
        failed = f" ({cell.num_failed} failed)" if cell.num_failed else ""
        rate, left = cell.rate(now), cell.seconds_left(now)
        return (
            cell.key,
            f"{cell.num_done}/{cell.num_trials}{failed}",
            cell.accuracy(),
            "" if rate is None else f"{rate:.3g}",
            "" if not left else duration(left / self._most_at_once),
        )

    def _line(self, text: str) -> None:
        self.last_line = self.clock()
        left = self.seconds_left()
        more = "" if not left else f"; about {duration(left)} left"
        self._print(f"{text}{more}")

    def _print(self, text: str) -> None:
        line = f"[{self.num_over}/{self.num_to_run}] {text}"
        # as it is: names in brackets are no markup, and a log has no width
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _cell(self, work: Work) -> CellProgress:
        return self.cells.setdefault(work.cell, CellProgress(work.cell, 0))

    def _name(self, work: Work) -> str:
        if work.suggestion is not None:
            return f"{work.cell} search {work.suggestion}"
        return f"{work.cell} seed {work.config.seed}"


def duration(seconds: float) -> str:
    """Write a duration: "0.4 s", "12 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
