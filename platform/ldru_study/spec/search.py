"""What a search varies within a cell, what it minimises, and how it stops early: all as data."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from ldru_study.spec.strict import Strict
from ldru_study.spec.trial import Count, Positive

# A winner was lucky with its seed, so its results come from seeds that did not choose it; and
# strings that choose are not the strings that judge.
SEARCH_SEED = 1_000_003

Sampler = Literal["cma_es", "gp", "grid", "qmc", "random", "tpe"]
Objective = Literal[
    "associativity_defect",
    "extrapolation_error",
    "train_seconds",
    "validation_error",
    "validation_loss",
]
_ONE = {"enum": list(get_args(Objective))}
_ONE_OR_MORE = {"anyOf": [_ONE, {"type": "array", "minItems": 1, "items": _ONE}]}
Condition = Annotated[dict[str, Any], Field(min_length=1)]
When = Annotated[
    Condition | None, Field(description="only where these fields have these values; or lists")
]
Points = Annotated[Count | None, Field(description="how many values sampler grid tries")]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_objectives(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _as_tuple(value)


class _Range(Strict):
    low: float
    high: float
    points: Points = None
    when: When = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self


class UniformDimension(_Range):
    """A number between ``low`` and ``high``, every one as likely."""

    kind: Literal["uniform"]

    def values(self) -> list[Any]:
        """Return the evenly spaced values of a grid."""
        return _spaced(self.low, self.high, self.points)


class LogUniformDimension(_Range):
    """A positive number between ``low`` and ``high``, every order of magnitude as likely."""

    kind: Literal["log_uniform"]
    low: Positive

    def values(self) -> list[Any]:
        """Return the values of a grid, evenly spaced in the exponent."""
        exponents = _spaced(math.log(self.low), math.log(self.high), self.points)
        return [min(max(math.exp(x), self.low), self.high) for x in exponents]


class IntegerDimension(Strict):
    """A whole number from ``low`` to ``high``, both included, in steps of ``step``."""

    kind: Literal["integer"]
    low: int
    high: int
    step: Count = 1
    log: bool = Field(False, description="every order of magnitude as likely")
    when: When = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError("log wants low of at least 1 and no step")
        return self

    def values(self) -> list[Any]:
        """Return every value."""
        return list(range(self.low, self.high + 1, self.step))


class ChoiceDimension(Strict):
    """One of ``values``, in no order."""

    kind: Literal["choice"]
    options: Annotated[tuple[Any, ...], BeforeValidator(_as_tuple), Field(min_length=2)] = Field(
        alias="values"
    )
    when: When = None

    @model_validator(mode="after")
    def _differ(self) -> Self:
        for number, value in enumerate(self.options):
            if value in self.options[:number]:
                raise ValueError(f"values repeats {value!r}. Keep one")
        return self

    def values(self) -> list[Any]:
        """Return every value."""
        return list(self.options)


Dimension = Annotated[
    UniformDimension | LogUniformDimension | IntegerDimension | ChoiceDimension,
    Field(discriminator="kind"),
]
DIMENSIONS: dict[str, type[Strict]] = {
    "choice": ChoiceDimension,
    "integer": IntegerDimension,
    "log_uniform": LogUniformDimension,
    "uniform": UniformDimension,
}


class AshaConfig(Strict):
    """Asynchronous successive halving: the worst stop early. Source: Li et al. 2020.

    A trial that reaches a rung, ``min_steps * reduction_factor ** k`` steps, goes on when its
    validation loss is among the best ``1 / reduction_factor`` of those that came so far.
    """

    kind: Literal["asha"]
    min_steps: Count = Field(description="no trial stops before")
    reduction_factor: Annotated[int, Field(ge=2, le=100)] = 3

    def rungs(self, steps: int) -> tuple[int, ...]:
        """Return the steps below ``steps`` at which a trial may be stopped."""
        powers = (self.min_steps * self.reduction_factor**k for k in itertools.count())
        return tuple(itertools.takewhile(lambda rung: rung < steps, powers))


class SearchConfig(Strict):
    """A search within every cell: trials that choose the settings which the cell's seeds run with.

    Every objective is made as small as can be. The first one chooses; several make a Pareto table.
    """

    trials: Annotated[Count | None, Field(le=100_000)] = Field(
        None, description="settings tried per cell; default 16, with sampler grid all"
    )
    space: Annotated[dict[str, Dimension], Field(min_length=1)] = Field(
        description="field of a trial -> what it may be"
    )
    objective: Annotated[
        tuple[Objective, ...],
        BeforeValidator(_as_objectives),
        Field(min_length=1),
        WithJsonSchema(_ONE_OR_MORE),
    ] = Field(("validation_loss",), description="one, or several of which the first chooses")
    multiples: Annotated[tuple[Positive, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="lengths of extrapolation_error, as multiples of train.max_length"
    )
    strings: Count = Field(512, description="strings per length of extrapolation_error")
    allow_oracle: bool = Field(
        False, description="choose on lengths that also judge; every table then says so"
    )
    sampler: Sampler = "tpe"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of the sampler")
    max_concurrent: Count | None = Field(
        None, description="trials of a cell at once; with 1 a search repeats exactly"
    )
    early_stopping: AshaConfig | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if repeated := {name for name in self.objective if self.objective.count(name) > 1}:
            raise ValueError(f"objective repeats {', '.join(sorted(repeated))}")
        if ("extrapolation_error" in self.objective) != bool(self.multiples):
            raise ValueError(
                "multiples and objective extrapolation_error need each other. Give both or neither"
            )
        if "strings" in self.model_fields_set and not self.multiples:
            raise ValueError("strings are for extrapolation_error, which is no objective. Drop it")
        if self.early_stopping and self.objective != ("validation_loss",):
            raise ValueError("early_stopping compares validation losses: it wants that objective")
        if self.early_stopping and "train.steps" in self.space:
            raise ValueError("early_stopping compares trials of equal train.steps. Drop one")
        if self.sampler == "cma_es" and len(self.objective) > 1:
            raise ValueError("sampler cma_es has one objective. Use tpe, or drop objectives")
        self._space_fits()
        return self

    def _space_fits(self) -> None:
        for path, dimension in self.space.items():
            if path.split(".")[0] not in ("model", "train") or "." not in path:
                raise ValueError(f"space: '{path}' is no field of model or train")
            if path in ("train.max_length", "model.kind"):
                raise ValueError(f"space: {path} makes another question of it. Use an axis of grid")
            points = getattr(dimension, "points", None)
            has_points = dimension.kind in ("uniform", "log_uniform")
            if has_points and (self.sampler == "grid") != (points is not None):
                do = "add" if points is None else "drop"
                raise ValueError(f"space.{path}: points are for sampler grid, {do} them")
            if self.sampler in ("grid", "cma_es") and set(dimension.when or ()) & set(self.space):
                raise ValueError(
                    f"space.{path}: when refers to the space itself, which sampler "
                    f"{self.sampler} cannot. Use tpe"
                )


def _spaced(low: float, high: float, points: int | None) -> list[float]:
    if points is None or points == 1:
        return [(low + high) / 2]
    return [low + (high - low) * n / (points - 1) for n in range(points)]
