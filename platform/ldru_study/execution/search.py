"""The search of one cell: Optuna suggests, the store remembers.

Nothing is pickled. A search is rebuilt from its suggestions and their committed results: samplers
that look at results alone get their randomness from the number of the suggestion, and samplers
with a state of their own are led through the same history again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from pydantic import ValidationError

from ldru_study.errors import StudyError
from ldru_study.spec.grid import Cell
from ldru_study.spec.search import (
    SEARCH_SEED,
    ChoiceDimension,
    Dimension,
    IntegerDimension,
    LogUniformDimension,
    SearchConfig,
)
from ldru_study.spec.suggestions import (
    Suggestion,
    is_active,
    lay_over,
    num_trials,
    search_id,
    space_of,
    winner,
)

optuna.logging.set_verbosity(optuna.logging.ERROR)

# these look at the results and at nothing else
_STATELESS = ("gp", "random", "tpe")
_STATES = {
    "done": TrialState.COMPLETE,
    # worse than whatever ended well, which a sampler learns from an infinite objective
    "diverged": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class _Grid(optuna.samplers.GridSampler):
    """A grid that is counted by its owner and stops nobody."""

    def after_trial(self, *arguments: Any) -> None:
        """Leave the study running; the owner asks for no more points than there are."""


class CellSearch:
    """Suggests settings for one cell, one after the other.

    Args:
        cell: the cell of the grid.
        search: what is varied and how.
        history: every suggestion made so far, numbered from 0, with the results that are known.

    Raises:
        StudyError: the sampler, of another version, does not come to the same suggestions again.
    """

    def __init__(
        self, cell: Cell, search: SearchConfig, history: Sequence[Suggestion] = ()
    ) -> None:
        self.cell, self.search = cell, search
        self.search_id = search_id(cell.config, search)
        self.space = space_of(cell.config, search)
        self.num_trials = num_trials(cell.config, search)
        self.suggestions: list[Suggestion] = []
        self._told: list[int] = []
        self._trials: list[optuna.Trial] = []
        self.study = optuna.create_study(
            study_name=cell.key,
            directions=["minimize"] * len(search.objective),
            sampler=self._new_sampler(0),
        )
        self._rebuild(history)

    @property
    def is_over(self) -> bool:
        """Whether every suggestion was made and has its result."""
        return not self.can_suggest and all(one.is_over for one in self.suggestions)

    @property
    def can_suggest(self) -> bool:
        """Whether there are suggestions left to make."""
        return len(self.suggestions) < self.num_trials

    @property
    def winner(self) -> Suggestion | None:
        """The best suggestion so far by the first objective."""
        return winner(self.suggestions)

    def suggest(self) -> Suggestion:
        """Make the next suggestion; its state is ``failed`` when it is no valid trial."""
        number, known = len(self.suggestions), tuple(sorted(self._told))
        if self.search.sampler in _STATELESS:
            self.study.sampler = self._new_sampler(number)
        params = self._ask()
        made = Suggestion(number, params, known, self._config(params))
        self.suggestions.append(made)
        if made.config is None:
            self.tell(number, "failed")
        return self.suggestions[number]

    def tell(
        self,
        number: int,
        state: str,
        values: Sequence[float] | None = None,
        rungs: Mapping[int, float] | None = None,
    ) -> None:
        """Take in the result of a suggestion.

        Args:
            number: which one.
            state: ``done``, ``pruned``, ``diverged`` or ``failed``.
            values: the objectives of a done one.
            rungs: step -> validation loss, where it could have been stopped.
        """
        told = replace(
            self.suggestions[number],
            state=state,
            values=None if values is None else tuple(values),
            rungs=rungs or {},
        )
        self.suggestions[number] = told
        self._tell(told)

    def _tell(self, made: Suggestion) -> None:
        self._told.append(made.number)
        state = _STATES[made.state]
        # a pruned trial counts with its last rung
        for step, loss in sorted(made.rungs.items()):
            self._trials[made.number].report(loss, step)
        values = None
        if state is TrialState.COMPLETE:
            values = list(made.values or [float("inf")] * len(self.search.objective))
        self.study.tell(self._trials[made.number], values, state)

    def _config(self, params: Mapping[str, Any]) -> Any:
        try:
            config = lay_over(self.cell.config, params)
        except ValidationError:
            return None
        return config.model_copy(update={"seed": SEARCH_SEED})

    def _ask(self) -> dict[str, Any]:
        raw: Any = self.cell.config.model_dump(mode="python")
        params: dict[str, Any] = {}
        with _quiet():
            trial = self.study.ask()
            for path, dimension in self.space.items():
                if is_active(dimension, raw, params):
                    params[path] = _suggest(trial, path, dimension)
        self._trials.append(trial)
        return params

    def _new_sampler(self, number: int) -> BaseSampler:
        with _quiet():
            return self._sampler(number)

    def _sampler(self, number: int) -> BaseSampler:
        seed = _seed(self.search_id, self.search.seed, number)
        # of few trials, most should learn from the others
        startup = min(10, max(3, self.num_trials // 4))
        match self.search.sampler:
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=startup,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                )
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
            case "cma_es":
                return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup)
            case "qmc":
                return optuna.samplers.QMCSampler(
                    seed=seed, scramble=True, warn_independent_sampling=False
                )
            case "grid":
                grid = {
                    path: [external(dimension, value) for value in dimension.values()]
                    for path, dimension in self.space.items()
                }
                return _Grid(grid, seed=seed)

    def _rebuild(self, history: Sequence[Suggestion]) -> None:
        by_number = {one.number: one for one in history}
        for number in range(len(history)):
            made = by_number[number]
            if self.search.sampler in _STATELESS:
                self._add(made)
            else:
                for known in sorted(set(made.known) - set(self._told)):
                    self._tell(by_number[known])
                self._lead(made)
            self.suggestions.append(made)
        for made in history:
            if made.is_over and made.number not in self._told:
                self._tell(made)

    def _add(self, made: Suggestion) -> None:
        # any sampler will do where every value is given
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)
        self.study.enqueue_trial(
            {path: external(self.space[path], value) for path, value in made.params.items()}
        )
        self._ask()

    def _lead(self, made: Suggestion) -> None:
        if self._ask() != dict(made.params):
            raise StudyError(
                f"search: {self.cell.key}: sampler {self.search.sampler} of this Optuna "
                f"({optuna.__version__}) does not repeat the suggestions that the store holds. "
                "Install the version that constraints.txt names, or begin anew with another "
                "search.seed."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # whatever may change in a sampler, a search that it would change is refused
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # what diverged is infinitely bad; the Gaussian process makes do with the worst it saw
        warnings.filterwarnings("ignore", "Clip non-finite values")
        yield


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """Return a dimension as Optuna knows it."""
    match dimension:
        case ChoiceDimension():
            return CategoricalDistribution([_label(value) for value in dimension.options])
        case IntegerDimension():
            last = dimension.values()[-1]
            return IntDistribution(dimension.low, last, log=dimension.log, step=dimension.step)
        case _:
            is_log = isinstance(dimension, LogUniformDimension)
            return FloatDistribution(dimension.low, dimension.high, log=is_log)


def _suggest(trial: optuna.Trial, path: str, dimension: Dimension) -> Any:
    match distribution_of(dimension):
        case CategoricalDistribution() as categorical:
            label = trial.suggest_categorical(path, categorical.choices)
            return next(value for value in dimension.values() if _label(value) == label)
        case IntDistribution() as whole:
            return trial.suggest_int(path, whole.low, whole.high, step=whole.step, log=whole.log)
        case FloatDistribution() as real:
            return trial.suggest_float(path, real.low, real.high, log=real.log)
    raise AssertionError(path)


def _label(value: Any) -> CategoricalChoiceType:
    """Return a value of a choice as Optuna can store it: mappings and lists as JSON text."""
    plain = value is None or isinstance(value, (bool, int, float, str))
    return value if plain else json.dumps(value, sort_keys=True)


def external(dimension: Dimension, value: Any) -> Any:
    """Return a value of a dimension as Optuna stores it."""
    return _label(value) if isinstance(dimension, ChoiceDimension) else value


def _seed(*parts: Any) -> int:
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:4], "little")
