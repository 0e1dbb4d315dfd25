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

# where each second derivative stands among the results of `_derivatives`
_HESSIAN = np.array([[4, 5, 6, 7], [5, 8, 9, 10], [6, 9, 11, 12], [7, 10, 12, 13]])
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

    def take(self, rows: NDArray[np.intp] | slice) -> Anchor:
        """Return the anchor of the curves ``rows``; a chance without axes is that of all."""
        return replace(self, chance=self.chance[rows]) if self.chance.ndim else self

    @property
    def steepness(self) -> float:
        """The change of ln u with beta ln m; u is g (m / t)^beta in the Weibull form."""
        return 1.0 if self.form == "weibull" else 2 * float(np.log(2))

    def log_g(self, lapse: Floats) -> tuple[Floats, Floats, Floats]:
        """Return ln g and its two derivatives by lapse, in the shape of ``lapse`` [..., R]."""
        if self.level is None:
            g_half = np.log(2.0) if self.form == "weibull" else 1.0
            return np.full_like(lapse, np.log(g_half)), np.zeros_like(lapse), np.zeros_like(lapse)
        room = 1 - self.chance - lapse
        if self.form == "logistic":
            above = room - self.level * (1 - self.chance)
            return np.log(above / (self.level * (1 - self.chance))), -1 / above, -1 / above**2
        g = np.log(room / (1 - self.chance)) - np.log(self.level)
        return np.log(g), -1 / (room * g), -(1 + g) / (room * g) ** 2


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


def derivatives(parameters: Floats, cells: Cells, anchor: Anchor) -> tuple[Floats, Floats]:
    """Return gradient [..., R, 4] and Hessian [..., R, 4, 4] of `log_likelihood`."""
    found = _in_blocks(_derivatives, parameters, cells, anchor)
    return np.moveaxis(found[:4], 0, -1), np.moveaxis(found[_HESSIAN], (0, 1), (-2, -1))


def binomial_coefficients(cells: Cells) -> Floats:
    """Return the constant of the likelihood, the sum of ln C(n, k), [F]."""
    k, n = cells.num_correct, cells.num_total
    return np.asarray((gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)).sum(-1))


def _survival(
    parameters: Floats, cells: Cells, anchor: Anchor, log_g: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return ln(m / t), u, S and 1 - S, each [..., R, K]."""
    distance = cells.log_multiple - parameters[..., SCALE, None]
    by_t = anchor.steepness * np.exp(parameters[..., BETA, None])
    # beyond e^40 the survival is 0 and its derivatives vanish with it
    u = np.exp(np.clip(log_g[..., None] + by_t * distance, -700.0, 40.0))
    if anchor.form == "weibull":
        failed = -np.expm1(-u)
        return distance, u, 1 - failed, failed
    s = 1 / (1 + u)
    return distance, u, s, u * s


def _mixture(s: Floats, failed: Floats, lapse: Floats, chance: Floats) -> tuple[Floats, Floats]:
    """Return p and 1 - p: inside [0, 1] even where lapse exceeds 1 - chance."""
    p = np.clip(chance * failed + (1 - lapse) * s, _TINY, 1.0)
    return p, np.clip((1 - chance) * failed + lapse * s, _TINY, 1.0)


def _distinct(num_total: Floats) -> tuple[Floats, Floats]:
    """Return numbers of strings, and how often each occurs: one of each row if it is the same."""
    most = num_total.max(-1, keepdims=True, initial=0.0)
    real = num_total > 0
    if np.all(real <= (num_total == most)):
        return most, real.sum(-1, keepdims=True, dtype=float)
    return num_total, np.ones_like(num_total)


def _sum(x: Floats) -> Floats:
    """Return the sum over the lengths; for a few dozen of them twice as fast as ``x.sum(-1)``."""
    return np.asarray(np.einsum("...k->...", x))


def _dot(x: Floats, y: Floats) -> Floats:
    """Return the sum of the products over the lengths."""
    return np.asarray(np.einsum("...k,...k->...", x, y))


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
        found.append(function(parameters[(*before, rows)], cells.take(rows), anchor.take(rows)))
    return np.concatenate(found, axis=-len(shape))


def _log_likelihood(parameters: Floats, cells: Cells, anchor: Anchor) -> Floats:
    lapse = parameters[..., LAPSE] ** 2
    _, _, s, failed = _survival(parameters, cells, anchor, anchor.log_g(lapse)[0])
    p, q = _mixture(s, failed, lapse[..., None], cells.chance)
    concentration = parameters[..., RHO, None] ** -2 - 1
    k, n = cells.num_correct, cells.num_total
    # every term is exactly 0 where n is: adding 0 to a count adds nothing
    each = _log_rising(p * concentration, k) + _log_rising(q * concentration, n - k)
    total, times = _distinct(n)
    return _sum(each) - _dot(_log_rising(concentration, total), times)


def _derivatives(parameters: Floats, cells: Cells, anchor: Anchor) -> Floats:
    """Return the gradient and the ten distinct second derivatives, [14, ..., R].

    With v = ln u the curve is p = chance + (1 - chance - lapse) S(v), and v is linear in ln m.
    """
    root_lapse, root_rho = parameters[..., LAPSE], parameters[..., RHO]
    lapse = root_lapse**2
    log_g, *v_lapse = anchor.log_g(lapse)
    x, u, s, failed = _survival(parameters, cells, anchor, log_g)
    p, q = _mixture(s, failed, lapse[..., None], cells.chance)
    s_v = -s * (u if anchor.form == "weibull" else failed)
    s_vv = s_v * (1 - u if anchor.form == "weibull" else s - failed)
    room = 1 - cells.chance - lapse[..., None]
    p_v, p_vv = room * s_v, room * s_vv
    v_l, v_ll = (slope[..., None] for slope in v_lapse)
    p_l = p_v * v_l - s

    # the likelihood by p and by the concentration c
    c = root_rho[..., None] ** -2 - 1
    k, (n, times) = cells.num_correct, _distinct(cells.num_total)
    a, a_slope = _log_rising_slopes(p * c, k)
    b, b_slope = _log_rising_slopes(q * c, cells.num_total - k)
    both, both_slope = _log_rising_slopes(c, n)
    f_c = _dot(p, a) + _dot(q, b) - _dot(both, times)
    f_cc = _dot(p**2, a_slope) + _dot(q**2, b_slope) - _dot(both_slope, times)
    f_p, f_pp = c * (a - b), c**2 * (a_slope + b_slope)
    f_pc = a - b + c * (p * a_slope - q * b_slope)

    by_v, by_vc = f_p * p_v, f_pc * p_v
    by_vv = f_pp * p_v**2 + f_p * p_vv
    by_vl = f_pp * p_v * p_l + f_p * (p_vv * v_l - s_v)
    by_ll = f_pp * p_l**2 + f_p * (p_vv * v_l**2 + p_v * v_ll - 2 * s_v * v_l)
    # by ln t, v changes at the same rate everywhere; by ln beta in proportion to x
    steep = anchor.steepness * np.exp(parameters[..., BETA])
    slope_t, slope_beta = -steep * _sum(by_v), steep * _dot(by_v, x)
    slope_l, by_vvx = _dot(f_p, p_l), by_vv * x
    l_root, c_root = 2 * root_lapse, -2 * root_rho**-3
    return np.stack(
        [
            slope_t,
            slope_beta,
            l_root * slope_l,
            c_root * f_c,
            steep**2 * _sum(by_vv),
            slope_t - steep**2 * _sum(by_vvx),
            -l_root * steep * _sum(by_vl),
            -c_root * steep * _sum(by_vc),
            steep**2 * _dot(by_vvx, x) + slope_beta,
            l_root * steep * _dot(by_vl, x),
            c_root * steep * _dot(by_vc, x),
            l_root**2 * _sum(by_ll) + 2 * slope_l,
            l_root * c_root * _dot(f_pc, p_l),
            c_root**2 * f_cc + 6 * root_rho**-4 * f_c,
        ]
    )


def _log_rising(a: Floats, k: Floats) -> Floats:
    """Return ln Gamma(a + k) - ln Gamma(a), exactly 0 for k = 0, for a > 0 and k >= 0.

    Source: Stirling's series, DLMF 5.11.1, at 8 more, and the recurrence 5.5.1 back from there.
    Against the difference of two logarithms it keeps its digits where a is large and k small.
    """
    # most of the time of every fit is spent here: in place it is a fifth less
    x, c = a + 8, a + k
    y = x + k
    rising = np.log(_eight(c) / _eight(a))
    found = np.log(y)
    found -= 1
    found *= k
    inverse = np.divide(1, x, out=c)
    rest = _stirling_rest(np.divide(1, y, out=y))
    rest -= _stirling_rest(inverse)
    rest -= rising
    inverse *= k
    np.log1p(inverse, out=inverse)
    inverse *= x - 0.5
    found += rest
    found += inverse
    return found


def _log_rising_slopes(a: Floats, k: Floats) -> tuple[Floats, Floats]:
    """Return two derivatives of `_log_rising` by a: psi(a + k) - psi(a) and that of psi'.

    Source: DLMF 5.11.2 and 5.5.2, at 4 more.
    """
    first, second, inverse = _digamma_rest(a)
    last, bent, _ = _digamma_rest(a + k)
    return np.log1p(k * inverse) + last - first, bent - second


def _eight(x: Floats) -> Floats:
    """Return x (x + 1) ... (x + 7)."""
    y = x + 7
    y *= x
    found = y + 6
    found *= y
    y += 10
    found *= y
    y += 2
    found *= y
    return found


def _stirling_rest(inverse: Floats) -> Floats:
    square = inverse * inverse
    series = square * (-1 / 1680)
    series += 1 / 1260
    series *= square
    series -= 1 / 360
    series *= square
    series += 1 / 12
    series *= inverse
    return series


def _digamma_rest(a: Floats) -> tuple[Floats, Floats, Floats]:
    """Return psi(a) - ln(a + 4), psi'(a) and 1 / (a + 4)."""
    y = a * (a + 3)
    outer, inner, inverse = 1 / y, 1 / (y + 2), 1 / (a + 4)
    # 1/a + 1/(a + 3) = (2 a + 3) / y, and so on
    steps, square = a + a + 3, inverse * inverse
    series = 1 / 12 - square * (
        1 / 120 - square * (1 / 252 - square * (1 / 240 - square * (1 / 132)))
    )
    rest = -inverse / 2 - square * series - steps * (outer + inner)
    bend = 1 / 6 - square * (1 / 30 - square * (1 / 42 - square * (1 / 30)))
    squares = steps**2 * (outer * outer + inner * inner) - 2 * (outer + inner)
    return rest, inverse + square / 2 + inverse * square * bend + squares, inverse
