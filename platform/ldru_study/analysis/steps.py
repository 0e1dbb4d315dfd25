"""A fall between two neighbouring tested lengths, of which the counts tell the bracket alone.

Curves of finite steepness favour some place in the bracket, which is of their making: where a step
explains the counts as well, every place in it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldru_study.analysis.counts import Floats, LengthCurve
from ldru_study.analysis.curves import BETA, LAPSE, RHO, SCALE, Anchor, Cells
from ldru_study.analysis.fits import BETA_RANGE, bounds, maximise, plateau_error
from ldru_study.analysis.joint import LAPSE_MEAN

_START_RHO = 0.01
# the middle of a wider bracket says nothing; octaves still have one
_WIDEST = 2.0


@dataclass(frozen=True)
class Step:
    """All seeds of a cell are on the plateau up to one length and at chance from the next.

    Args:
        low: the last multiple on the plateau.
        high: the first at chance; no seed was tested in between.
        value: log likelihood with the best lapse and overdispersion, without its constant and with
            the prior of the lapse.
    """

    low: float
    high: float
    value: float

    @property
    def middle(self) -> float | None:
        """The geometric middle of the bracket; None where the ends are more than 2-fold apart."""
        # multiples are ratios of whole lengths
        is_narrow = self.high <= _WIDEST * self.low * (1 + 1e-9)
        return float(np.sqrt(self.low * self.high)) if is_narrow else None


def fit_steps(groups: Sequence[Sequence[LengthCurve]], halves: Floats) -> list[Step | None]:
    """Fit a step between the two tested lengths about a half multiple to each cell.

    Args:
        groups: the curves of each of C cells.
        halves: where the curve that fits best is half way to chance, [C]. One beyond the tested
            lengths has no bracket, and None is returned for its cell.
    """
    brackets: dict[int, tuple[float, float]] = {}
    for row, (curves, half) in enumerate(zip(groups, halves, strict=True)):
        tested = np.unique(np.concatenate([curve.multiples for curve in curves]))
        end = int(np.searchsorted(tested, half, side="right"))
        if 0 < end < len(tested):
            brackets[row] = float(tested[end - 1]), float(tested[end])
    found: list[Step | None] = [None] * len(groups)
    if not brackets:
        return found
    cells = Cells.stack([groups[row] for row in brackets])
    lower, upper = bounds(cells, "weibull")
    ends = np.log(list(brackets.values()))
    lower[:, SCALE] = upper[:, SCALE] = ends.mean(1)
    lower[:, BETA] = upper[:, BETA] = np.log(BETA_RANGE[1])
    start = lower.copy()
    start[:, LAPSE], start[:, RHO] = np.sqrt(plateau_error(cells, cells.span[0])), _START_RHO**0.5
    best, value = maximise(start, cells, Anchor(None, np.zeros(len(start))), (lower, upper))
    value -= best[:, LAPSE] ** 2 / LAPSE_MEAN
    for (row, (low, high)), one in zip(brackets.items(), value, strict=True):
        found[row] = Step(low, high, float(one))
    return found
