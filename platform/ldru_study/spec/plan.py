"""What remains to be done: a pure function of a study and of what its store holds."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ldru_study.errors import SpecError
from ldru_study.spec.grid import Cell
from ldru_study.spec.study import EvaluateConfig, StudySpec
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.sampling import BalancedSampler


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


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of the study and what of it is missing.

    ``state`` is ``done`` (nothing is missing), ``diverged`` (training always ends in NaN),
    ``running`` (another submit works on it), ``evaluate`` (weights are there, answers are
    missing) or ``train``.
    """

    cell: Cell
    config: TrialConfig
    trial_id: str
    questions: tuple[Question, ...]
    missing: tuple[Question, ...]
    state: str


@dataclass(frozen=True)
class StudyPlan:
    """Every trial of a study with what is missing of it."""

    trials: tuple[PlannedTrial, ...]

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
    trials = []
    problems = []
    for cell in spec.cells:
        try:
            questions = questions_of(cell.config, spec.file.evaluate)
        except ValueError as error:
            problems.append(f"{cell.key}: {error}")
            continue
        trials += [
            _planned(cell, cell.trial(seed), questions, held, retry_diverged)
            for seed in spec.file.seeds
        ]
    if problems:
        raise SpecError(spec.name, problems)
    return StudyPlan(tuple(trials))


def questions_of(config: TrialConfig, evaluate: EvaluateConfig) -> tuple[Question, ...]:
    """Return the evaluations that a study asks of one trial, shortest first.

    Each multiple becomes the nearest length at which the task has every label; two multiples that
    become the same length are one question.

    Raises:
        ValueError: the task has no usable training length.
    """
    lengths = _lengths_of(config.task, config.train.min_length, config.train.max_length, evaluate)
    return tuple(Question(length, evaluate.strings, evaluate.seed) for length in lengths)


# the cells of a large grid differ in what has no say here
@lru_cache(maxsize=1024)
def _lengths_of(
    task: str, min_length: int, max_length: int, evaluate: EvaluateConfig
) -> tuple[int, ...]:
    sampler = BalancedSampler(find_task(task).automaton)
    if not sampler.covered_lengths(min_length, max_length).size:
        raise ValueError(
            f"between lengths {min_length} and {max_length}, {task} has none "
            "at which every label exists. Raise train.max_length."
        )
    wanted = [round(multiple * max_length) for multiple in evaluate.multiples]
    lengths = {sampler.nearest_covered(max(1, length)) for length in (*wanted, *evaluate.lengths)}
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
