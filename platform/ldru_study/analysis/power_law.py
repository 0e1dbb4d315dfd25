"""A power law with a floor, y = floor + scale x^exponent, fitted in log space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ldru_study.analysis.counts import Floats

_DELTA = 1e-3
_NO_FLOOR = -30.0
_NUM_BOOTSTRAP = 200


@dataclass(frozen=True)
class PowerLaw:
    """y = floor + scale x^exponent, with a percentile interval of the exponent over runs."""

    floor: float
    scale: float
    exponent: float
    lower: float
    upper: float


def fit_power_law(x: Floats, y: Floats, *, seed: int = 0) -> PowerLaw:
    """Fit by the sum of Huber losses of ln y, from a grid of starts, and bootstrap over runs.

    The loss is summed, not averaged: an average over runs makes every gradient so small that the
    optimiser stops early, far from the exponent.

    Args:
        x: what varies, [R], > 0.
        y: one value per run, [R], > 0.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than four values of x, a value that is not positive, or no convergence.

    Source: Hoffmann et al. 2022, "Training compute-optimal large language models", section D.2.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if np.any(x <= 0) or np.any(y <= 0):
        raise ValueError("a power law needs positive values")
    num_values = len(np.unique(x))
    if num_values < 4:
        raise ValueError(f"x has {num_values} values, three parameters need at least 4")
    u, v = np.log(x), np.log(y)
    best = _best(u, v, _starts(u, v))
    rng = np.random.default_rng(seed)
    exponents: list[float] = []
    while len(exponents) < _NUM_BOOTSTRAP:
        rows = rng.integers(len(u), size=len(u))
        # fewer values of x do not identify the law
        if len(np.unique(u[rows])) >= 4:
            exponents.append(float(_best(u[rows], v[rows], best[None])[1]))
    low, high = np.quantile(exponents, [0.025, 0.975])
    floor = 0.0 if best[2] <= _NO_FLOOR + 1 else float(np.exp(best[2]))
    return PowerLaw(floor, float(np.exp(best[0])), float(best[1]), float(low), float(high))


def huber(parameters: Floats, u: Floats, v: Floats) -> tuple[float, Floats]:
    """Return the summed loss of ln scale, exponent and ln floor, [3], and its gradient."""
    power, floor = parameters[0] + parameters[1] * u, parameters[2]
    residual = np.logaddexp(power, floor) - v
    small = np.abs(residual) <= _DELTA
    loss = np.where(small, residual**2 / 2, _DELTA * (np.abs(residual) - _DELTA / 2))
    slope = np.clip(residual, -_DELTA, _DELTA)
    share = expit(power - floor)
    gradient = np.array([slope @ share, slope @ (share * u), slope @ (1 - share)])
    return float(loss.sum()), gradient


def _starts(u: Floats, v: Floats) -> Floats:
    exponents = np.array([-2.0, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, 2.0])
    floors = v.min() + np.log([1e-6, 0.1, 0.5, 0.95])
    return np.array([[np.median(v - b * u), b, e] for b in exponents for e in floors])


def _best(u: Floats, v: Floats, starts: Floats) -> Floats:
    # scaled so that a step of the optimiser is not lost against delta
    def scaled(p: Floats) -> tuple[float, Floats]:
        loss, gradient = huber(p, u, v)
        return loss / _DELTA, gradient / _DELTA

    bounds = [(None, None), (-20.0, 20.0), (_NO_FLOOR, None)]
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-13, "gtol": 1e-8}
    found = [
        minimize(scaled, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        for start in np.clip(starts, [-np.inf, -20, _NO_FLOOR], np.inf)
    ]
    best = _polish(min(found, key=lambda one: one.fun).x, u, v)
    gradient = huber(best, u, v)[1] / _DELTA
    # a floor of nothing cannot sink further
    gradient = np.where((best[2] <= _NO_FLOOR + 1) & (np.arange(3) == 2), 0.0, gradient)
    # the gradient is at most the number of runs, in units of delta and of one run
    if np.linalg.norm(gradient) > 0.05 * len(u):
        norm = np.linalg.norm(gradient)
        raise ValueError(f"the optimiser stopped at a gradient of {norm:.2g}, not at a minimum")
    return best


def _polish(start: Floats, u: Floats, v: Floats) -> Floats:
    """Take weighted Gauss-Newton steps: where most residuals exceed delta, L-BFGS stops at a kink.

    Source: Huber 1981, "Robust statistics", section 7.8, modified weights.
    """
    best, value = start, huber(start, u, v)[0]
    for _ in range(200):
        power = best[0] + best[1] * u
        residual, share = np.logaddexp(power, best[2]) - v, expit(power - best[2])
        weight = np.minimum(1.0, _DELTA / np.maximum(np.abs(residual), 1e-12))
        slopes = np.stack([share, share * u, 1 - share], axis=1)
        normal = slopes.T @ (weight[:, None] * slopes) + 1e-12 * np.eye(3)
        step = -np.linalg.solve(normal, slopes.T @ (weight * residual))
        tried = [best + size * step for size in (1.0, 0.5, 0.1, 0.01)]
        tried = [np.array([p[0], p[1], max(p[2], _NO_FLOOR)]) for p in tried]
        values = [huber(p, u, v)[0] for p in tried]
        if min(values) >= value - 1e-12 * abs(value):
            break
        best, value = tried[int(np.argmin(values))], min(values)
    return np.asarray(best)
