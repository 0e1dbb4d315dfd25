"""Where the seeds of a cell fail, as a distribution: its median, its scatter, its likelihood.

The half multiples of a cell's seeds are taken as log-normal with median exp(mu) and scatter sigma.
Each seed's likelihood over its own half multiple is tabulated on knots that crowd where it bends,
and integrated against the normal density in closed form, so that a scatter far below or far above
the width of a seed's likelihood is served alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from ldru_study.analysis.counts import Floats
from ldru_study.analysis.curves import SCALE, Anchor, Cells, Form, log_likelihood
from ldru_study.analysis.joint import JointFits

# how far before the first and past the last multiple a seed may fail (natural logarithm)
_BEFORE, _BEYOND = 2.5, 4.0
_NUM_COARSE, _NUM_KNOTS = 49, 33
# beyond this root deviance a likelihood is 0
_ROOT_DEVIANCE_MAX = 6.0
_SCATTERS = np.geomspace(0.004, 3.0, 16)
_NEAR = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.75, 4.0, 6.0, 9.0, 14.0])
_CELLS_AT_ONCE = 25
# numbers handled at once: more than this leave the processor's cache
_BLOCK = 32_768


@dataclass(frozen=True, eq=False)
class Thresholds:
    """The distribution of half multiples over the seeds of C cells.

    Args:
        mu: candidates for the natural logarithm of the median half multiple, [C, Q], ascending.
        log_likelihood: of each candidate with the scatter that suits it best, without the
            binomial constant, [C, Q].
        scatter: the standard deviation of the logarithms at the best candidate, [C].
        seeds: the logarithm of each seed's half multiple, drawn towards the best candidate by as
            much as the seed's own counts leave open, [C, S]; nan for padding.
    """

    mu: Floats
    log_likelihood: Floats
    scatter: Floats
    seeds: Floats


def profile_medians(
    candidates: Sequence[JointFits], cells: Cells, mu: Floats | None = None
) -> list[Thresholds]:
    """Profile the median half multiple of each cell under each of several fits.

    Args:
        candidates: fits of the same cells; the candidates for mu are the same for all.
        cells: the counts fitted, [C, S, K].
        mu: candidates for the logarithm of the median half multiple, [C, Q]; None: chosen here.
    """
    parts: list[list[tuple[Floats, ...]]] = []
    num_cells = len(cells.num_total)
    for first in range(0, num_cells, _CELLS_AT_ONCE):
        rows = np.arange(first, min(first + _CELLS_AT_ONCE, num_cells))
        given = None if mu is None else mu[rows]
        parts.append(
            _profiles(
                [(fit.parameters[rows], fit.form) for fit in candidates], cells.take(rows), given
            )
        )
    return [
        Thresholds(*(np.concatenate(column) for column in zip(*part, strict=True)))
        for part in zip(*parts, strict=True)
    ]


def interval_cut(num_seeds: int, spare: int, confidence: float = 0.95) -> float:
    """Return the deviance at the ends of an interval for the median over ``num_seeds``.

    For seeds that are known exactly, S ln(1 + t^2 / (S - 1)) makes the profile's interval that of
    Student's t, whose scatter is estimated from the same few seeds; chi square would be far too
    short below ten seeds. Where the seeds hardly scatter the interval is wider than it need be.
    A single seed is its own median; then, as in `profiles`, only the overdispersion is estimated.

    Args:
        num_seeds: S.
        spare: counts less parameters.
        confidence: of the interval.
    """
    share = 0.5 + confidence / 2
    if num_seeds == 1:
        return float(stdtrit(max(spare, 1), share) ** 2)
    t = stdtrit(num_seeds - 1, share)
    return float(num_seeds * np.log1p(t**2 / (num_seeds - 1)))


def _profiles(
    candidates: Sequence[tuple[Floats, Form]], cells: Cells, mu: Floats | None
) -> list[tuple[Floats, ...]]:
    real = np.asarray(cells.num_total.any(2))
    tables = []
    for parameters, form in candidates:
        knots, table = _tabulate(parameters, cells, form)
        tables.append((knots, np.where(real[..., None], table, 0.0)))
    if mu is None:
        mu = _candidates(*tables[0], real)
    every = np.arange(len(mu))
    found: list[tuple[Floats, ...]] = []
    for knots, table in tables:
        best, scatter = _best_scatter(mu, knots, table, real)
        top = best.argmax(1)
        sigma = scatter[every, top]
        centres, widths = _moments(knots, table)
        # the posterior mean of a normal likelihood under a normal prior
        trust = sigma[:, None] ** 2 / (sigma[:, None] ** 2 + widths**2)
        seeds = trust * centres + (1 - trust) * mu[every, top][:, None]
        found.append((mu, best, sigma, np.where(real, seeds, np.nan)))
    return found


def _candidates(knots: Floats, table: Floats, real: NDArray[np.bool_]) -> Floats:
    """Return values of mu that crowd about the best one, [C, Q], ascending."""
    low, high = knots[:, :, 0].min(1)[:, None], knots[:, :, -1].max(1)[:, None]
    centres, widths = _moments(knots, table)
    count = np.maximum(real.sum(1), 1)
    mean = np.where(real, centres, 0.0).sum(1) / count
    spread = np.sqrt(np.where(real, (centres - mean[:, None]) ** 2 + widths**2, 0.0).sum(1) / count)
    first = mean[:, None] + np.maximum(spread, 0.01)[:, None] * np.linspace(-2.0, 2.0, 13)
    first = np.clip(first, low, high)
    best, scatter = _best_scatter(first, knots, table, real)
    every, top = np.arange(len(best)), best.argmax(1)
    weight = np.where(real, 1 / (scatter[every, top][:, None] ** 2 + widths**2), 0.0).sum(1)
    tau = np.maximum(1 / np.sqrt(np.maximum(weight, 1e-9)), 1e-3)
    steps = np.concatenate([-_NEAR[:0:-1], _NEAR])
    near = first[every, top][:, None] + tau[:, None] * steps
    wide = low + (high - low) * np.linspace(0, 1, 9)
    return np.sort(np.clip(np.concatenate([near, wide], 1), low, high), axis=1)


def _best_scatter(
    mu: Floats, knots: Floats, table: Floats, real: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return the best log likelihood over the scatter for each mu, and that scatter, [C, Q]."""
    size = max(1, _BLOCK // (mu.shape[1] * knots.shape[1] * knots.shape[2]))
    parts = [slice(first, first + size) for first in range(0, len(mu), size)]
    values = np.concatenate(
        [
            [_marginal(mu[n], sigma, knots[n], table[n], real[n]) for sigma in _SCATTERS]
            for n in parts
        ],
        axis=1,
    )
    # one seed alone has no scatter
    values[1:, real.sum(1) == 1] = -np.inf
    top = values.argmax(0)
    inner = np.clip(top, 1, len(_SCATTERS) - 2)[None]
    before, at, after = (np.take_along_axis(values, inner + d, 0)[0] for d in (-1, 0, 1))
    # the maximum of a parabola through three points, in units of the logarithmic step
    before, at, after = (np.where(np.isfinite(x), x, values[0]) for x in (before, at, after))
    bend = before - 2 * at + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1.0), 0.0)
    shift = np.where(top == inner[0], np.clip(shift, -0.5, 0.5), 0.0)
    best = np.where(top == inner[0], at - 0.25 * (before - after) * shift, values.max(0))
    step = np.log(_SCATTERS[1] / _SCATTERS[0])
    return best, _SCATTERS[top] * np.exp(shift * step)


def _marginal(
    mu: Floats, sigma: float, knots: Floats, table: Floats, real: NDArray[np.bool_]
) -> Floats:
    """Return the log likelihood of each cell with its seeds' half multiples integrated out.

    The likelihood of a seed is piecewise linear between its knots and constant beyond them.

    Args:
        mu: [C, Q].
        sigma: the scatter.
        knots: [C, S, G].
        table: log likelihoods at the knots, [C, S, G].
        real: which seeds are no padding, [C, S].
    """
    peak = table.max(-1, keepdims=True)
    height = np.exp(table - peak)[:, None]
    z = (knots[:, None] - mu[:, :, None, None]) / sigma
    below, density = ndtr(z), np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    mass = np.diff(below, axis=-1)
    # of z - z_left over one segment
    moment = -np.diff(density, axis=-1) - z[..., :-1] * mass
    rise = np.diff(height, axis=-1) / np.maximum(np.diff(z, axis=-1), 1e-12)
    inside = np.einsum("...g,...g", np.broadcast_to(height[..., :-1], mass.shape), mass)
    inside += np.einsum("...g,...g", rise, moment)
    outside = height[..., 0] * below[..., 0] + height[..., -1] * (1 - below[..., -1])
    each = np.log(np.maximum(inside + outside, 1e-300)) + peak[:, None, :, 0]
    return np.asarray(np.where(real[:, None], each, 0.0).sum(-1))


def _tabulate(parameters: Floats, cells: Cells, form: Form) -> tuple[Floats, Floats]:
    """Return knots and log likelihoods of each seed over its own half multiple, [C, S, G] each."""
    num_cells, num_seeds, num_lengths = cells.num_total.shape
    flat = Cells(*(getattr(cells, n).reshape(-1, num_lengths) for n in cells.__dataclass_fields__))
    shared = parameters.reshape(-1, 4)
    first, last = flat.span
    knots = (first - _BEFORE)[:, None] + (last - first + _BEFORE + _BEYOND)[:, None] * np.linspace(
        0, 1, _NUM_COARSE
    )
    # a peak narrower than the coarse knots must not fall between them
    knots = np.sort(np.concatenate([knots, shared[:, [SCALE]]], axis=1), axis=1)
    for _ in range(2):
        knots = _crowd(knots, _evaluate(shared, flat, knots, form))
    table = _evaluate(shared, flat, knots, form)
    shape = num_cells, num_seeds, _NUM_KNOTS
    return knots.reshape(shape), table.reshape(shape)


def _evaluate(shared: Floats, flat: Cells, knots: Floats, form: Form) -> Floats:
    at = np.repeat(shared[None], knots.shape[1], axis=0)
    at[..., SCALE] = knots.T
    return log_likelihood(at, flat, Anchor(None, np.zeros(len(shared)), form)).T


def _crowd(knots: Floats, table: Floats) -> Floats:
    """Return knots that share the changes of the root deviance evenly, [R, G]."""
    root = np.sqrt(np.maximum(2 * (table.max(1, keepdims=True) - table), 0.0))
    root = np.minimum(root, _ROOT_DEVIANCE_MAX)
    width = np.diff(knots, axis=1)
    share = np.abs(np.diff(root, axis=1)) + 2.0 * width / width.sum(1, keepdims=True)
    position = np.concatenate([np.zeros((len(share), 1)), share.cumsum(1)], axis=1)
    targets = np.linspace(0, 1, _NUM_KNOTS)
    return np.stack(
        [np.interp(targets * p[-1], p, k) for p, k in zip(position, knots, strict=True)]
    )


def _moments(knots: Floats, table: Floats) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of each seed's normalised likelihood, [C, S] each."""
    height = np.exp(table - table.max(-1, keepdims=True))
    middle = (knots[..., 1:] + knots[..., :-1]) / 2
    mass = (height[..., 1:] + height[..., :-1]) / 2 * np.diff(knots, axis=-1)
    total = mass.sum(-1) + 1e-300
    mean = (middle * mass).sum(-1) / total
    variance = ((middle - mean[..., None]) ** 2 * mass).sum(-1) / total
    return mean, np.sqrt(variance)
