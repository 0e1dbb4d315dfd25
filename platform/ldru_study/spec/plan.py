"""What remains to be done: a pure function of a study and of what its store holds."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from ldru_study.errors import SpecError
from ldru_study.spec.grid import Cell
from ldru_study.spec.search import SEARCH_SEED, SearchConfig
from ldru_study.spec.study import EvaluateConfig, StudySpec
from ldru_study.spec.suggestions import Suggestion, num_trials, search_id, winner
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.samplers import Sampling, sampler_of


@dataclass(frozen=True, order=True)
class Question:
    """One evaluation that can be asked of a trained model.

    Rows answer the same question when they agree in all three.
    """

    length: int
    num_total: int
    eval_seed: int


@dataclass(frozen=True)
class Holdings:
    """What a store holds, as far as planning needs it.

    ``trained`` is asked only about trials with open questions, so a store may look when asked.
    """

    trained: Container[str] = frozenset()
    answered: Mapping[str, frozenset[Question]] = field(default_factory=dict)
    diverged: frozenset[str] = frozenset()
    running: frozenset[str] = frozenset()
    # search_id -> every suggestion made so far
    searches: Mapping[str, tuple[Suggestion, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of the study and what of it is missing.

    ``state`` is ``done`` (nothing is missing), ``diverged`` (training always ends in NaN),
    ``running`` (another submit works on it), ``evaluate`` (weights are there, answers are
    missing) or ``train``; of a search also ``pruned`` and ``failed``. ``suggestion`` is its number
    in the cell's search; None for the trials that the cell is judged by.
    """

    cell: Cell
    config: TrialConfig
    trial_id: str
    questions: tuple[Question, ...]
    missing: tuple[Question, ...]
    state: str
    suggestion: int | None = None


@dataclass(frozen=True)
class PlannedSearch:
    """A cell's search: what was suggested so far, of ``num_trials``.

    ``questions`` are what it chooses by; ``is_oracle`` when some of them also judge.
    """

    cell: Cell
    search_id: str
    num_trials: int
    suggestions: tuple[Suggestion, ...]
    questions: tuple[Question, ...]
    is_oracle: bool

    @property
    def is_over(self) -> bool:
        """Whether every suggestion was made and has its result."""
        is_known = all(one.is_over for one in self.suggestions)
        return is_known and len(self.suggestions) >= self.num_trials

    @property
    def winner(self) -> Suggestion | None:
        """The settings that the cell's seeds run with, once the search is over."""
        return winner(self.suggestions) if self.is_over else None


@dataclass(frozen=True)
class CellPlan:
    """The trials of one cell, and its search if it has one.

    While the search goes on the cell has only the search's trials: nobody knows yet with which
    settings its seeds will run.
    """

    cell: Cell
    questions: tuple[Question, ...]
    trials: tuple[PlannedTrial, ...]
    search: PlannedSearch | None = None


@dataclass(frozen=True)
class StudyPlan:
    """Every trial of a study with what is missing of it."""

    cells: tuple[CellPlan, ...]

    def with_cell(self, planned: CellPlan) -> StudyPlan:
        """Return the plan with another plan for one of its cells."""
        key = planned.cell.key
        return StudyPlan(tuple(planned if one.cell.key == key else one for one in self.cells))

    @cached_property
    def trials(self) -> tuple[PlannedTrial, ...]:
        """The trials of all cells, in the order of the grid."""
        return tuple(trial for cell in self.cells for trial in cell.trials)

    @property
    def open_searches(self) -> tuple[PlannedSearch, ...]:
        """The searches that are not over."""
        found = (cell.search for cell in self.cells)
        return tuple(search for search in found if search is not None and not search.is_over)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.to_run and not self.open_searches

    @property
    def to_run(self) -> tuple[PlannedTrial, ...]:
        """The trials that a submit has to work on."""
        return self.in_state("train", "evaluate")

    def in_state(self, *states: str) -> tuple[PlannedTrial, ...]:
        """The trials in any of ``states``."""
        return tuple(trial for trial in self.trials if trial.state in states)


def plan_study(
    spec: StudySpec, held: Holdings = Holdings(), *, retry_diverged: bool = False
) -> StudyPlan:
    """Compare what a study asks with what the store holds.

    Args:
        spec: a valid study.
        held: what is there already; nothing by default.
        retry_diverged: train trials again whose training ended in NaN.

    Raises:
        SpecError: a cell has no length that can be evaluated or trained.
    """
    plans = []
    problems = []
    for cell in spec.cells:
        try:
            plans.append(plan_cell(spec, cell, held, retry_diverged=retry_diverged))
        except ValueError as error:
            problems.append(f"{cell.key}: {error}")
    if problems:
        raise SpecError(spec.name, problems)
    return StudyPlan(tuple(plans))


def plan_cell(
    spec: StudySpec, cell: Cell, held: Holdings, *, retry_diverged: bool = False
) -> CellPlan:
    """Plan one cell; see `plan_study`.

    Raises:
        ValueError: the cell has no length that can be evaluated or trained, or its search would
            choose on lengths that judge.
    """
    questions = questions_of(cell.config, spec.file.evaluate)
    search = spec.file.search
    trials: list[PlannedTrial] = []
    planned = None
    config = cell.config
    if search is not None and (size := num_trials(config, search)):
        asked = search_questions(config, search, questions)
        found_by = search_id(config, search)
        made = held.searches.get(found_by, ())
        is_oracle = not {q.length for q in asked}.isdisjoint(q.length for q in questions)
        planned = PlannedSearch(cell, found_by, size, made, asked, is_oracle)
        trials += [_suggested(cell, one, asked, held) for one in made if one.config is not None]
        best = planned.winner
        if best is None or best.config is None:
            return CellPlan(cell, questions, tuple(trials), planned)
        config = best.config
    for seed in spec.file.seeds:
        seeded = config.model_copy(update={"seed": seed})
        trials.append(_planned(cell, seeded, questions, held, retry_diverged))
    return CellPlan(cell, questions, tuple(trials), planned)


def expected_plan(spec: StudySpec, plan: StudyPlan) -> StudyPlan:
    """Return the plan with stand-ins for the trials that searches have yet to settle on.

    They have the settings of their cell and seeds that no trial has; for counts and estimates.
    """
    return StudyPlan(tuple(_expected(spec, planned) for planned in plan.cells))


def _expected(spec: StudySpec, planned: CellPlan) -> CellPlan:
    search, cell = planned.search, planned.cell
    if search is None or search.is_over:
        return planned
    made = len(search.suggestions)
    seeds = itertools.count(SEARCH_SEED + 1)
    numbers: list[int | None] = [*range(made, search.num_trials), *(None for _ in spec.file.seeds)]
    more = []
    for number in numbers:
        config = cell.config.model_copy(update={"seed": next(seeds)})
        asked = planned.questions if number is None else search.questions
        more.append(PlannedTrial(cell, config, config.trial_id, asked, asked, "train", number))
    return replace(planned, trials=(*planned.trials, *more))


def search_questions(
    config: TrialConfig, search: SearchConfig, judging: Sequence[Question]
) -> tuple[Question, ...]:
    """Return the evaluations by which a search chooses, on strings of its own.

    Args:
        config: a trial of the cell.
        search: what it minimises.
        judging: the questions by which the cell is judged.

    Raises:
        ValueError: it would choose on lengths that judge, and does not say so.
    """
    sampler = sampler_of(config.task, config.sampling)
    wanted = (round(multiple * config.train.max_length) for multiple in search.multiples)
    lengths = sorted({sampler.nearest_covered(max(1, length)) for length in wanted})
    shared = sorted(set(lengths) & {question.length for question in judging})
    if shared and not search.allow_oracle:
        raise ValueError(
            f"search.multiples: length {shared[0]} also judges, so the search would choose what "
            "it is judged by. Choose other multiples, or say search.allow_oracle: true, and "
            "every table says so too."
        )
    return tuple(Question(length, search.strings, SEARCH_SEED) for length in lengths)


def _suggested(
    cell: Cell, made: Suggestion, questions: tuple[Question, ...], held: Holdings
) -> PlannedTrial:
    assert made.config is not None  # noqa: S101 - our own invariant
    planned = _planned(cell, made.config, questions, held, retry_diverged=False)
    # it is over when the search can be told of it, not when its questions are answered
    if made.is_over:
        state = made.state
    elif planned.trial_id in held.running:
        state = "running"
    else:
        state = "train"
    missing = () if made.is_over else questions
    return replace(planned, state=state, missing=missing, suggestion=made.number)


def questions_of(config: TrialConfig, evaluate: EvaluateConfig) -> tuple[Question, ...]:
    """Return the evaluations that a study asks of one trial, shortest first.

    Each multiple becomes the nearest length that the sampling uses, such as one at which the task
    has every label; two multiples that become the same length are one question.

    Raises:
        ValueError: the task has no usable training length, or no strings as long as asked.
    """
    train = config.train
    lengths = _lengths_of(
        config.task, config.sampling, train.min_length, train.max_length, evaluate
    )
    return tuple(Question(length, evaluate.strings, evaluate.seed) for length in lengths)


# the cells of a large grid differ in what has no say here
@lru_cache(maxsize=1024)
def _lengths_of(
    task: str, sampling: Sampling, min_length: int, max_length: int, evaluate: EvaluateConfig
) -> tuple[int, ...]:
    sampler = sampler_of(task, sampling)
    if not sampler.covered_lengths(min_length, max_length).size:
        wanted = "there are strings" if sampling == "paper" else "every label exists"
        raise ValueError(
            f"between lengths {min_length} and {max_length}, {find_task(task).label} has none "
            f"at which {wanted}. Raise train.max_length."
        )
    multiples = [round(multiple * max_length) for multiple in evaluate.multiples]
    asked = (*multiples, *evaluate.lengths)
    lengths = {sampler.nearest_covered(max(1, length)) for length in asked}
    return tuple(sorted(lengths))


def _planned(
    cell: Cell,
    config: TrialConfig,
    questions: tuple[Question, ...],
    held: Holdings,
    retry_diverged: bool,
) -> PlannedTrial:
    trial_id = config.trial_id
    answered = held.answered.get(trial_id, frozenset())
    missing = tuple(question for question in questions if question not in answered)
    if not missing:
        state = "done"
    elif trial_id in held.running:
        state = "running"
    elif trial_id in held.trained:
        state = "evaluate"
    elif trial_id in held.diverged and not retry_diverged:
        state = "diverged"
    else:
        state = "train"
    return PlannedTrial(cell, config, trial_id, questions, missing, state)
