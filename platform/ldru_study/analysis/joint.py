"""Joint fits: all seeds of a cell share one shape, and each fails at a multiple of its own.

The shape (beta, lapse, rho) is what the architecture and the task decide; where a seed fails also
depends on its initial weights. Fitting one curve to all seeds would take scattered sharp failures
for a gradual one; fitting every seed alone would ask few counts for four parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ldru_study.analysis.counts import Floats, LengthCurve
from ldru_study.analysis.curves import (
    BETA,
    LAPSE,
    SCALE,
    Anchor,
    Cells,
    Family,
    Form,
    derivatives,
    log_likelihood,
)
from ldru_study.analysis.fits import bounds, lift, plateau_error, starts_for

# mean of the exponential prior of the lapse: without lengths on the plateau the counts cannot tell
# a low plateau from an early failure, and a plateau is more often high. Wichmann and Hill 2001,
# "The psychometric function: I", bound the lapse at 0.06 for the same reason
LAPSE_MEAN = 0.05
_HALF: dict[Form, Anchor] = {
    form: Anchor(None, np.zeros(()), form) for form in ("weibull", "logistic")
}
_SHORTER_STEPS = np.array([0.3, 0.05])[:, None, None, None]
# a step that gains less than this share of its promise has gone too far
_POOR_SHARE = 0.5
_LONGEST_STEP = 3.0
_MAX_ITERATIONS = 40
_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class JointFits:
    """One family fitted to C cells of at most S seeds.

    Args:
        family: of the curves; not "holds".
        parameters: of each seed, in the columns of `curves`, [C, S, 4]; all but the first are the
            same for the seeds of a cell.
        value: log likelihood of each cell without its constant, and with the prior of the lapse,
            [C].
        covariance: of ln beta, sqrt lapse and sqrt rho, [C, 3, 3]; 0 where one is at its bound.
        slopes: change of each seed's first parameter with those three, [C, S, 3].
        form: of the curves.
    """

    family: Family
    parameters: Floats
    value: Floats
    covariance: Floats
    slopes: Floats
    form: Form = "weibull"

    def take(self, rows: NDArray[np.intp]) -> JointFits:
        """Return the fits of the cells ``rows``."""
        return replace(
            self,
            parameters=self.parameters[rows],
            value=self.value[rows],
            covariance=self.covariance[rows],
            slopes=self.slopes[rows],
        )


def stack_seeds(groups: Sequence[Sequence[LengthCurve]]) -> Cells:
    """Return the counts of C cells as arrays [C, S, K]; a padded seed has no strings."""
    flat = Cells.stack([[curve] for group in groups for curve in group])
    num_seeds = max(len(group) for group in groups)
    rows = np.full((len(groups), num_seeds), len(flat.num_total))
    first = 0
    for row, group in zip(rows, groups, strict=True):
        row[: len(group)] = np.arange(first, first + len(group))
        first += len(group)
    padded = (0.0, 0.0, 0.0, 0.5)
    columns = zip(flat.__dataclass_fields__, padded, strict=True)
    return Cells(
        *(
            np.vstack([getattr(flat, name), np.full(flat.num_total.shape[1], value)])[rows]
            for name, value in columns
        )
    )


def fit_jointly(cells: Cells, family: Family) -> JointFits:
    """Fit one family to each cell: shared beta, lapse and rho, a half multiple per seed.

    Args:
        cells: counts, [C, S, K], from `stack_seeds`.
        family: "gradual" or "weibull".
    """
    num_cells, num_seeds, num_lengths = cells.num_total.shape
    flat = Cells(*(getattr(cells, n).reshape(-1, num_lengths) for n in cells.__dataclass_fields__))
    whole = _whole(cells)
    lower, upper = bounds(whole, family)
    seeds = starts_for(flat, family)
    num_starts = seeds.shape[1]
    start = seeds.reshape(num_cells, num_seeds, num_starts, 4).swapaxes(1, 2).copy()
    start[..., LAPSE] = np.sqrt(plateau_error(whole, whole.span[0]))[:, None, None]
    rows = np.repeat(np.arange(num_cells), num_starts)
    best, value = _maximise(
        start.reshape(-1, num_seeds, 4),
        cells.take(rows),
        (lower[rows], upper[rows]),
        _HALF["weibull"],
    )
    best = best.reshape(num_cells, num_starts, num_seeds, 4)
    value = value.reshape(num_cells, num_starts)
    winner, every = value.argmax(1), np.arange(num_cells)
    parameters = best[every, winner]
    covariance, slopes = _uncertainty(parameters, cells, (lower, upper), _HALF["weibull"])
    return JointFits(family, parameters, value[every, winner], covariance, slopes)


def refit_with(fits: JointFits, cells: Cells, betas: Floats) -> JointFits:
    """Fit again with beta held, from an earlier fit; ``betas`` is [C]."""
    lower, upper = bounds(_whole(cells), "weibull")
    lower[:, BETA] = upper[:, BETA] = np.log(betas)
    return _refit(fits, cells, (lower, upper), fits.form)


def refit_as(fits: JointFits, cells: Cells, form: Form) -> JointFits:
    """Fit again with curves of another form, from an earlier fit as steep at the half multiple."""
    return _refit(fits, cells, bounds(_whole(cells), "weibull"), form)


def _refit(fits: JointFits, cells: Cells, limits: tuple[Floats, Floats], form: Form) -> JointFits:
    parameters, value = _maximise(fits.parameters, cells, limits, _HALF[form])
    covariance, slopes = _uncertainty(parameters, cells, limits, _HALF[form])
    return JointFits("weibull", parameters, value, covariance, slopes, form)


def _whole(cells: Cells) -> Cells:
    """Return the counts of each cell in one row, [C, S K]."""
    shape = len(cells.num_total), -1
    return Cells(*(getattr(cells, n).reshape(shape) for n in cells.__dataclass_fields__))


def _maximise(
    start: Floats, cells: Cells, limits: tuple[Floats, Floats], anchor: Anchor
) -> tuple[Floats, Floats]:
    """Climb from every start, [R, S, 4], to a local maximum over the seeds' sum."""
    low, high = limits[0][:, None], limits[1][:, None]
    best = np.clip(lift(start), low, high)
    value = _objective(best, cells, anchor)
    rows = np.arange(len(best))
    for _ in range(_MAX_ITERATIONS):
        part, local = cells.take(rows), (limits[0][rows], limits[1][rows])
        step, promised = _newton_step(best[rows], part, local, anchor)
        tried = np.clip(best[rows] + step, low[rows], high[rows])
        # a step that promises nothing is the last one, and its promise is kept
        last = promised <= _TOLERANCE
        best[rows[last]] = tried[last]
        value[rows[last]] += promised[last]
        going = np.flatnonzero(~last)
        if not len(going):
            break
        rows, part, step, tried = rows[going], part.take(going), step[going], tried[going]
        gain = _objective(tried, part, anchor) - value[rows]
        poor = np.flatnonzero(gain < _POOR_SHARE * promised[going])
        if len(poor):
            bad = rows[poor]
            shorter = np.clip(best[bad] + _SHORTER_STEPS * step[poor], low[bad], high[bad])
            values = _objective(shorter, part.take(poor), anchor)
            gains, chosen = values.max(0) - value[bad], values.argmax(0)
            longer = gains > gain[poor]
            tried[poor[longer]] = shorter[chosen[longer], np.flatnonzero(longer)]
            gain[poor] = np.maximum(gain[poor], gains)
        better = gain > 0
        best[rows[better]] = tried[better]
        value[rows[better]] += gain[better]
        rows = rows[gain > _TOLERANCE]
        if not len(rows):
            break
    return best, value


def _objective(parameters: Floats, cells: Cells, anchor: Anchor) -> Floats:
    penalty = parameters[..., 0, LAPSE] ** 2 / LAPSE_MEAN
    return np.asarray(log_likelihood(parameters, cells, anchor).sum(-1) - penalty)


def _newton_step(
    at: Floats, cells: Cells, limits: tuple[Floats, Floats], anchor: Anchor
) -> tuple[Floats, Floats]:
    """Return one damped Newton step of each cell, [R, S, 4], and the gain it promises, [R].

    The seeds' own parameters are eliminated one by one (Schur complement), so that the cost grows
    with the number of seeds and not with its cube.
    """
    own, slope, cross, shared_slope, schur = _curvature(at, cells, limits, anchor)
    eigenvalues, vectors = np.linalg.eigh(schur)
    along = np.einsum("rij,ri->rj", vectors, shared_slope) / (np.abs(eigenvalues) + 1e-3)
    shared = np.einsum("rij,rj->ri", vectors, along)
    shared *= np.minimum(1.0, _LONGEST_STEP / np.maximum(np.abs(shared).max(1), 1e-300))[:, None]
    step = np.empty_like(at)
    step[..., SCALE] = (slope - np.einsum("rsi,ri->rs", cross, shared)) / own
    step[..., SCALE] = np.clip(step[..., SCALE], -_LONGEST_STEP, _LONGEST_STEP)
    step[..., BETA:] = shared[:, None]
    promised = (slope**2 / own).sum(1) + np.einsum("ri,ri->r", shared_slope, shared)
    return step, promised / 2


def _uncertainty(
    at: Floats, cells: Cells, limits: tuple[Floats, Floats], anchor: Anchor
) -> tuple[Floats, Floats]:
    """Return the covariance of the shared parameters and what the seeds' own ones owe to them."""
    own, _, cross, _, schur = _curvature(at, cells, limits, anchor)
    eigenvalues, vectors = np.linalg.eigh(schur)
    # a parameter that is held, or that the counts do not curve, adds no uncertainty here
    inverse = np.where(eigenvalues > 1e-2, 1 / np.maximum(eigenvalues, 1e-2), 0.0)
    covariance = np.einsum("rij,rj,rkj->rik", vectors, inverse, vectors)
    return covariance, -cross / own[..., None]


def _curvature(
    at: Floats, cells: Cells, limits: tuple[Floats, Floats], anchor: Anchor
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Return the pieces of the negative Hessian and the gradient of each cell.

    Returns:
        Curvature and slope by each seed's own parameter [R, S], the cross terms [R, S, 3], and
        slope [R, 3] and curvature [R, 3, 3] of the shared parameters with the own ones eliminated.
    """
    lower, upper = limits[0][:, None], limits[1][:, None]
    slope, hessian = derivatives(at, cells, anchor)
    curvature = -hessian
    total = slope.copy()
    total[..., BETA:] = slope[..., BETA:].sum(1, keepdims=True)
    total[..., LAPSE] -= 2 * at[..., LAPSE] / LAPSE_MEAN
    # the prior is the cell's, so the first seed carries it
    curvature[:, 0, LAPSE, LAPSE] += 2 / LAPSE_MEAN
    held = ((at >= upper) & (total >= 0)) | ((at <= lower) & (total <= 0)) | (lower == upper)
    total = np.where(held, 0.0, total)
    curvature = np.where(held[..., None] | held[..., None, :], 0.0, curvature)
    own = np.abs(curvature[..., SCALE, SCALE]) + 1e-3
    cross = curvature[..., SCALE, BETA:]
    mine = total[..., SCALE]
    shared_slope = total[:, 0, BETA:] - np.einsum("rsi,rs->ri", cross, mine / own)
    schur = curvature[..., BETA:, BETA:].sum(1) - np.einsum(
        "rsi,rsj->rij", cross / own[..., None], cross
    )
    return own, mine, cross, shared_slope, schur
