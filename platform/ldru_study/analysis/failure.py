"""Where a curve fails and how sharply, with profile-likelihood intervals.

Nothing is extrapolated: a failure beyond the longest tested length is None with a lower bound, and
where every multiple between two lengths fits alike there is an interval but no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldru_study.analysis.counts import Floats
from ldru_study.analysis.curves import BETA, SCALE, Anchor, Cells, Family
from ldru_study.analysis.fits import CurveFit
from ldru_study.analysis.profiles import (
    chance_at_failure,
    deviances_at,
    parameters,
    profile_intervals,
)

# S is 10 % and 90 % at multiples whose ratio is (ln 0.1 / ln 0.9)^(1/beta) = 21.85^(1/beta)
_LOG_SPAN = float(np.log(np.log(0.1) / np.log(0.9)))


def log_span() -> float:
    """Return beta ln W, the same for every curve: ln(ln 0.1 / ln 0.9)."""
    return _LOG_SPAN


@dataclass(frozen=True)
class Estimate:
    """A quantity with its interval; None where the data do not identify a number.

    ``value`` None with a lower bound only means "beyond"; both bounds without a value mean that
    only the interval is known; an upper bound of None beside a value lies beyond the tested
    lengths; all None means that the quantity does not exist for this curve.
    """

    value: float | None
    lower: float | None
    upper: float | None


UNKNOWN = Estimate(None, None, None)


def sharpness(beta: float) -> float:
    """Return W = m10/m90, the ratio of the multiples at which S is 10 % and 90 %.

    Source: S = exp(-(m/alpha)^beta), so W = (ln 0.1 / ln 0.9)^(1/beta) = 21.85^(1/beta).
    """
    return float(np.exp(_LOG_SPAN / beta))


def half_multiples(
    cells: Cells, fits: Sequence[CurveFit], confidence: float = 0.95
) -> list[Estimate]:
    """Return where S = 1/2, half way between plateau and chance, for each curve and its fit.

    Args:
        cells: counts of F curves.
        fits: the selected fit of each; a fit of family "holds" gives "> m_max".
        confidence: of the profile-likelihood interval.
    """
    return _multiples(cells, fits, None, confidence)


def failure_multiples(
    cells: Cells, fits: Sequence[CurveFit], level: float, confidence: float = 0.95
) -> list[Estimate]:
    """Return where the chance-corrected excess (p - chance)/(1 - chance) falls to ``level``.

    Where chance differs between lengths, the chance at the length nearest to the half multiple
    counts. `UNKNOWN` where the lapse alone keeps the curve below ``level``.

    Raises:
        ValueError: ``level`` is not inside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, it must lie inside (0, 1)")
    return _multiples(cells, fits, level, confidence)


def failure_points(cells: Cells, fits: Sequence[CurveFit], level: float) -> list[float | None]:
    """Return the fitted curves' own crossings of ``level``, identified or not; None: no crossing.

    Only for comparisons with other evidence; `failure_multiples` is what to report.
    """
    reaches = _plateau_reaches(cells, fits, level)
    rows = [r for r, fit in enumerate(fits) if fit.half_multiple is not None and reaches[r]]
    points: list[float | None] = [None] * len(fits)
    if rows:
        anchor = Anchor(level, chance_at_failure(cells, fits)[rows])
        logarithms = parameters([fits[row] for row in rows], anchor)[:, SCALE]
        for row, logarithm in zip(rows, logarithms, strict=True):
            points[row] = float(np.exp(logarithm))
    return points


def sharpnesses(cells: Cells, fits: Sequence[CurveFit], confidence: float = 0.95) -> list[Estimate]:
    """Return W of each curve from its "weibull" fit.

    A step between two lengths has no value and no lower bound: only how gradual it could be.
    """
    if not fits:
        return []
    # a large beta is a small ratio, so the ends change places
    return [
        Estimate(*(None if x is None else sharpness(np.exp(x)) for x in (value, high, low)))
        for value, low, high in profile_intervals(cells, fits, BETA, confidence=confidence)
    ]


def sharpness_deviances(cells: Cells, fits: Sequence[CurveFit], ratio: float) -> Floats:
    """Return how much worse W = ``ratio`` fits than each "weibull" fit: twice the log ratio, [F].

    Raises:
        ValueError: ``ratio`` is not above 1.
    """
    if ratio <= 1:
        raise ValueError(f"ratio is {ratio}, it must be > 1")
    if not fits:
        return np.empty(0)
    return deviances_at(cells, fits, BETA, float(np.log(_LOG_SPAN / np.log(ratio))))


def _multiples(
    cells: Cells, fits: Sequence[CurveFit], level: float | None, confidence: float
) -> list[Estimate]:
    # the round trip through the logarithm shall not show
    last = np.round(np.exp(cells.span[1]), 9)
    reaches = _plateau_reaches(cells, fits, level)
    result = [
        Estimate(None, float(last[row]), None) if reaches[row] else UNKNOWN
        for row in range(len(fits))
    ]
    families: tuple[Family, ...] = ("gradual", "weibull")
    for family in families:
        rows = [r for r, fit in enumerate(fits) if fit.family == family and reaches[r]]
        if not rows:
            continue
        intervals = profile_intervals(
            cells.take(np.array(rows)),
            [fits[row] for row in rows],
            SCALE,
            level=level,
            confidence=confidence,
        )
        for row, ends in zip(rows, intervals, strict=True):
            result[row] = _within(last[row], *(None if x is None else np.exp(x) for x in ends))
    return result


def _within(last: float, value: float | None, low: float | None, high: float | None) -> Estimate:
    """Drop whatever lies beyond the last tested multiple; a lower bound stops there."""
    return Estimate(
        None if value is None or value > last else float(value),
        None if low is None else float(min(low, last)),
        None if high is None or high > last else float(high),
    )


def _plateau_reaches(
    cells: Cells, fits: Sequence[CurveFit], level: float | None
) -> NDArray[np.bool_]:
    """Say which plateaus lie above ``level``, so that there is something to fall from, bool [F]."""
    if level is None:
        return np.ones(len(fits), bool)
    lapse = np.array([fit.lapse for fit in fits])
    return np.asarray(lapse < (1 - level) * (1 - chance_at_failure(cells, fits)))
