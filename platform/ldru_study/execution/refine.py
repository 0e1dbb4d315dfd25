"""Refine a study: ask saved weights for further lengths, one after the other, training nothing."""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ldru_study.execution.brake import Brake
from ldru_study.execution.submit import Submission, keep_record, work_of
from ldru_study.results.facts import Facts, read_facts
from ldru_study.results.query import Database
from ldru_study.results.rows import rows_of_trials
from ldru_study.results.schema import QUESTION
from ldru_study.results.search_table import refuse_renamed, stored_study
from ldru_study.results.searches import holdings_for
from ldru_study.results.store import Store
from ldru_study.spec.plan import PlannedTrial, Question, plan_study
from ldru_study.training.work import Outcome, Work

if TYPE_CHECKING:
    # without Ray, which only a run needs
    from ldru_study.execution.scheduler import CellAsha

Rows = Sequence[Mapping[str, Any]]
# the next length to ask a trial for, by its rows so far; None: none
NextLength = Callable[[PlannedTrial, Rows], int | None]


@dataclass
class Refining:
    """A trial with saved weights and what it answered: length and counts, chance by row.

    ``num_answered`` counts the questions of any study that it had answered before, ``num_asked``
    those that were answered since by running the model.
    """

    trial: PlannedTrial
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    num_answered: int = 0
    num_asked: int = 0


def prepare_refinement(
    store: Store, study: str, record: dict[str, Any], *, is_recorded: bool
) -> tuple[Submission, list[Refining], list[PlannedTrial]]:
    """Return a study as it was last submitted, its trials, and those without weights.

    Args:
        store: where it lives.
        study: its name.
        record: of this command.
        is_recorded: keep the record among the study's submissions.

    Raises:
        NotFoundError: the store holds no such study.
        SpecError: this version cannot read it any more.
        StoreError: the store cannot be read or written.
        OtherVersionError: see `refuse_renamed`.
    """
    spec = stored_study(store, study)
    facts = read_facts(store)
    plan = plan_study(spec, holdings_for(store, facts, spec))
    refuse_renamed(store, study, plan)
    if is_recorded:
        keep_record(store, study, record)
    submission = Submission(spec, store, plan, record["submission_id"], record["revision"])
    judged = [trial for trial in plan.trials if trial.suggestion is None]
    found = {
        trial.trial_id: Refining(
            trial, num_answered=len(facts.answered.get(trial.trial_id, frozenset()))
        )
        for trial in judged
        if trial.trial_id in facts.trained
    }
    rows = Database(store, [study]).rows(
        "select trial_id, length, num_correct, num_total, chance from evaluations "
        "where study = $study",
        study=study,
    )
    for row in rows:
        if row["trial_id"] in found:
            found[row["trial_id"]].rows.append(row)
    without = [trial for trial in judged if trial.trial_id not in found]
    return submission, list(found.values()), without


class Refinement:
    """Hands out one question per trial at a time, and the next one by what came of it.

    Whoever runs it sees what an `Agenda` shows. A question is recorded before it is handed out,
    so that its answer counts for the study from then on; an answer that the store has already is
    not asked for again.

    Args:
        submission: the study.
        trials: those that may be asked.
        next_length: chooses.
        brake: when it is pulled nothing more is handed out.
    """

    def __init__(
        self,
        submission: Submission,
        trials: Sequence[Refining],
        next_length: NextLength,
        brake: Brake,
    ) -> None:
        self.submission, self.next_length, self.brake = submission, next_length, brake
        self._trials = {one.trial.trial_id: one for one in trials}
        self._facts = read_facts(submission.store, list(self._trials))
        self._queue: deque[Work] = deque()
        self._num_running = 0
        for one in trials:
            self._ask(one)

    @property
    def is_over(self) -> bool:
        """Whether nothing will be handed out any more, whatever ends yet."""
        return not self._queue and not self._num_running

    def next(self) -> Work | None:
        """Return the next order; None while there is none, or none yet."""
        if self.brake.mode or not self._queue:
            return None
        self._num_running += 1
        return self._queue.popleft()

    def asha(self, work: Work) -> CellAsha | None:
        """Return None: nothing is trained, so nothing is stopped early."""
        return None

    def ended(self, work: Work, outcome: Outcome) -> None:
        """Take in an answer and ask what follows from it; a trial that failed is asked no more."""
        self._num_running -= 1
        one = self._trials[work.config.trial_id]
        if outcome.state != "done":
            return
        one.num_asked += 1
        one.rows.append(self._answer(work, outcome))
        self._ask(one)

    def _ask(self, one: Refining) -> None:
        """Put the next question about a trial in the queue, past all that is answered already."""
        while (length := self.next_length(one.trial, one.rows)) is not None:
            first = one.trial.questions[0]
            question = Question(length, first.num_total, first.eval_seed)
            self._record(one.trial, question)
            known = self._known(self._facts, one.trial.trial_id, question)
            if known is None:
                work = work_of(self.submission, one.trial)
                self._queue.append(replace(work, questions=(question,)))
                return
            one.rows.append(known)

    def _record(self, trial: PlannedTrial, question: Question) -> None:
        study = self.submission.spec.name
        asked = dict(zip(QUESTION, astuple(question), strict=True))
        now = datetime.datetime.now(datetime.UTC)
        row = {"study": study, "trial_id": trial.trial_id, **asked, "asked_at": now}
        name = "-".join([study, trial.trial_id, *map(str, asked.values())])
        self.submission.store.commit("refinements", name, [row])

    def _answer(self, work: Work, outcome: Outcome) -> Mapping[str, Any]:
        """Return the row that an attempt committed for its only question."""
        store, trial_id = self.submission.store, work.config.trial_id
        rows = store.read_one("evaluations", f"{trial_id}-{outcome.attempt_id}")
        if rows is not None:
            row: Mapping[str, Any] = rows.to_pylist()[0]
            return row
        # it was merged with others at once
        known = self._known(read_facts(store, [trial_id]), trial_id, work.questions[0])
        assert known is not None  # noqa: S101 - an attempt commits before it says that it is done
        return known

    def _known(self, facts: Facts, trial_id: str, question: Question) -> Mapping[str, Any] | None:
        if question not in facts.answered.get(trial_id, frozenset()):
            return None
        for row in rows_of_trials(facts.current, [trial_id]).to_pylist():
            if Question(*(row[name] for name in QUESTION)) == question:
                found: Mapping[str, Any] = row
                return found
        return None
