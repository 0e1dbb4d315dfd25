"""Profile likelihoods of one parameter, many curves at once, and the intervals read off them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ldru_study.analysis.counts import Floats
from ldru_study.analysis.curves import (
    BETA,
    LAPSE,
    NUM_PARAMETERS,
    RHO,
    SCALE,
    Anchor,
    Cells,
    derivatives,
)
from ldru_study.analysis.fits import CurveFit, bounds, maximise

# a top of the profile wider than this (natural logarithm) has no single best value
_FLAT_WIDTH = 0.1
_FLAT_DEVIANCE = 0.02
_NEAR = np.array([-1.2, -0.6, -0.3, -0.15, -0.07, -0.03, 0.0, 0.03, 0.07, 0.15, 0.3, 0.6, 1.2])
_NUM_SPREAD = 16
# a root deviance of so many limits does not come down again
_FAR = 2.0
# points further apart than this (natural logarithm) are far apart
_COARSE = 0.1
# how far the other parameters are taken to change in proportion (natural logarithm)
_FOLLOWED = 0.3
# how far past the last length a profile is followed (natural logarithm)
_BEYOND = 0.7

Ends = tuple[float | None, float | None, float | None]


def profile_intervals(
    cells: Cells,
    fits: Sequence[CurveFit],
    column: int,
    *,
    level: float | None = None,
    confidence: float = 0.95,
) -> list[Ends]:
    """Return value, lower and upper end of one parameter of each curve, as natural logarithms.

    An end is None where the likelihood does not fall off on that side within the tested lengths;
    the value, the middle of the profile's top, is None where that top is wide or open.

    The cut is the square of Student's t, not chi square: the overdispersion is estimated from few
    lengths. In simulated studies with rho = 0.05 and twelve lengths chi square covers 85-93 % and
    this cut 91-98 % where 95 % was asked.

    Args:
        cells: counts of F curves.
        fits: one fit each, all of one family, not "holds".
        column: `SCALE` or `BETA`.
        level: with `SCALE`, the excess whose failure multiple is meant; None: S = 1/2.
        confidence: of the interval.

    Source: profile likelihood; for the cut Bates and Watts 1988, section 6.1.
    """
    spare = np.maximum(cells.num_cells - NUM_PARAMETERS[fits[0].family], 1)
    limits = stdtrit(spare, 0.5 + confidence / 2)
    points, deviance = _profiles(cells, fits, column, level, limits)
    root = np.sqrt(np.maximum(deviance, 0))
    return [_ends(*row) for row in zip(points, root, limits, strict=True)]


def deviances_at(cells: Cells, fits: Sequence[CurveFit], column: int, logarithm: float) -> Floats:
    """Return twice the log likelihood lost when a parameter is held at one value, [F]."""
    start = parameters(fits)
    lower, upper = bounds(cells, fits[0].family)
    anchor = Anchor(None, np.zeros(len(fits)))
    _, best = maximise(start, cells, anchor, (lower, upper))
    start[:, column] = lower[:, column] = upper[:, column] = logarithm
    _, log_likelihoods = maximise(start, cells, anchor, (lower, upper))
    return np.maximum(2 * (best - log_likelihoods), 0.0)


def chance_at_failure(cells: Cells, fits: Sequence[CurveFit]) -> Floats:
    """Return the chance at the length nearest to each half multiple, or at the last one, [F]."""
    half = np.array([np.inf if fit.half_multiple is None else fit.half_multiple for fit in fits])
    where = np.minimum(np.log(half), cells.span[1])[:, None]
    distance = np.where(cells.num_total > 0, np.abs(cells.log_multiple - where), np.inf)
    return np.asarray(cells.chance[np.arange(len(fits)), distance.argmin(1)])


def parameters(fits: Sequence[CurveFit], anchor: Anchor | None = None) -> Floats:
    """Return the fitted parameters, [F, 4], the first moved to ``anchor`` (default: S = 1/2).

    Every plateau must reach the anchor's level.
    """
    start = np.array(
        [[np.log(f.half_multiple or 1.0), np.log(f.beta or 1.0), f.lapse, f.rho] for f in fits]
    )
    if anchor is not None:
        log_g, *_ = anchor.log_g(start[:, LAPSE])
        start[:, SCALE] += (log_g - np.log(np.log(2))) / np.exp(start[:, BETA])
    start[:, [LAPSE, RHO]] = np.sqrt(start[:, [LAPSE, RHO]])
    return start


def _profiles(
    cells: Cells, fits: Sequence[CurveFit], column: int, level: float | None, limits: Floats
) -> tuple[Floats, Floats]:
    """Return the points of each profile and the deviance there, [F, D] each.

    The points are a cluster about the maximum, unless the root deviance is far above its limit [F]
    at both ends of that a spread over the identifiable range, and two more wherever the limit is
    crossed between points far apart. The deviance is twice the loss of log likelihood against the
    best point.
    """
    chance = chance_at_failure(cells, fits)
    anchor = Anchor(level, chance)
    lower, upper = bounds(cells, fits[0].family)
    if level is not None:
        # the plateau of every candidate must lie above the level
        room = np.sqrt((1 - level) * (1 - chance) * (1 - 1e-6))
        upper[:, LAPSE] = np.minimum(upper[:, LAPSE], room)
    centre = np.clip(parameters(fits, anchor), lower, upper)
    # a threshold and its shape go together; how sharp a step is has no say in where it is
    slopes = _follow(cells, anchor, (lower, upper), centre) if column == SCALE else None
    low, high = lower[:, [column]], upper[:, [column]]

    def evaluate(rows: NDArray[np.intp], points: Floats) -> Floats:
        each = np.repeat(rows, points.shape[1])
        start, floor, roof = centre[each], lower[each], upper[each]
        if slopes is not None:
            change = points.ravel()[:, None] - start[:, [SCALE]]
            start += np.clip(slopes[each] * change, -_FOLLOWED, _FOLLOWED)
        start[:, column] = floor[:, column] = roof[:, column] = points.ravel()
        _, value = maximise(
            start, cells.take(each), anchor.take(each), (floor, roof), tolerance=1e-3
        )
        return value.reshape(points.shape)

    points = np.clip(centre[:, [column]] + _NEAR, low, high)
    value = evaluate(np.arange(len(points)), points)

    def add(rows: NDArray[np.intp], more: Floats) -> None:
        nonlocal points, value
        # where nothing is added the first point stands for it
        filled, values = (np.repeat(x[:, :1], more.shape[1], axis=1) for x in (points, value))
        filled[rows], values[rows] = more, evaluate(rows, more)
        points, value = np.concatenate([points, filled], 1), np.concatenate([value, values], 1)
        order = points.argsort(axis=1, kind="stable")
        points, value = (np.take_along_axis(x, order, 1) for x in (points, value))

    root = _root_deviance(value)
    wide = np.flatnonzero((root[:, [0, -1]] < _FAR * limits[:, None]).any(1))
    first, last = cells.span
    edges = (first, last + _BEYOND) if column == SCALE else (low[:, 0], high[:, 0])
    whole = edges[0][:, None] + (edges[1] - edges[0])[:, None] * np.linspace(0, 1, _NUM_SPREAD)
    add(wide, np.clip(whole, low, high)[wide])
    for side in (-1, 1):
        inside = _root_deviance(value) <= limits[:, None]
        edge = inside.argmax(1) if side < 0 else inside.shape[1] - 1 - inside[:, ::-1].argmax(1)
        outer = np.clip(edge + side, 0, inside.shape[1] - 1)
        at, beyond = (np.take_along_axis(points, n[:, None], 1) for n in (edge, outer))
        rows = np.flatnonzero(np.abs(beyond - at)[:, 0] > _COARSE)
        add(rows, (at + (beyond - at) * np.array([1 / 3, 2 / 3]))[rows])
    return points, 2 * (value.max(1, keepdims=True) - value)


def _root_deviance(value: Floats) -> Floats:
    return np.asarray(np.sqrt(np.maximum(2 * (value.max(1, keepdims=True) - value), 0.0)))


def _follow(cells: Cells, anchor: Anchor, limits: tuple[Floats, Floats], centre: Floats) -> Floats:
    """Return how the optimum of the other parameters changes with the first, [F, 4]."""
    _, hessian = derivatives(centre, cells, anchor)
    held = (centre <= limits[0]) | (centre >= limits[1])
    held[:, SCALE] = True
    cross = np.where(held, 0.0, hessian[:, SCALE])
    curvature = np.where(held[:, :, None] | held[:, None, :], 0.0, -hessian)
    eigenvalues, vectors = np.linalg.eigh(curvature)
    along = np.einsum("rij,ri->rj", vectors, cross) / (np.abs(eigenvalues) + 1e-3)
    return np.asarray(np.einsum("rij,rj->ri", vectors, along))


def _ends(points: Floats, root: Floats, limit: float) -> Ends:
    """Return the middle of a profile's top and where its root deviance crosses ``limit``."""
    return middle_of_top(points, root), *crossings(points, root, limit)


def middle_of_top(points: Floats, root: Floats) -> float | None:
    """Return the middle of a profile's top; None where the top is wide or open.

    Args:
        points: natural logarithms, [D], ascending.
        root: the root of the deviance at each.
    """
    low, high = crossings(points, root, float(np.sqrt(_FLAT_DEVIANCE)))
    if low is None or high is None or high - low > _FLAT_WIDTH:
        return None
    return (low + high) / 2


def crossings(points: Floats, root: Floats, limit: float) -> tuple[float | None, float | None]:
    """Return the outermost crossings of ``limit``; None where the profile stays below it.

    Between points the root deviance is interpolated: it is linear for a normal likelihood.
    """
    inside = np.flatnonzero(root <= limit)
    ends: list[float | None] = []
    for edge, step in ((int(inside[0]), -1), (int(inside[-1]), 1)):
        outer = edge + step
        if not 0 <= outer < len(points):
            ends.append(None)
            continue
        share = (limit - root[edge]) / (root[outer] - root[edge])
        ends.append(float(points[edge] + share * (points[outer] - points[edge])))
    return ends[0], ends[1]
