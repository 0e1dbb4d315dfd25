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
from ldru_study.analysis.curves import SCALE, Anchor, Cells, Family, Form, log_likelihood
from ldru_study.analysis.joint import JointFits

# how far before the first and past the last multiple a seed may fail (natural logarithm)
_BEFORE, _BEYOND = 2.5, 4.0
_NUM_COARSE, _NUM_KNOTS = 49, 33
# beyond this root deviance a likelihood is 0
_ROOT_DEVIANCE_MAX = 6.0
_SCATTERS = np.geomspace(0.004, 3.0, 16)
_NEAR = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.75, 4.0, 6.0, 9.0, 14.0])
_CELLS_AT_ONCE = 25
# shares of a peak below this are rounding errors
_FEW_DIGITS = 1e-12
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
        parts.append(_profiles([fit.take(rows) for fit in candidates], cells.take(rows), given))
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


@dataclass(frozen=True, eq=False)
class _Seeds:
    """Each seed's likelihood over the logarithm x of its own half multiple, [C, S].

    It is piecewise linear between its knots and constant beyond them. Its mean over a normal
    distribution with cumulative Phi and density phi at the knots is then

        last + Phi . level + (mu - centre) Phi . bend - sigma phi . bend.

    Args:
        knots: [C, S, G], ascending.
        is_real: which seeds are no padding.
        peak: of the log likelihood.
        centre: where it lies; the levels are of x less it, so that they keep their digits.
        last: height at the last knot, as a share of the peak.
        terms: level and bend of each knot, [C, S, G, 2]: how much less the line to its right has
            at the centre, and rises, than the line to its left.
        mass: that each knot stands for in a sum over the knots, [C, S, G].
        middle: mean of the normalised likelihood.
        width: its standard deviation.
    """

    knots: Floats
    is_real: NDArray[np.bool_]
    peak: Floats
    centre: Floats
    last: Floats
    terms: Floats
    mass: Floats
    middle: Floats
    width: Floats

    @classmethod
    def of(cls, knots: Floats, table: Floats, is_real: NDArray[np.bool_]) -> _Seeds:
        """Prepare log likelihoods ``table`` at the ``knots``, [C, S, G] each."""
        top = table.argmax(-1)[..., None]
        peak, centre = (np.take_along_axis(of, top, -1) for of in (table, knots))
        height, x = np.exp(table - peak), knots - centre
        gap = np.diff(x, axis=-1)
        rise = np.diff(height, axis=-1) / np.maximum(gap, 1e-12)
        level = height[..., :-1] - rise * x[..., :-1]
        flat = np.zeros_like(centre)
        lines = [
            np.concatenate([height[..., :1], level, height[..., -1:]], -1),
            np.concatenate([flat, rise, flat], -1),
        ]
        pieces = (height[..., 1:] + height[..., :-1]) / 2 * gap
        total = pieces.sum(-1) + 1e-300
        between = (knots[..., 1:] + knots[..., :-1]) / 2
        middle = (between * pieces).sum(-1) / total
        variance = ((between - middle[..., None]) ** 2 * pieces).sum(-1) / total
        gaps = np.concatenate([flat, gap, flat], -1)
        return cls(
            knots,
            is_real,
            peak[..., 0],
            centre[..., 0],
            height[..., -1],
            -np.diff(np.stack(lines, -1), axis=-2),
            height * (gaps[..., 1:] + gaps[..., :-1]) / 2,
            middle,
            np.sqrt(variance),
        )

    def take(self, rows: slice) -> _Seeds:
        """Return the seeds of the cells ``rows``."""
        return _Seeds(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def _profiles(
    candidates: Sequence[JointFits], cells: Cells, mu: Floats | None
) -> list[tuple[Floats, ...]]:
    is_real = np.asarray(cells.num_total.any(2))
    tables: list[_Seeds] = []
    known: dict[tuple[Family, Form], Floats] = {}
    for fit in candidates:
        kind = fit.family, fit.form
        knots, table = _tabulate(fit.parameters, cells, fit.form, known.get(kind))
        known.setdefault(kind, knots)
        tables.append(_Seeds.of(knots, np.where(is_real[..., None], table, 0.0), is_real))
    if mu is None:
        mu = _candidates(tables[0])
    every = np.arange(len(mu))
    found: list[tuple[Floats, ...]] = []
    for seeds in tables:
        best, scatter = _best_scatter(mu, seeds)
        top = best.argmax(1)
        sigma = scatter[every, top]
        # the posterior mean of a normal likelihood under a normal prior
        trust = sigma[:, None] ** 2 / (sigma[:, None] ** 2 + seeds.width**2)
        own = trust * seeds.middle + (1 - trust) * mu[every, top][:, None]
        found.append((mu, best, sigma, np.where(is_real, own, np.nan)))
    return found


def _candidates(seeds: _Seeds) -> Floats:
    """Return values of mu that crowd about the best one, [C, Q], ascending."""
    knots, middle, real = seeds.knots, seeds.middle, seeds.is_real
    low, high = knots[:, :, 0].min(1)[:, None], knots[:, :, -1].max(1)[:, None]
    count = np.maximum(real.sum(1), 1)
    mean = np.where(real, middle, 0.0).sum(1) / count
    squares = (middle - mean[:, None]) ** 2 + seeds.width**2
    spread = np.sqrt(np.where(real, squares, 0.0).sum(1) / count)
    first = mean[:, None] + np.maximum(spread, 0.01)[:, None] * np.linspace(-2.0, 2.0, 13)
    first = np.clip(first, low, high)
    best, scatter = _best_scatter(first, seeds)
    every, top = np.arange(len(best)), best.argmax(1)
    variance = scatter[every, top][:, None] ** 2 + seeds.width**2
    weight = np.where(real, 1 / variance, 0.0).sum(1)
    tau = np.maximum(1 / np.sqrt(np.maximum(weight, 1e-9)), 1e-3)
    steps = np.concatenate([-_NEAR[:0:-1], _NEAR])
    near = first[every, top][:, None] + tau[:, None] * steps
    wide = low + (high - low) * np.linspace(0, 1, 9)
    return np.sort(np.clip(np.concatenate([near, wide], 1), low, high), axis=1)


def _best_scatter(mu: Floats, seeds: _Seeds) -> tuple[Floats, Floats]:
    """Return the best log likelihood over the scatter for each mu, and that scatter, [C, Q]."""
    last = len(_SCATTERS) - 1
    values = np.full((len(_SCATTERS), *mu.shape), -np.inf)

    def evaluate(at: NDArray[np.intp]) -> None:
        np.put_along_axis(values, at[None], _marginal(mu, _SCATTERS[at], seeds)[None], 0)

    # every third, then what lies about the best of them, on the side that rises two away
    for n in range(0, last + 1, 3):
        evaluate(np.full(mu.shape, n))
    third = values.argmax(0)
    for step in (-1, 1):
        evaluate(np.clip(third + step, 0, last))
    evaluate(np.clip(2 * values.argmax(0) - third, 0, last))
    # one seed alone has no scatter
    values[1:, seeds.is_real.sum(1) == 1] = -np.inf
    top = values.argmax(0)
    inner = np.clip(top, 1, last - 1)[None]
    before, at, after = (np.take_along_axis(values, inner + d, 0)[0] for d in (-1, 0, 1))
    # the maximum of a parabola through three points, in units of the logarithmic step
    before, at, after = (np.where(np.isfinite(x), x, values[0]) for x in (before, at, after))
    bend = before - 2 * at + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1.0), 0.0)
    shift = np.where(top == inner[0], np.clip(shift, -0.5, 0.5), 0.0)
    best = np.where(top == inner[0], at - 0.25 * (before - after) * shift, values.max(0))
    step_length = np.log(_SCATTERS[1] / _SCATTERS[0])
    return best, _SCATTERS[top] * np.exp(shift * step_length)


def _marginal(mu: Floats, sigma: Floats, seeds: _Seeds) -> Floats:
    """Return the log likelihood of each cell with its seeds' half multiples integrated out.

    Args:
        mu: median half multiples, as natural logarithms, [C, Q].
        sigma: scatters, [C, Q].
        seeds: of the C cells.
    """
    size = max(1, _BLOCK // (mu.shape[1] * seeds.knots.shape[1] * seeds.knots.shape[2]))
    parts = [slice(first, first + size) for first in range(0, len(mu), size)]
    return np.concatenate([_integrate(mu[n], sigma[n], seeds.take(n)) for n in parts])


def _integrate(mu: Floats, sigma: Floats, seeds: _Seeds) -> Floats:
    mu, sigma = mu[:, None], sigma[:, None]
    z = (seeds.knots[:, :, None] - mu[..., None]) / sigma[..., None]
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    weights = np.stack([seeds.terms[..., 1], seeds.mass], -1)
    levels, rises = np.moveaxis(ndtr(z) @ seeds.terms, -1, 0)
    ends, heights = np.moveaxis(density @ weights, -1, 0)
    mean = seeds.last[..., None] + levels + (mu - seeds.centre[..., None]) * rises - sigma * ends
    # far off the peak differences of Phi have no digits left, but a sum over the knots has
    mean = np.where(mean < _FEW_DIGITS, np.maximum(heights / sigma, 1e-300), mean)
    each = np.log(mean) + seeds.peak[..., None]
    return np.asarray(np.where(seeds.is_real[..., None], each, 0.0).sum(1))


def _tabulate(
    parameters: Floats, cells: Cells, form: Form, near: Floats | None
) -> tuple[Floats, Floats]:
    """Return knots and log likelihoods of each seed over its own half multiple, [C, S, G] each.

    Args:
        parameters: of each seed, [C, S, 4].
        cells: the counts, [C, S, K].
        form: of the curves.
        near: knots of curves of the same form and a similar shape, [C, S, G]; None: not known.
    """
    num_cells, num_seeds, num_lengths = cells.num_total.shape
    flat = Cells(*(getattr(cells, n).reshape(-1, num_lengths) for n in cells.__dataclass_fields__))
    shared = parameters.reshape(-1, 4)
    if near is None:
        first, last = flat.span
        reach = last - first + _BEFORE + _BEYOND
        knots = (first - _BEFORE)[:, None] + reach[:, None] * np.linspace(0, 1, _NUM_COARSE)
    else:
        knots = near.reshape(len(shared), -1)
    # a peak narrower than the knots must not fall between them
    knots = np.sort(np.concatenate([knots, shared[:, [SCALE]]], axis=1), axis=1)
    for _ in range(2 if near is None else 1):
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
