"""The input of every analysis: counts of correct answers at each test length, per seed and cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LengthCurve:
    """One seed's counts over the test lengths.

    Args:
        seed: the replicate.
        train_max_length: longest training length in tokens, >= 1; multiple 1.
        lengths: test lengths in tokens, int [K], distinct, >= 1; kept in ascending order.
        num_correct: correct answers at each length, int [K].
        num_total: strings at each length, int [K], >= 1.
        chance: accuracy of the best constant predictor at each length under the sampling used,
            float [K] in [0, 1]; it may differ from length to length.

    Raises:
        ValueError: shapes disagree, there is no length, or a value is out of its range.
    """

    seed: int
    train_max_length: int
    lengths: Ints
    num_correct: Ints
    num_total: Ints
    chance: Floats

    def __post_init__(self) -> None:
        arrays = {
            name: _column(f"seed {self.seed}: {name}", getattr(self, name), kind)
            for name, kind in (
                ("lengths", np.int64),
                ("num_correct", np.int64),
                ("num_total", np.int64),
                ("chance", np.float64),
            )
        }
        problem = _problem(self.train_max_length, arrays)
        if problem:
            raise ValueError(f"seed {self.seed}: {problem}")
        order = np.argsort(arrays["lengths"])
        for name, values in arrays.items():
            values = values[order]
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    @property
    def multiples(self) -> Floats:
        """Test lengths over the longest training length, float [K], ascending."""
        return self.lengths / self.train_max_length

    @property
    def accuracy(self) -> Floats:
        """Share of correct answers at each length, float [K]."""
        return self.num_correct / self.num_total

    @property
    def in_distribution(self) -> NDArray[np.bool_]:
        """Which lengths are no longer than the longest training length, bool [K]."""
        return self.lengths <= self.train_max_length

    def nearest(self, multiple: float) -> int | None:
        """Return the index of the length nearest to ``multiple``; None if none is within 5 %."""
        distance = np.abs(self.multiples / multiple - 1)
        index = int(distance.argmin())
        return index if distance[index] <= 0.05 else None

    def select(self, mask: NDArray[np.bool_]) -> LengthCurve:
        """Return the curve of the lengths where ``mask``, bool [K], is true (at least one)."""
        return LengthCurve(
            self.seed,
            self.train_max_length,
            self.lengths[mask],
            self.num_correct[mask],
            self.num_total[mask],
            self.chance[mask],
        )


@dataclass(frozen=True, eq=False)
class CellCurves:
    """One point of a study's grid: a task, a model and what else varies, with all of its seeds.

    Args:
        task: name of the task.
        model: label of the model.
        key: the cell's key within its study.
        curves: one curve per seed that was evaluated; seeds are distinct.
        axes: the other axes of the grid and this cell's value on each.
        failed: cause of failure of each seed that has no curve.
        chosen_by: who chose the settings: None for the study file, ``search``, or ``oracle`` for a
            search on lengths that also judge.
        config: the trial's configuration without its seed, as plain data; empty if unknown.
        num_unfinished: seeds that have yet to answer something, those without a curve included;
            one that failed is none of them.

    Raises:
        ValueError: a seed occurs twice.
    """

    task: str
    model: str
    key: str
    curves: tuple[LengthCurve, ...]
    axes: Mapping[str, object] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    chosen_by: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    num_unfinished: int = 0

    @property
    def label(self) -> str:
        """The model and whatever else tells this cell from others of its task.

        A cell whose settings were chosen by what judges it says so wherever it is shown.
        """
        parts = [self.model, *(f"{axis} {value}" for axis, value in self.axes.items())]
        return ", ".join([*parts, "oracle selection"] if self.chosen_by == "oracle" else parts)

    def __post_init__(self) -> None:
        seeds = [*(curve.seed for curve in self.curves), *self.failed]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"cell '{self.key}': seed {twice[0]} occurs twice")


def _column(what: str, values: ArrayLike, kind: type[np.generic]) -> NDArray[Any]:
    """Return ``values`` as a fresh one-dimensional array of ``kind``, refusing lost precision."""
    given = np.asarray(values)
    if given.dtype.kind not in "iuf":
        raise ValueError(f"{what}: numbers expected, found {given.dtype}")
    column = given.astype(kind)
    if column.ndim != 1 or not np.array_equal(column, given):
        raise ValueError(f"{what}: one finite value per length expected, found {given!r}")
    return column


def _problem(train_max_length: int, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Say what is wrong with a curve; '' when nothing is."""
    lengths, correct = arrays["lengths"], arrays["num_correct"]
    total, chance = arrays["num_total"], arrays["chance"]
    if len({len(values) for values in arrays.values()}) != 1:
        found = ", ".join(f"{name} {len(values)}" for name, values in arrays.items())
        return f"every column needs one value per length, found {found}"
    checks = [
        (len(lengths) == 0, "there is no length"),
        (train_max_length < 1, f"train_max_length is {train_max_length}, it must be >= 1"),
        (bool(np.any(lengths < 1)), "lengths must be >= 1"),
        (len(np.unique(lengths)) != len(lengths), "a length occurs twice"),
        (bool(np.any(total < 1)), "num_total must be >= 1"),
        (bool(np.any(correct < 0)), "num_correct must be >= 0"),
        (bool(np.any(correct > total)), "num_correct is above num_total"),
        (bool(np.any((chance < 0) | (chance > 1))), "chance must lie in [0, 1]"),
    ]
    return next((message for wrong, message in checks if wrong), "")
