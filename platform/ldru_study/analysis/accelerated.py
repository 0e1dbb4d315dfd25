"""Accelerated failure times: ln t = intercept + slope u + sigma e, from intervals that hold t.

In 1/sigma, intercept/sigma and slope/sigma the likelihood of either distribution of e is concave,
so that Newton's method finds its only maximum, from anywhere.

Source: Burridge 1981, "A note on maximum likelihood estimation for regression models using grouped
data".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from ldru_study.analysis.counts import Floats

_Logs = Callable[[Floats, Floats], Floats]
# exp of it is still a number, and no run is as unlikely
_MOST = 500.0
_MAX_STEPS = 200
_CONVERGED = 1e-11


@dataclass(frozen=True)
class Distribution:
    """How runs scatter about their line, by functions of z = (ln t - line) / sigma, elementwise.

    Args:
        log_between: ln P(lower < z <= upper); the ends may be infinite.
        log_density: ln of the density f.
        slope: f'(z) / f(z).
        median: the median of z.
    """

    log_between: _Logs
    log_density: Callable[[Floats], Floats]
    slope: Callable[[Floats], Floats]
    median: float


@dataclass(frozen=True)
class Line:
    """The maximum of the likelihood.

    ``errors`` are the standard errors of intercept, slope and ln sigma, from the curvature there.
    """

    intercept: float
    slope: float
    sigma: float
    errors: tuple[float, float, float]
    log_likelihood: float


def _normal_between(lower: Floats, upper: Floats) -> Floats:
    # of two ends above 0 the difference of survivals is the one that is not lost to rounding
    above = lower > 0
    low, high = np.where(above, -upper, lower), np.where(above, -lower, upper)
    of_high = log_ndtr(high)
    return np.asarray(of_high + np.log1p(-np.exp(log_ndtr(low) - of_high)))


def _extreme_between(lower: Floats, upper: Floats) -> Floats:
    low, high = (np.exp(np.minimum(z, _MOST)) for z in (lower, upper))
    return np.asarray(-low + np.log(-np.expm1(low - high)))


NORMAL = Distribution(
    _normal_between,
    lambda z: -(z**2) / 2 - np.log(2 * np.pi) / 2,
    lambda z: -z,
    0.0,
)
# t is then Weibull's, with shape 1/sigma
EXTREME_VALUE = Distribution(
    _extreme_between,
    lambda z: z - np.exp(np.minimum(z, _MOST)),
    lambda z: 1 - np.exp(np.minimum(z, _MOST)),
    float(np.log(np.log(2))),
)


def fit_line(u: Floats, lower: Floats, upper: Floats, of: Distribution) -> Line | None:
    """Return the most likely line, None where the likelihood has no maximum.

    Args:
        u: what varies, [R].
        lower: ln of the lower ends of the runs' intervals, [R]; -infinity where there is none.
        upper: ln of the upper ends, [R], above ``lower``; infinity where there is none, which
            never goes with a ``lower`` of -infinity: such a run says nothing.
        of: how runs scatter.
    """
    centre = float(u.mean())
    ends = _Ends(u - centre, lower, upper, of)
    at = _start(ends)
    value, slope, curvature = ends.likelihood(at)
    for _ in range(_MAX_STEPS):
        try:
            step = np.linalg.solve(curvature, slope)
        except np.linalg.LinAlgError:
            return None
        gain = float(slope @ step)
        if not np.isfinite(gain):
            return None
        if gain < _CONVERGED:
            return _line(at, curvature, value, centre)
        size = 1.0
        while True:
            tried = at + size * step
            found = ends.likelihood(tried) if tried[2] > 0 else None
            if found is not None and found[0] >= value + 1e-4 * size * gain:
                break
            size /= 2
            if size < 1e-10:
                # rounding, or a wall that the maximum lies behind
                return _line(at, curvature, value, centre) if gain < 1e-6 else None
        at, (value, slope, curvature) = tried, found
    return None


@dataclass(frozen=True)
class _Ends:
    """Both ends of every run's interval: z = scaled ln t - intercept - slope u, all over sigma."""

    u: Floats
    lower: Floats
    upper: Floats
    of: Distribution

    def likelihood(self, at: Floats) -> tuple[float, Floats, Floats]:
        """Return the log-likelihood at (intercept, slope, 1) / sigma, its gradient and -Hessian."""
        line = at[0] + at[1] * self.u
        low, high = at[2] * self.lower - line, at[2] * self.upper - line
        between = self.of.log_between(low, high)
        gradient, hessian = np.zeros(3), np.zeros((3, 3))
        firsts = []
        for sign, y, z in ((1.0, self.upper, high), (-1.0, self.lower, low)):
            known = np.isfinite(y)
            z = np.where(known, z, 0.0)
            share = np.where(known, sign * np.exp(self.of.log_density(z) - between), 0.0)
            by = np.stack([-np.ones_like(z), -self.u, np.where(known, y, 0.0)], axis=1)
            hessian += by.T @ ((share * self.of.slope(z))[:, None] * by)
            firsts.append(share[:, None] * by)
        first = firsts[0] + firsts[1]
        gradient = first.sum(0)
        hessian -= first.T @ first
        return float(between.sum()), gradient, -hessian


def _start(ends: _Ends) -> Floats:
    """Return the least squares of the middles, with room for every run."""
    low = np.where(np.isfinite(ends.lower), ends.lower, ends.upper)
    high = np.where(np.isfinite(ends.upper), ends.upper, ends.lower)
    middle = (low + high) / 2
    slope = ends.u @ middle / max(float(ends.u @ ends.u), 1e-12)
    rest = middle - middle.mean() - slope * ends.u
    sigma = max(float(rest.std()), float((high - low).mean()), 0.1)
    return np.array([middle.mean(), slope, 1.0]) / sigma


def _line(at: Floats, curvature: Floats, value: float, centre: float) -> Line:
    first, slope, precision = at
    sigma = 1 / precision
    # by the scaled parameters: intercept at u = 0, slope, ln sigma
    jacobian = np.array(
        [
            [sigma, -centre * sigma, -(first - centre * slope) * sigma**2],
            [0.0, sigma, -slope * sigma**2],
            [0.0, 0.0, -sigma],
        ]
    )
    spread = np.diag(jacobian @ np.linalg.inv(curvature) @ jacobian.T)
    errors = np.sqrt(np.where(spread > 0, spread, np.nan))
    return Line(
        intercept=float((first - centre * slope) * sigma),
        slope=float(slope * sigma),
        sigma=float(sigma),
        errors=(float(errors[0]), float(errors[1]), float(errors[2])),
        log_likelihood=value,
    )
