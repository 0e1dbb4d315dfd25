"""The curve family and its beta-binomial likelihood, with the gradient, for many curves at once.

    p(m) = chance + (1 - chance - lapse) S(m)    S(m) = exp(-g (m / t)^beta)

One formula serves the whole family: t is the multiple at which S = exp(-g). With g = ln 2 it is
the half multiple; with another g it is the failure multiple at that level, which makes profile
likelihoods one-dimensional. beta = 1 is M1; t beyond every length is M0.

Beside it stands S(m) = 1 / (1 + g (m / t)^(2 ln 2 beta)), a logistic in ln m: as steep at the half
multiple, but with another tail. It serves to say how much a number owes to the form of the curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from ldru_study.analysis.counts import Floats, LengthCurve

Family = Literal["holds", "gradual", "weibull"]
Form = Literal["weibull", "logistic"]
FAMILIES: tuple[Family, ...] = ("holds", "gradual", "weibull")
NUM_PARAMETERS: dict[Family, int] = {"holds": 2, "gradual": 3, "weibull": 4}

# columns of a parameter array: natural logarithms of t and beta, square roots of lapse and rho.
# lapse and rho often end at 0, where a square root needs one Newton step and a logarithm many
SCALE, BETA, LAPSE, RHO = range(4)

# below this a probability is 0 for every count that can be stored
_TINY = 1e-12
# numbers handled at once: more than this leave the processor's cache, and time is lost waiting
_BLOCK = 16_384


@dataclass(frozen=True, eq=False)
class Cells:
    """Counts of F curves as arrays [F, K]; a padded cell has num_total 0 and weighs nothing."""

    log_multiple: Floats
    num_correct: Floats
    num_total: Floats
    chance: Floats

    @classmethod
    def stack(cls, groups: Sequence[Sequence[LengthCurve]]) -> Cells:
        """Make one row of each group: a group's curves end to end share one set of parameters."""
        columns = [
            (
                np.concatenate([np.log(curve.multiples) for curve in group]),
                np.concatenate([curve.num_correct for curve in group]),
                np.concatenate([curve.num_total for curve in group]),
                np.concatenate([curve.chance for curve in group]),
            )
            for group in groups
        ]
        shape = len(groups), max((len(row[0]) for row in columns), default=0)
        padded = [np.zeros(shape), np.zeros(shape), np.zeros(shape), np.full(shape, 0.5)]
        for row, values in enumerate(columns):
            for target, column in zip(padded, values, strict=True):
                target[row, : len(column)] = column
        return cls(*padded)

    def take(self, rows: NDArray[np.intp] | slice) -> Cells:
        """Return the curves ``rows`` (a row may occur many times)."""
        return Cells(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def num_cells(self) -> NDArray[np.int64]:
        """Evaluated cells of each curve, [F]."""
        return np.asarray(np.count_nonzero(self.num_total, axis=1))

    @property
    def span(self) -> tuple[Floats, Floats]:
        """Natural logarithms of the first and the last multiple of each curve, [F] each.

        A curve of padding alone begins and ends at 0.
        """
        real = self.num_total > 0
        empty = ~real.any(1)
        first = np.where(real, self.log_multiple, np.inf).min(1, initial=np.inf)
        last = np.where(real, self.log_multiple, -np.inf).max(1, initial=-np.inf)
        return np.where(empty, 0.0, first), np.where(empty, 0.0, last)


@dataclass(frozen=True, eq=False)
class Anchor:
    """What t means: the multiple where the excess over chance is ``level``.

    The chance-corrected excess is (p - chance) / (1 - chance) = S (1 - lapse / (1 - chance)), so
    g = ln(1 - lapse / (1 - chance)) - ln(level). ``level`` None means S = 1/2, whatever the lapse.

    For the logistic form g = (1 - lapse / (1 - chance)) / level - 1.

    Args:
        level: a share inside (0, 1), or None.
        chance: chance where the curve fails, [R].
        form: of the curve.
    """

    level: float | None
    chance: Floats
    form: Form = "weibull"

    @property
    def steepness(self) -> float:
        """The change of ln u with beta ln m; u is g (m / t)^beta in the Weibull form."""
        return 1.0 if self.form == "weibull" else 2 * float(np.log(2))

    def log_g(self, lapse: Floats) -> tuple[Floats, Floats]:
        """Return ln g and its derivative by lapse, in the shape of ``lapse`` [..., R]."""
        if self.level is None:
            g_half = np.log(2.0) if self.form == "weibull" else 1.0
            return np.full_like(lapse, np.log(g_half)), np.zeros_like(lapse)
        room = 1 - self.chance - lapse
        if self.form == "logistic":
            above = room - self.level * (1 - self.chance)
            return np.log(above / (self.level * (1 - self.chance))), -1 / above
        g = np.log(room / (1 - self.chance)) - np.log(self.level)
        return np.log(g), -1 / (room * g)


def survival(multiples: Floats, half_multiple: float, beta: float) -> Floats:
    """Return S at ``multiples``, [K]: 1 at the plateau, 1/2 at the half multiple, 0 at chance."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp2(-((multiples / half_multiple) ** beta)))


def log_likelihood(parameters: Floats, cells: Cells, anchor: Anchor) -> Floats:
    """Return the beta-binomial log likelihood of each row without its constant, [..., R].

    Args:
        parameters: ln t, ln beta, sqrt lapse and sqrt rho, [..., R, 4].
        cells: counts, [R, K].
        anchor: the meaning of t.

    Source: a = p (1/rho - 1), b = (1 - p)(1/rho - 1); rho -> 0 is the binomial.
    """
    return _in_blocks(_log_likelihood, parameters, cells, anchor)


def gradient(parameters: Floats, cells: Cells, anchor: Anchor) -> Floats:
    """Return the derivatives of `log_likelihood` by its four parameters, [..., R, 4]."""
    return np.moveaxis(_in_blocks(_gradient, parameters, cells, anchor), 0, -1)


def binomial_coefficients(cells: Cells) -> Floats:
    """Return the constant of the likelihood, the sum of ln C(n, k), [F]."""
    k, n = cells.num_correct, cells.num_total
    return np.asarray((gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)).sum(-1))


def _probability(
    parameters: Floats, cells: Cells, anchor: Anchor
) -> tuple[Floats, Floats, tuple[Floats, Floats, Floats]]:
    """Return p, 1 - p and dp by ln t, ln beta and sqrt lapse, each [..., R, K]."""
    beta, root_lapse = np.exp(parameters[..., BETA, None]), parameters[..., LAPSE, None]
    lapse = root_lapse**2
    log_g, log_g_by_lapse = anchor.log_g(lapse[..., 0])
    distance = cells.log_multiple - parameters[..., SCALE, None]
    # beyond e^40 the survival is 0 and its derivatives vanish with it
    by_t = anchor.steepness * beta
    u = np.exp(np.clip(log_g[..., None] + by_t * distance, -700.0, 40.0))
    if anchor.form == "weibull":
        s, failed = np.exp(-u), -np.expm1(-u)
        s_by_log_u = -s * u
    else:
        s = 1 / (1 + u)
        failed = u * s
        s_by_log_u = -s * failed
    # a mixture of chance and plateau: inside [0, 1] even where lapse exceeds 1 - chance
    p = np.clip(cells.chance * failed + (1 - lapse) * s, _TINY, 1.0)
    q = np.clip((1 - cells.chance) * failed + lapse * s, _TINY, 1.0)
    by_log_u = (1 - cells.chance - lapse) * s_by_log_u
    by_lapse = -s + by_log_u * log_g_by_lapse[..., None]
    return p, q, (-by_log_u * by_t, by_log_u * by_t * distance, 2 * root_lapse * by_lapse)


def _in_blocks(
    function: Callable[[Floats, Cells, Anchor], Floats],
    parameters: Floats,
    cells: Cells,
    anchor: Anchor,
) -> Floats:
    """Apply ``function`` to a few rows at a time; its result ends with the axes of the rows.

    Rows may be [R] or, with the seeds of R cells, [R, S].
    """
    shape = cells.num_total.shape[:-1]
    leading = parameters.shape[: -1 - len(shape)]
    each = max(int(np.prod(leading + cells.num_total.shape[1:])), 1)
    size = max(1, _BLOCK // each)
    if size >= shape[0]:
        return function(parameters, cells, anchor)
    before = (slice(None),) * len(leading)
    found = []
    for first in range(0, shape[0], size):
        rows = slice(first, first + size)
        chance = anchor.chance[rows] if anchor.chance.ndim else anchor.chance
        local = replace(anchor, chance=chance)
        found.append(function(parameters[(*before, rows)], cells.take(rows), local))
    return np.concatenate(found, axis=-len(shape))


def _log_likelihood(parameters: Floats, cells: Cells, anchor: Anchor) -> Floats:
    p, q, _ = _probability(parameters, cells, anchor)
    concentration = parameters[..., RHO, None] ** -2 - 1
    k, n = cells.num_correct, cells.num_total
    each = _log_rising(p * concentration, k) + _log_rising(q * concentration, n - k)
    # every term is exactly 0 where n is: adding 0 to a count adds nothing
    return np.asarray((each - _log_rising(concentration, n)).sum(-1))


def _gradient(parameters: Floats, cells: Cells, anchor: Anchor) -> Floats:
    """Return `gradient` with its last axis first, [4, ..., R]."""
    p, q, slopes = _probability(parameters, cells, anchor)
    concentration = parameters[..., RHO, None] ** -2 - 1
    k, n = cells.num_correct, cells.num_total
    by_a = _log_rising_slope(p * concentration, k)
    by_b = _log_rising_slope(q * concentration, n - k)
    by_p = concentration * (by_a - by_b)
    by_concentration = p * by_a + q * by_b - _log_rising_slope(concentration, n)
    columns = [(by_p * slope).sum(-1) for slope in slopes]
    # d(1/rho - 1) / d(sqrt rho) = -2 rho^(-3/2)
    columns.append(by_concentration.sum(-1) * -2 * parameters[..., RHO] ** -3)
    return np.stack(columns)


def _log_rising(a: Floats, k: Floats) -> Floats:
    """Return ln Gamma(a + k) - ln Gamma(a), exactly 0 for k = 0, for a > 0 and k >= 0.

    Source: Stirling's series, DLMF 5.11.1, at 8 more, and the recurrence 5.5.1 back from there.
    Against the difference of two logarithms it keeps its digits where a is large and k small.
    """
    x, c = a + 8, a + k
    y = x + k
    rising = _eight(c) / _eight(a)
    stirling = k * (np.log(y) - 1) + (a + 7.5) * np.log1p(k / x)
    return np.asarray(stirling + _stirling_rest(1 / y) - _stirling_rest(1 / x) - np.log(rising))


def _log_rising_slope(a: Floats, k: Floats) -> Floats:
    """Return the derivative of `_log_rising` by a, psi(a + k) - psi(a).

    Source: DLMF 5.11.2 and 5.5.2.
    """
    x = a + 8
    rest = _digamma_rest(1 / (x + k)) - _digamma_rest(1 / x)
    return np.asarray(np.log1p(k / x) + rest - _eight_slope(a + k) + _eight_slope(a))


def _eight(x: Floats) -> Floats:
    """Return x (x + 1) ... (x + 7)."""
    y = x * (x + 7)
    return np.asarray(y * (y + 6) * (y + 10) * (y + 12))


def _eight_slope(x: Floats) -> Floats:
    """Return the derivative of the logarithm of `_eight`: 1/x + ... + 1/(x + 7)."""
    y = x * (x + 7)
    first, second = (y + y + 6) / (y * (y + 6)), (y + y + 22) / ((y + 10) * (y + 12))
    return np.asarray((x + x + 7) * (first + second))


def _stirling_rest(inverse: Floats) -> Floats:
    square = inverse * inverse
    return inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680))))


def _digamma_rest(inverse: Floats) -> Floats:
    square = inverse * inverse
    series = 1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240)))
    return -inverse / 2 - square * series
