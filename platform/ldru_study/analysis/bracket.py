"""What the counts say without any curve: brackets, orderings and the isotonic line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import ttest_1samp

from ldru_study.analysis.counts import Floats, LengthCurve
from ldru_study.analysis.curves import Cells, survival
from ldru_study.analysis.fits import CurveFit
from ldru_study.analysis.intervals import exact_bounds, wilson


@dataclass(frozen=True)
class Bracket:
    """Where the excess over chance surely held and where it surely had failed.

    Args:
        holds_at: last multiple before ``fails_at`` whose Wilson lower bound reaches the level.
        fails_at: first multiple whose Wilson upper bound lies below the level; None: no failure.
    """

    holds_at: float | None
    fails_at: float | None


NO_BRACKET = Bracket(None, None)


def pool_counts(curves: Sequence[LengthCurve]) -> LengthCurve:
    """Add up the counts of all seeds at each length, under the first seed's name.

    Raises:
        ValueError: there is no curve, or the training lengths differ.
    """
    if len({curve.train_max_length for curve in curves}) != 1:
        raise ValueError("pooling needs at least one curve, all with the same train_max_length")
    first = curves[0]
    if len(curves) == 1:
        return first
    lengths, where = np.unique(
        np.concatenate([curve.lengths for curve in curves]), return_inverse=True
    )
    correct, total = (
        np.bincount(where, np.concatenate([getattr(curve, name) for curve in curves]))
        for name in ("num_correct", "num_total")
    )
    weighted = np.concatenate([curve.chance * curve.num_total for curve in curves])
    chance = np.minimum(np.bincount(where, weighted) / total, 1.0)
    return LengthCurve(first.seed, first.train_max_length, lengths, correct, total, chance)


def excess(accuracy: Floats, chance: Floats) -> Floats:
    """Return (accuracy - chance) / (1 - chance); minus infinity where chance is 1."""
    room = 1 - chance
    return np.where(room > 0, (accuracy - chance) / np.where(room > 0, room, 1.0), -np.inf)


def find_bracket(curve: LengthCurve, level: float, confidence: float = 0.95) -> Bracket:
    """Bracket the multiple where the chance-corrected excess falls below ``level``."""
    lower, upper = wilson(curve.num_correct, curve.num_total, confidence)
    failing = np.flatnonzero(excess(upper, curve.chance) < level)
    end = int(failing[0]) if len(failing) else len(curve.lengths)
    holding = np.flatnonzero(excess(lower, curve.chance)[:end] >= level)
    multiples = curve.multiples
    return Bracket(
        holds_at=float(multiples[holding[-1]]) if len(holding) else None,
        fails_at=float(multiples[end]) if len(failing) else None,
    )


def next_lengths(curve: LengthCurve, bracket: Bracket, count: int = 4) -> tuple[int, ...]:
    """Propose lengths, evenly spaced in their logarithm, that would narrow a bracket."""
    if bracket.fails_at is None or bracket.holds_at is None:
        return ()
    first = bracket.holds_at * curve.train_max_length
    last = bracket.fails_at * curve.train_max_length
    between = np.rint(np.geomspace(first, last, count + 2)[1:-1]).astype(int)
    return tuple(sorted({int(length) for length in between} - {int(x) for x in curve.lengths}))


def below_chance(curve: LengthCurve, confidence: float = 0.95) -> bool:
    """Say whether some length lies surely below chance, all lengths taken together."""
    _, upper = exact_bounds(
        curve.num_correct, curve.num_total, _family_wise(confidence, len(curve.lengths))
    )
    return bool(np.any(upper < curve.chance))


def rises_again(curve: LengthCurve, confidence: float = 0.95) -> bool:
    """Say whether some excess surely lies above that of a shorter length."""
    joint = _family_wise(confidence, 2 * len(curve.lengths))
    lower, upper = exact_bounds(curve.num_correct, curve.num_total, joint)
    lowest_before = np.minimum.accumulate(excess(upper, curve.chance))
    return bool(np.any(excess(lower, curve.chance)[1:] > lowest_before[:-1]))


def isotonic_line(curve: LengthCurve) -> Floats:
    """Return the non-increasing accuracies nearest to the counts, [K], weighted by strings."""
    fit = isotonic_regression(curve.accuracy, weights=curve.num_total, increasing=False)
    return np.asarray(fit.x)


def residual_p_values(
    curves: Sequence[LengthCurve], fits: Sequence[CurveFit]
) -> tuple[float | None, float | None]:
    """Test whether what the fits leave over depends on length parity and on tree depth.

    Only neighbouring lengths at most 10 % apart are compared, odd against even and deeper against
    shallower, so that a curve of another shape than the family is not taken for either. Depth is
    ceil(log2 length); lengths such as 2^j - 1, 2^j and 2^j + 1 make the tests possible.

    Returns:
        The p values of a t test on the differences of Pearson residuals, for parity and for depth;
        None with fewer than four differences, or when they are all alike.
    """
    odd: list[float] = []
    deeper: list[float] = []
    for curve, fit in zip(curves, fits, strict=True):
        lengths, rise = curve.lengths, np.diff(_residuals(curve, fit))
        near = lengths[1:] <= 1.1 * lengths[:-1]
        parity = np.diff(lengths % 2)
        depth = np.diff(np.ceil(np.log2(lengths)))
        odd += list((rise * parity)[near & (parity != 0)])
        deeper += list(rise[near & (depth > 0)])
    return _t_test(odd), _t_test(deeper)


def _residuals(curve: LengthCurve, fit: CurveFit) -> Floats:
    cells = Cells.stack([[curve]])
    s = (
        np.ones(len(curve.lengths))
        if fit.half_multiple is None or fit.beta is None
        else survival(curve.multiples, fit.half_multiple, fit.beta)
    )
    p = np.clip(curve.chance * (1 - s) + (1 - fit.lapse) * s, 1e-6, 1 - 1e-6)
    spread = np.sqrt(p * (1 - p) * (1 + (curve.num_total - 1) * fit.rho) / curve.num_total)
    return np.asarray((cells.num_correct[0] / curve.num_total - p) / spread)


def _t_test(differences: Sequence[float]) -> float | None:
    if len(differences) < 4 or np.ptp(differences) < 1e-2:
        return None
    return float(ttest_1samp(differences, 0.0).pvalue)


def _family_wise(confidence: float, num_bounds: int) -> float:
    # bonferroni: the whole set of bounds is right with this confidence
    return 1 - (1 - confidence) / num_bounds
