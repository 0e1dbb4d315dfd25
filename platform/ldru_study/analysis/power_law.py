"""A power law with a floor, y = floor + scale x^exponent, fitted in log space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from ldru_study.analysis.counts import Floats, Ints

_DELTA = 1e-3
_NO_FLOOR = -30.0
# beyond it one law looks like another
_STEEPEST = 20.0
# ln scale, exponent, ln floor
_LEAST = np.array([-np.inf, -_STEEPEST, _NO_FLOOR])
_MOST = np.array([np.inf, _STEEPEST, np.inf])
_NUM_BOOTSTRAP = 200
_NUM_STEPS = 300
# shares of a step that are tried
_SIZES = np.array([1.0, 0.5, 0.1, 0.01, 1e-3, 1e-4])
# a gradient per run, in units of delta
_SETTLED = 0.05 * _DELTA


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
    best = _settle(u, v, _first(u, v))
    rng = np.random.default_rng(seed)
    drawn: list[Ints] = []
    while len(drawn) < _NUM_BOOTSTRAP:
        rows = rng.integers(len(u), size=len(u))
        # fewer values of x do not identify the law
        if len(np.unique(u[rows])) >= 4:
            drawn.append(rows)
    exponents = _bootstrap(u, v, best, drawn)
    low, high = np.quantile(exponents, [0.025, 0.975])
    floor = 0.0 if best[2] <= _NO_FLOOR + 1 else float(np.exp(best[2]))
    return PowerLaw(floor, float(np.exp(best[0])), float(best[1]), float(low), float(high))


def huber(parameters: Floats, u: Floats, v: Floats) -> tuple[float, Floats]:
    """Return the summed loss of ln scale, exponent and ln floor, [3], and its gradient."""
    power, floor = parameters[0] + parameters[1] * u, parameters[2]
    residual = np.logaddexp(power, floor) - v
    size = np.abs(residual)
    loss = np.where(size <= _DELTA, size**2 / 2, _DELTA * (size - _DELTA / 2))
    slope = np.clip(residual, -_DELTA, _DELTA)
    share = expit(power - floor)
    gradient = np.array([slope @ share, slope @ (share * u), slope @ (1 - share)])
    return float(loss.sum()), gradient


@dataclass(frozen=True)
class _At:
    """Several settings of the parameters, [S, 3], on the same runs, [R].

    Losses are sums over runs, each as often as its weight, [S, R], says.
    """

    parameters: Floats
    u: Floats
    v: Floats

    @cached_property
    def power(self) -> Floats:
        return np.asarray(self.parameters[:, :1] + self.parameters[:, 1:2] * self.u)

    @cached_property
    def residual(self) -> Floats:
        return np.asarray(np.logaddexp(self.power, self.parameters[:, 2:]) - self.v)

    @cached_property
    def slopes(self) -> Floats:
        """What the residuals change by with each parameter, [S, R, 3]."""
        share = expit(self.power - self.parameters[:, 2:])
        return np.stack([share, share * self.u, 1 - share], axis=2)

    def loss(self, weights: Floats, delta: float) -> Floats:
        size = np.abs(self.residual)
        loss = np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
        return np.asarray((weights * loss).sum(1))

    def gradient(self, weights: Floats, delta: float) -> Floats:
        slope = weights * np.clip(self.residual, -delta, delta)
        return np.asarray(np.matmul(slope[:, None, :], self.slopes)[:, 0])


def _first(u: Floats, v: Floats) -> Floats:
    """Return the best of what steps from a grid of starts lead to, [3]."""
    exponents = np.array([-2.0, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, 2.0])
    floors = v.min() + np.log([1e-6, 0.1, 0.5, 0.95])
    starts = np.array([[np.median(v - b * u), b, e] for b in exponents for e in floors])
    starts = np.clip(starts, _LEAST, _MOST)
    weights = np.ones((len(starts), len(u)))
    found = np.concatenate(
        [_narrow(u, v, starts, weights), _descend(u, v, starts, weights, _DELTA, _NUM_STEPS)]
    )
    return np.asarray(found[np.argmin(_At(found, u, v).loss(np.ones((1, len(u))), _DELTA))])


def _bootstrap(u: Floats, v: Floats, best: Floats, drawn: Sequence[Ints]) -> list[float]:
    """Return the exponent of every draw of runs, all at once, from the best law of all runs."""
    weights = np.array([np.bincount(rows, minlength=len(u)) for rows in drawn], float)
    found = _narrow(u, v, np.repeat(best[None], len(drawn), axis=0), weights)
    norms = _free_gradient(found, _At(found, u, v).gradient(weights, _DELTA))
    return [
        # steps end at a kink now and then, which the optimiser gets over
        float((one if norm <= _SETTLED * len(u) else _settle(u[rows], v[rows], best))[1])
        for one, norm, rows in zip(found, norms, drawn, strict=True)
    ]


def _settle(u: Floats, v: Floats, start: Floats) -> Floats:
    """Return the minimum that a start, [3], leads to.

    Raises:
        ValueError: what was found is none.
    """

    # scaled so that a step of the optimiser is not lost against delta
    def scaled(p: Floats) -> tuple[float, Floats]:
        loss, gradient = huber(p, u, v)
        return loss / _DELTA, gradient / _DELTA

    bounds = [(None, None), (-_STEEPEST, _STEEPEST), (_NO_FLOOR, None)]
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-13, "gtol": 1e-8}
    found = minimize(scaled, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    best = _descend(u, v, found.x[None], np.ones((1, len(u))), _DELTA, _NUM_STEPS)
    (norm,) = _free_gradient(best, huber(best[0], u, v)[1][None])
    # at most the gradient is delta times the number of runs
    if norm > _SETTLED * len(u):
        raise ValueError(
            f"the optimiser stopped at a gradient of {norm / _DELTA:.2g}, not at a minimum"
        )
    return np.asarray(best[0])


def _free_gradient(parameters: Floats, gradient: Floats) -> Floats:
    """Return how steep it is where there is still room to go, [S], summed over runs."""
    return np.asarray(np.linalg.norm(np.where(_held(parameters, gradient), 0.0, gradient), axis=1))


def _held(parameters: Floats, gradient: Floats) -> NDArray[np.bool_]:
    """Return which parameters a bound keeps from sinking or rising further, [S, 3]."""
    # a floor of nearly nothing cannot sink further
    least = _LEAST + np.array([0.0, 0.0, 1.0])
    return np.asarray(
        ((parameters <= least) & (gradient >= 0)) | ((parameters >= _MOST) & (gradient <= 0))
    )


def _narrow(u: Floats, v: Floats, starts: Floats, weights: Floats) -> Floats:
    """Descend with ever smaller delta: far from the minimum a small one makes all runs kinks."""
    for delta in (0.1, 0.03, 0.01, 0.003):
        starts = _descend(u, v, starts, weights, delta, 15)
    return _descend(u, v, starts, weights, _DELTA, _NUM_STEPS)


def _descend(
    u: Floats, v: Floats, starts: Floats, weights: Floats, delta: float, num_steps: int
) -> Floats:
    """Take weighted Gauss-Newton steps: where most residuals exceed delta, L-BFGS stops at a kink.

    Args:
        u: ln x, [R].
        v: ln y, [R].
        starts: parameters, [S, 3].
        weights: how often each run counts, [S, R].
        delta: beyond it a residual counts by its size.
        num_steps: at most.

    Source: Huber 1981, "Robust statistics", section 7.8, modified weights.
    """
    best = np.array(starts)
    value = _At(best, u, v).loss(weights, delta)
    moving = np.arange(len(best))
    for _ in range(num_steps):
        here, weight = _At(best[moving], u, v), weights[moving]
        size = np.maximum(np.abs(here.residual), 1e-12)
        pull = weight * np.minimum(1.0, delta / size)
        normal = np.matmul(here.slopes.transpose(0, 2, 1), pull[:, :, None] * here.slopes)
        normal += 1e-12 * np.eye(3)
        gradient = here.gradient(weight, delta)
        held = _held(here.parameters, gradient)
        normal[held] = 0.0
        normal.transpose(0, 2, 1)[held] = 0.0
        normal += held[:, :, None] * np.eye(3)
        step = -np.linalg.solve(normal, np.where(held, 0.0, gradient)[:, :, None])[:, :, 0]
        tried = np.clip(here.parameters + _SIZES[:, None, None] * step, _LEAST, _MOST)
        losses = np.array([_At(one, u, v).loss(weight, delta) for one in tried])
        chosen, rows = losses.argmin(0), np.arange(len(moving))
        new = losses[chosen, rows]
        is_less = new < value[moving] - 1e-12 * np.abs(value[moving])
        moving = moving[is_less]
        if not len(moving):
            break
        best[moving] = tried[chosen, rows][is_less]
        value[moving] = new[is_less]
    return best
