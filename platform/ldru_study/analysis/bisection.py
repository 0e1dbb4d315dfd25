"""Where to look next for a failure: bisect between the length that held and the one that failed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ldru_study.analysis.bracket import excess, find_bracket
from ldru_study.analysis.counts import LengthCurve


@dataclass(frozen=True)
class Bisection:
    """The two neighbouring tested lengths between which a curve falls below the level.

    Args:
        holds_at: tokens; there the observed excess over chance still reaches the level.
        fails_at: tokens; there it does not.
        next_length: tokens to evaluate next; None when the two are near enough, or when no length
            between them can be evaluated.
    """

    holds_at: int
    fails_at: int
    next_length: int | None

    @property
    def ratio(self) -> float:
        """How far apart the two are."""
        return self.fails_at / self.holds_at

    def num_left(self, ratio: float) -> int:
        """Return how many evaluations halve the interval to ``ratio``; one more by rounding."""
        if self.next_length is None:
            return 0
        return math.ceil(math.log2(math.log(self.ratio) / math.log(ratio)))


def bisect_failure(
    curve: LengthCurve,
    *,
    level: float,
    ratio: float,
    nearest_covered: Callable[[int], int],
    confidence: float = 0.95,
) -> Bisection | None:
    """Say where a curve fails and which length would tell it better.

    Only a failure beyond the training range is looked for, and only lengths beyond it are asked,
    after the longest training length itself: many lengths chosen near a failure within the range
    would change what counts as learned.

    That it fails must be sure (the Wilson bounds of two tested lengths enclose the level); between
    those two the observed excess decides, so that every evaluation halves the interval, also where
    the fall is so slow that no number of lengths makes it sure.

    Args:
        curve: one seed.
        level: chance-corrected excess whose loss is a failure.
        ratio: > 1; lengths this near to each other are near enough.
        nearest_covered: the nearest length at which the task has every class.
        confidence: of the Wilson bounds.

    Returns:
        None when no failure is sure, it never surely held before, or it fails at a length that it
        was trained on.

    Raises:
        ValueError: ``ratio`` is not above 1.
    """
    if not ratio > 1:
        raise ValueError(f"ratio is {ratio}, it must be > 1")
    bracket = find_bracket(curve, level, confidence)
    if bracket.fails_at is None or bracket.holds_at is None:
        return None
    observed = excess(curve.accuracy, curve.chance)
    inside = (curve.multiples > bracket.holds_at) & (curve.multiples <= bracket.fails_at)
    failed = int(np.flatnonzero(inside & (observed < level))[0])
    low, high = int(curve.lengths[failed - 1]), int(curve.lengths[failed])
    trained = curve.train_max_length
    if high <= trained:
        return None
    middle = nearest_covered(trained if low < trained else round(math.sqrt(low * high)))
    is_open = high > ratio * low and low < middle < high
    return Bisection(low, high, middle if is_open else None)
