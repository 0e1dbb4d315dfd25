"""What to run next: missing trials, the suggestions of searches, then what won them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from ldru_study.execution.brake import Brake
from ldru_study.execution.scheduler import CellAsha
from ldru_study.execution.search import CellSearch
from ldru_study.execution.submit import Submission, work_of
from ldru_study.results.facts import read_facts
from ldru_study.results.searches import TRANSIENT, measures_of, record_suggestion
from ldru_study.spec.plan import PlannedSearch, PlannedTrial, plan_cell
from ldru_study.spec.search import SearchConfig
from ldru_study.training.work import Outcome, Work


class Agenda:
    """Hands out orders, one by one, and takes in how they ended.

    Args:
        submission: the planned study.
        brake: pulled when the budget of trials is spent.
        announce: told in words when a search is over.
    """

    def __init__(
        self, submission: Submission, brake: Brake, announce: Callable[[str], None]
    ) -> None:
        self.submission, self.brake, self.announce = submission, brake, announce
        self._queue: deque[Work] = deque()
        self._searches: dict[str, _Searching] = {}
        plan, search = submission.plan, submission.spec.file.search
        for planned in plan.open_searches if search is not None else ():
            self._searches[planned.cell.key] = _Searching(submission, planned, search)
        rank = {seed: number for number, seed in enumerate(submission.spec.file.seeds)}
        # every cell shows its first curve as early as possible
        for trial in sorted(plan.to_run, key=lambda trial: rank.get(trial.config.seed, -1)):
            self._queue.append(self._order(trial))
        self._num_begun = len(plan.trials) - len(plan.to_run)

    @property
    def is_over(self) -> bool:
        """Whether nothing will be handed out any more, whatever ends yet."""
        return not self._queue and not any(
            searching.is_going_on for searching in self._searches.values()
        )

    def next(self) -> Work | None:
        """Return the next order; None while there is none, or none yet."""
        if self.brake.mode or not self._has_budget():
            return None
        work = self._queue.popleft() if self._queue else self._suggestion()
        if work is not None:
            self._num_begun += 1
        return work

    def asha(self, work: Work) -> CellAsha | None:
        """Return the early stopping that an order takes part in."""
        searching = self._searches.get(work.cell)
        return searching.asha if searching and work.suggestion is not None else None

    def ended(self, work: Work, outcome: Outcome) -> None:
        """Take in how an order ended, and plan what follows from it."""
        searching = self._searches.get(work.cell)
        if searching is None or work.suggestion is None:
            return
        searching.take_in(work.suggestion, outcome)
        if searching.search.is_over:
            self._finish(searching)

    def _has_budget(self) -> bool:
        most = self.submission.spec.file.budget.trials
        if most is None or self._num_begun < most or self.is_over:
            return True
        self.brake.pull("drain", "budget", f"the budget of {most} trials is spent")
        return False

    def _suggestion(self) -> Work | None:
        """Return a suggestion of the cell that has the fewest under way, and made the fewest."""
        going_on = sorted(
            self._searches.values(),
            key=lambda one: (len(one.running), len(one.search.suggestions)),
        )
        for searching in going_on:
            while searching.may_suggest:
                trial = searching.suggest()
                if trial is not None:
                    return self._order(trial)
                if searching.search.is_over:
                    self._finish(searching)
                    if self._queue:
                        return self._queue.popleft()
        return None

    def _finish(self, searching: _Searching) -> None:
        """Put the cell's own trials, with the settings that won, in front of everything."""
        cell, best = searching.cell, searching.search.winner
        size = len(searching.search.suggestions)
        if best is None:
            self.announce(f"{cell.key}: none of {size} settings could be trained to the end.")
            return
        shown = ", ".join(f"{path}={value}" for path, value in best.params.items())
        self.announce(f"{cell.key}: of {size} settings number {best.number} won: {shown}")
        submission = self.submission
        made = {searching.search.search_id: tuple(searching.search.suggestions)}
        held = replace(read_facts(submission.store).holdings, searches=made)
        planned = plan_cell(submission.spec, cell, held)
        submission.replan(planned)
        missing = [trial for trial in planned.trials if trial.suggestion is None]
        to_run = [trial for trial in missing if trial.state in ("train", "evaluate")]
        self._queue.extendleft(reversed([self._order(trial) for trial in to_run]))

    def _order(self, trial: PlannedTrial) -> Work:
        searching = self._searches.get(trial.cell.key)
        rungs: Sequence[int] = ()
        if searching is not None and trial.suggestion is not None:
            searching.running.add(trial.suggestion)
            rungs = searching.rungs(trial)
        return work_of(self.submission, trial, report_steps=tuple(rungs))


class _Searching:
    """A search under way: its suggestions, and which of them have been handed out."""

    def __init__(
        self, submission: Submission, planned: PlannedSearch, config: SearchConfig | None
    ) -> None:
        assert config is not None  # noqa: S101 - our own invariant
        self.submission, self.cell, self.config = submission, planned.cell, config
        self.search = CellSearch(planned.cell, config, planned.suggestions)
        self.questions = planned.questions
        self.running: set[int] = set()
        self.asha = None
        if config.early_stopping is not None:
            rungs = {one.config.trial_id: one.rungs for one in planned.suggestions if one.config}
            self.asha = CellAsha(config.early_stopping, rungs)

    @property
    def is_going_on(self) -> bool:
        """Whether suggestions are left to make, or results of handed-out ones to come."""
        return self.search.can_suggest or bool(self.running)

    @property
    def may_suggest(self) -> bool:
        most = self.config.max_concurrent
        return self.search.can_suggest and (most is None or len(self.running) < most)

    def suggest(self) -> PlannedTrial | None:
        """Make a suggestion and record it; None when it is no valid trial."""
        made = self.search.suggest()
        record_suggestion(
            self.submission.store, self.submission.spec.name, self.cell, self.config, made
        )
        if made.config is None:
            return None
        questions = self.questions
        return PlannedTrial(
            self.cell, made.config, made.config.trial_id, questions, questions, "train", made.number
        )

    def take_in(self, number: int, outcome: Outcome) -> None:
        """Tell the search what came of a suggestion, by what is committed of it."""
        self.running.discard(number)
        if outcome.cause in TRANSIENT:
            # it stays open: nothing is known of these settings, and the next submit tries again
            return
        config = self.search.suggestions[number].config
        assert config is not None  # noqa: S101 - our own invariant
        state = "diverged" if outcome.cause == "diverged" else outcome.state
        early, steps = self.config.early_stopping, config.train.steps
        at = (*(early.rungs(steps) if early else ()), steps)
        store = self.submission.store
        measures = measures_of(store, config.trial_id, outcome.attempt_id, at)
        rungs = measures.rungs(early, steps) if measures and early else {}
        values = None
        if state == "done" and measures is not None:
            values = [measures.value(name, self.questions) for name in self.config.objective]
        self.search.tell(number, state, values, rungs)

    def rungs(self, trial: PlannedTrial) -> Sequence[int]:
        """Return the steps at which a trial may be stopped."""
        early = self.config.early_stopping
        return () if early is None else early.rungs(trial.config.train.steps)
