"""How far models hold against what varies: train length, width, steps, number of parameters.

The failure length of a run is known to lie between two tested lengths, beyond the longest, or,
when nothing was learned, below the longest training length. Medians and regressions therefore work
on intervals; a power law with a floor is fitted only where no run is censored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.special import ndtri

from ldru_study.analysis.accelerated import EXTREME_VALUE, NORMAL, Distribution, fit_line
from ldru_study.analysis.bracket import find_bracket
from ldru_study.analysis.counts import Floats, LengthCurve
from ldru_study.analysis.power_law import PowerLaw, fit_power_law

_MIN_EVENTS = 3
_MIN_VALUES = 3
_MODELS = {"log-normal": NORMAL, "weibull": EXTREME_VALUE}
_MOST_ERROR = 5.0
# two-sided, 95 %
_NORMAL_QUANTILE = float(ndtri(0.975))


@dataclass(frozen=True)
class Run:
    """One run: what varies, and the interval of its failure length in tokens.

    Args:
        x: value of what varies, > 0.
        lower: longest length where it surely held; 0 when it never did.
        upper: shortest length where it had surely failed; infinity when it never did.
    """

    x: float
    lower: float
    upper: float

    @property
    def is_event(self) -> bool:
        """Whether it held at some length and failed at a longer one."""
        return self.lower > 0 and bool(np.isfinite(self.upper))

    @property
    def is_open(self) -> bool:
        """Whether no length surely held or failed, so that the run says nothing."""
        return self.lower == 0 and bool(np.isinf(self.upper))


@dataclass(frozen=True)
class Median:
    """The runs at one value of x.

    Args:
        x: the value.
        num_runs: all of them; those that surely held and failed nowhere are in no other number.
        num_failed: those that held first and failed later.
        num_beyond: those that held and surely failed at no length.
        num_unlearned: those that never learned the task, or held at no length.
        lower: the median failure length is above this,
        upper: and at most this; None where it is beyond the tested lengths.
        longest: the longest tested length.
    """

    x: float
    num_runs: int
    num_failed: int
    num_beyond: int
    num_unlearned: int
    lower: float
    upper: float | None
    longest: float


@dataclass(frozen=True)
class Regression:
    """Failure length proportional to x^exponent, from censored runs.

    ``model`` says which distribution of the runs about the line fits better by AIC; the exponent
    is the change of ln(failure length) with ln(x), ``scale`` the median in tokens at x = 1.
    """

    model: str
    scale: float
    exponent: float
    lower: float
    upper: float
    aic: float


@dataclass(frozen=True)
class Refusal:
    """Why nothing is fitted, and what would change that."""

    reason: str


@dataclass(frozen=True)
class Scaling:
    """What a series of runs says about failure length against x."""

    medians: tuple[Median, ...]
    regression: Regression | Refusal
    power_law: PowerLaw | Refusal


def run_of(
    curve: LengthCurve,
    x: float,
    level: float,
    confidence: float = 0.95,
    *,
    is_learned: bool = True,
) -> Run:
    """Return the interval in which a seed's excess over chance falls below ``level``.

    Of a seed that never learned the task no more is known than that it fails by the longest
    training length, however it does on shorter strings.
    """
    if not is_learned:
        return Run(x, 0.0, float(curve.train_max_length))
    bracket = find_bracket(curve, level, confidence)
    n = curve.train_max_length
    if bracket.holds_at is None and bracket.fails_at is not None:
        # it may have failed at any length up to there
        return Run(x, 0.0, max(bracket.fails_at, 1.0) * n)
    lower = 0.0 if bracket.holds_at is None else bracket.holds_at * n
    return Run(x, lower, np.inf if bracket.fails_at is None else bracket.fails_at * n)


def scale(
    runs: Sequence[Run], longest: Sequence[float], lengths: Sequence[float | None]
) -> Scaling:
    """Describe failure length against x.

    Args:
        runs: all runs of one series.
        longest: the longest length that each was tested at, in tokens.
        lengths: the identified failure length of each run, for the power law; None where there is
            none.
    """
    medians = []
    for x in sorted({run.x for run in runs}):
        rows = [n for n, run in enumerate(runs) if run.x == x]
        group = [runs[n] for n in rows]
        lower, upper = turnbull_median([r.lower for r in group], [r.upper for r in group])
        medians.append(
            Median(
                x=x,
                num_runs=len(group),
                num_failed=sum(run.is_event for run in group),
                num_beyond=sum(run.lower > 0 and bool(np.isinf(run.upper)) for run in group),
                num_unlearned=sum(run.lower == 0 and np.isfinite(run.upper) for run in group),
                lower=lower,
                upper=upper if np.isfinite(upper) else None,
                longest=max(longest[n] for n in rows),
            )
        )
    return Scaling(tuple(medians), fit_regression(runs), _power_law(runs, lengths))


def turnbull(lower: Sequence[float], upper: Sequence[float]) -> tuple[Floats, Floats]:
    """Return the nonparametric estimate of a distribution from intervals (lower, upper].

    Intervals are open below, so that (40, 80] and (80, 160] share nothing; `lifelines` closes
    them, and would put all of their mass at 80.

    Returns:
        The innermost intervals that carry mass, [I, 2], ascending, and their mass, [I].

    Source: Turnbull 1976, "The empirical distribution function with arbitrarily grouped, censored
    and truncated data", by self-consistency.
    """
    low, high = np.asarray(lower, float), np.asarray(upper, float)
    # an innermost interval begins at a lower end and ends at the next upper end
    inner = []
    for start in np.unique(low):
        end = high[high > start].min(initial=np.inf)
        if not np.any((low > start) & (low < end)):
            inner.append((start, end))
    cells = np.array(inner)
    inside = (low[:, None] <= cells[:, 0]) & (cells[:, 1] <= high[:, None])
    mass = np.full(len(cells), 1 / len(cells))
    for _ in range(10_000):
        share = inside * mass
        updated = (share / share.sum(1, keepdims=True)).mean(0)
        if np.abs(updated - mass).max() < 1e-10:
            break
        mass = updated
    return cells, np.asarray(mass)


def turnbull_median(lower: Sequence[float], upper: Sequence[float]) -> tuple[float, float]:
    """Return the interval (lower, upper] that holds the median; the upper end may be infinite."""
    cells, mass = turnbull(lower, upper)
    at = int(np.searchsorted(mass.cumsum(), 0.5 - 1e-9))
    return float(cells[at, 0]), float(cells[at, 1])


def fit_regression(runs: Sequence[Run]) -> Regression | Refusal:
    """Fit accelerated failure times to intervals: the better of log-normal and Weibull by AIC."""
    refusal = _unfit(runs)
    if refusal:
        return refusal
    # their probability is 1 on every line
    runs = [run for run in runs if not run.is_open]
    u = np.log([run.x for run in runs])
    with np.errstate(divide="ignore"):
        lower, upper = np.log([run.lower for run in runs]), np.log([run.upper for run in runs])
    found = []
    for model, distribution in _MODELS.items():
        regression = _accelerated(u, lower, upper, model, distribution)
        if regression is not None:
            found.append(regression)
    if not found and _is_on_one_line(u, lower, upper):
        return Refusal(
            "every run fits between its two lengths on one line, so that nothing says how much "
            "runs scatter; evaluate lengths in between, or train more seeds"
        )
    if not found:
        return Refusal(
            "the runs leave slope or scatter open by orders of magnitude; evaluate longer lengths "
            "where none failed yet, or train at more values of x"
        )
    return min(found, key=lambda one: one.aic)


def _is_on_one_line(u: Floats, lower: Floats, upper: Floats) -> bool:
    """Whether a line in ``u`` passes through every run's interval."""
    line = np.column_stack([np.ones_like(u), u])
    above, below = np.isfinite(upper), np.isfinite(lower)
    found = linprog(
        np.zeros(2),
        A_ub=np.concatenate([line[above], -line[below]]),
        b_ub=np.concatenate([upper[above], -lower[below]]),
        bounds=(None, None),
    )
    return bool(found.status == 0)


def _unfit(runs: Sequence[Run]) -> Refusal | None:
    values = {run.x for run in runs}
    if len(values) < _MIN_VALUES:
        return Refusal(f"x has {len(values)} values, a slope needs {_MIN_VALUES}")
    told = [run for run in runs if not run.is_open]
    if len({run.x for run in told}) < _MIN_VALUES:
        return Refusal(
            f"runs surely held or failed at {len({run.x for run in told})} values of x, a slope "
            f"needs {_MIN_VALUES}; evaluate more strings"
        )
    events = [run for run in told if run.is_event]
    if not events and all(np.isinf(run.upper) for run in told):
        return Refusal("no run failed: every failure length is beyond the longest tested one")
    if len(events) < _MIN_EVENTS:
        return Refusal(f"{len(events)} runs held and then failed, a slope needs {_MIN_EVENTS}")
    if len({(run.lower, run.upper) for run in events}) < 2:
        return Refusal("all runs failed between the same two lengths; evaluate more lengths")
    if len({run.x for run in events}) < 2:
        return Refusal("runs failed at one value of x alone, which says nothing about a slope")
    return None


def _accelerated(
    u: Floats, lower: Floats, upper: Floats, model: str, distribution: Distribution
) -> Regression | None:
    """Return one fit; None where the likelihood has no maximum or no curvature there."""
    line = fit_line(u, lower, upper, distribution)
    # an error of several units of a logarithm is a flat likelihood, not an estimate. the intercept
    # is far from the runs and may be as uncertain as it likes
    if line is None or not all(error <= _MOST_ERROR for error in line.errors[1:]):
        return None
    margin = _NORMAL_QUANTILE * line.errors[1]
    return Regression(
        model=model,
        scale=float(np.exp(line.intercept + line.sigma * distribution.median)),
        exponent=line.slope,
        lower=line.slope - margin,
        upper=line.slope + margin,
        aic=2 * 3 - 2 * line.log_likelihood,
    )


def _power_law(runs: Sequence[Run], lengths: Sequence[float | None]) -> PowerLaw | Refusal:
    known = [(run.x, length) for run, length in zip(runs, lengths, strict=True) if length]
    if len(known) < len(runs):
        open_ = len(runs) - len(known)
        return Refusal(
            f"{open_} of {len(runs)} failure lengths are censored or lie between two lengths; "
            "leaving them out would bend the law, so the censored regression stands alone"
        )
    x, y = (np.array(column) for column in zip(*known, strict=True))
    try:
        return fit_power_law(x, y)
    except ValueError as error:
        return Refusal(str(error))
