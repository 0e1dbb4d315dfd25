"""Maximum-likelihood fits: a damped Newton method that fits thousands of curves in one call.

Every row of a batch is one fit from one start with its own bounds; a parameter is held fixed by
equal bounds. The same loop therefore serves starts, seeds, families and profile likelihoods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldru_study.analysis.counts import Floats, LengthCurve
from ldru_study.analysis.curves import (
    BETA,
    FAMILIES,
    LAPSE,
    NUM_PARAMETERS,
    RHO,
    SCALE,
    Anchor,
    Cells,
    Family,
    binomial_coefficients,
    derivatives,
    log_likelihood,
)

# a beta of 1 000 is a step between any two neighbouring lengths
BETA_RANGE = (0.3, 1000.0)
LAPSE_MIN = 1e-7
RHO_RANGE = (1e-6, 0.3)
# far beyond every length, where S = 1 to the last digit
_NEVER = 60.0
_START_BETAS = (1.0, 3.0, 10.0, 60.0)
_START_RHO = 0.01
# a climb starts with roots of lapse and rho no smaller than this
_LEAST_ROOT = 0.05
_SHORTER_STEPS = np.array([0.3, 0.05, 0.003])[:, None, None]
_MAX_ITERATIONS = 60


@dataclass(frozen=True)
class CurveFit:
    """One family fitted to one curve.

    ``alpha``, ``beta`` and ``half_multiple`` are None where the family has none. ``alpha`` and
    ``half_multiple`` are multiples of the longest training length. They are plain optima: whether
    the data identify them is for `failure` to say. ``rho`` is the overdispersion, ``bic`` counts
    evaluated lengths as its sample size.
    """

    family: Family
    alpha: float | None
    beta: float | None
    half_multiple: float | None
    lapse: float
    rho: float
    log_likelihood: float
    num_cells: int
    bic: float


Fits = dict[Family, CurveFit]


def fit_curve(curve: LengthCurve) -> Fits:
    """Fit every family to one seed."""
    return fit_cells(Cells.stack([[curve]]))[0]


def fit_curves(curves: Sequence[LengthCurve]) -> list[Fits]:
    """Fit every family to every curve separately; far faster than one by one."""
    return fit_cells(Cells.stack([[curve] for curve in curves]))


def fit_pooled(curves: Sequence[LengthCurve]) -> Fits:
    """Fit every family once to all seeds together: one curve, one lapse, one rho.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("a pooled fit needs at least one curve")
    return fit_cells(Cells.stack([curves]))[0]


def fit_cells(cells: Cells) -> list[Fits]:
    """Fit every family to each of F stacked curves."""
    if not len(cells.num_total):
        return []
    constant = binomial_coefficients(cells)
    per_family = [optimise(cells, family) for family in FAMILIES]
    return [
        {
            family: _as_fit(family, best[row], value[row] + constant[row], cells, row)
            for family, (best, value) in zip(FAMILIES, per_family, strict=True)
        }
        for row in range(len(constant))
    ]


def bounds(cells: Cells, family: Family) -> tuple[Floats, Floats]:
    """Return the lower and upper bounds of a family's parameters for each curve, [F, 4] each."""
    real = cells.num_total > 0
    first, last = cells.span
    lower, upper = np.empty((2, len(first), 4))
    lower[:, SCALE], upper[:, SCALE] = first - 3, last + 8
    lower[:, BETA], upper[:, BETA] = np.log(BETA_RANGE)
    lower[:, LAPSE] = np.sqrt(LAPSE_MIN)
    # a plateau less than half way up to the top is not a plateau to fall from
    room = 1 - np.where(real, cells.chance, 1.0).min(1)
    upper[:, LAPSE] = np.sqrt(np.maximum(room / 2, 1e-6))
    lower[:, RHO], upper[:, RHO] = np.sqrt(RHO_RANGE)
    if family != "weibull":
        lower[:, BETA] = upper[:, BETA] = 0.0
    if family == "holds":
        lower[:, SCALE] = upper[:, SCALE] = _NEVER
        # a constant accuracy may lie anywhere, even below chance
        upper[:, LAPSE] = 1.0
    return lower, upper


def maximise(
    start: Floats,
    cells: Cells,
    anchor: Anchor,
    limits: tuple[Floats, Floats],
    *,
    tolerance: float = 1e-6,
) -> tuple[Floats, Floats]:
    """Climb from every start to a local maximum of the likelihood.

    Newton steps with the absolute eigenvalues of the Hessian (an ascent direction everywhere),
    projected on the bounds; where a step gains nothing, the best of three shorter ones.

    Args:
        start: parameters inside the bounds, [R, 4].
        cells: counts, [R, K].
        anchor: the meaning of the first parameter, with chance [R].
        limits: lower and upper bounds, [R, 4] each.
        tolerance: a row is done when a step gains less log likelihood than this.

    Returns:
        The parameters [R, 4] and their log likelihoods [R].
    """
    best = np.clip(lift(start), *limits)
    value = log_likelihood(best, cells, anchor)
    rows = np.arange(len(best))
    for _ in range(_MAX_ITERATIONS):
        part, local = cells.take(rows), anchor.take(rows)
        lower, upper = limits[0][rows], limits[1][rows]
        step, promised = _newton_step(best[rows], part, local, (lower, upper))
        tried = np.clip(best[rows] + step, lower, upper)
        # a step that promises nothing is the last one, and its promise is kept
        last = promised <= tolerance
        best[rows[last]] = tried[last]
        value[rows[last]] += promised[last]
        going = np.flatnonzero(~last)
        if not len(going):
            break
        rows, part, local = rows[going], part.take(going), local.take(going)
        lower, upper, step, tried = lower[going], upper[going], step[going], tried[going]
        gain = log_likelihood(tried, part, local) - value[rows]
        poor = np.flatnonzero(gain <= tolerance)
        if len(poor):
            shorter = np.clip(
                best[rows[poor]] + _SHORTER_STEPS * step[poor], lower[poor], upper[poor]
            )
            values = log_likelihood(shorter, part.take(poor), local.take(poor))
            gains, chosen = values.max(0) - value[rows[poor]], values.argmax(0)
            longer = gains > gain[poor]
            tried[poor[longer]] = shorter[chosen[longer], np.flatnonzero(longer)]
            gain[poor] = np.maximum(gain[poor], gains)
        better = gain > 0
        best[rows[better]] = tried[better]
        value[rows[better]] += gain[better]
        rows = rows[gain > tolerance]
        if not len(rows):
            break
    return best, value


def lift(start: Floats) -> Floats:
    """Return ``start`` with lapse and rho off 0, where the root's slope is 0 whatever it gains."""
    lifted = start.copy()
    lifted[..., [LAPSE, RHO]] = np.maximum(start[..., [LAPSE, RHO]], _LEAST_ROOT)
    return lifted


def _newton_step(
    at: Floats, cells: Cells, anchor: Anchor, limits: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Return one damped Newton step for each row, [R, 4], and the gain it promises, [R].

    A step is at most 3 long.
    """
    lower, upper = limits
    slope, hessian = derivatives(at, cells, anchor)
    held = ((at >= upper) & (slope >= 0)) | ((at <= lower) & (slope <= 0)) | (lower == upper)
    slope = np.where(held, 0.0, slope)
    curvature = np.where(held[:, :, None] | held[:, None, :], 0.0, -hessian)
    eigenvalues, vectors = np.linalg.eigh(curvature)
    along = np.einsum("rij,ri->rj", vectors, slope) / (np.abs(eigenvalues) + 1e-3)
    step = np.einsum("rij,rj->ri", vectors, along)
    longest = np.abs(step).max(1, keepdims=True)
    step *= np.minimum(1.0, 3.0 / np.maximum(longest, 1e-300))
    return step, np.einsum("ri,ri->r", step, slope) / 2


def optimise(cells: Cells, family: Family) -> tuple[Floats, Floats]:
    """Return the best parameters [F, 4] and log likelihoods [F] over all starts."""
    lower, upper = bounds(cells, family)
    starts = starts_for(cells, family)
    num_curves, num_starts = starts.shape[:2]
    rows = np.repeat(np.arange(num_curves), num_starts)
    anchor = Anchor(None, np.zeros(len(rows)))
    best, value = maximise(
        starts.reshape(-1, 4), cells.take(rows), anchor, (lower[rows], upper[rows])
    )
    best, value = best.reshape(num_curves, num_starts, 4), value.reshape(num_curves, num_starts)
    winner, every = value.argmax(1), np.arange(num_curves)
    return best[every, winner], value[every, winner]


def starts_for(cells: Cells, family: Family) -> Floats:
    """Return the best scale on a grid for each starting beta, [F, starts, 4]."""
    lower, upper = bounds(cells, family)
    num_curves = len(lower)
    if family == "holds":
        errors = (cells.num_total - cells.num_correct).sum(1) / cells.num_total.sum(1)
        lapse = np.maximum(errors, 1e-4)
        starts = lower.copy()
        starts[:, LAPSE], starts[:, RHO] = np.sqrt(lapse), np.sqrt(_START_RHO)
        return starts[:, None]
    first, last = cells.span
    plateau = plateau_error(cells, first)
    betas = (1.0,) if family == "gradual" else _START_BETAS
    shares = np.linspace(0, 1, 25)
    scales = np.concatenate(
        [first[:, None] + (last - first)[:, None] * shares, last[:, None] + [0.7, 2.0, 5.0]], 1
    )
    grid = np.empty((len(betas), scales.shape[1], num_curves, 4))
    grid[..., SCALE] = scales.T
    grid[..., BETA] = np.log(betas)[:, None, None]
    grid[..., LAPSE] = np.sqrt(plateau)
    grid[..., RHO] = np.sqrt(_START_RHO)
    grid = np.clip(grid, lower, upper)
    values = log_likelihood(grid, cells, Anchor(None, np.zeros(num_curves)))
    top = values.argmax(1)
    return np.asarray(np.take_along_axis(grid, top[:, None, :, None], 1)[:, 0].swapaxes(0, 1))


def plateau_error(cells: Cells, first: Floats) -> Floats:
    """Return a first guess of each lapse, [F]: the error in distribution, never quite 0."""
    inside = (cells.log_multiple <= np.maximum(first, 0.0)[:, None]) & (cells.num_total > 0)
    total = np.where(inside, cells.num_total, 0.0).sum(1)
    right = np.where(inside, cells.num_correct, 0.0).sum(1)
    return np.asarray((total - right + 0.1) / (total + 1.0))


def _as_fit(family: Family, best: Floats, value: float, cells: Cells, row: int) -> CurveFit:
    """Turn one row of parameters into a `CurveFit`."""
    num_cells = int(cells.num_cells[row])
    shaped = family != "holds"
    half, beta = float(np.exp(best[SCALE])), float(np.exp(best[BETA]))
    return CurveFit(
        family=family,
        alpha=float(half * np.log(2) ** (-1 / beta)) if shaped else None,
        beta=beta if shaped else None,
        half_multiple=half if shaped else None,
        lapse=float(best[LAPSE] ** 2),
        rho=float(best[RHO] ** 2),
        log_likelihood=float(value),
        num_cells=num_cells,
        bic=float(-2 * value + NUM_PARAMETERS[family] * np.log(num_cells)),
    )
