"""Where the median seed of a cell fails, with all that the counts leave open about the shape."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, ndtri

from ldru_study.analysis.candidates import FailingFit
from ldru_study.analysis.counts import Floats
from ldru_study.analysis.curves import BETA, LAPSE, Anchor, Family, Form
from ldru_study.analysis.failure import UNKNOWN, Estimate, sharpness
from ldru_study.analysis.fits import BETA_RANGE
from ldru_study.analysis.profiles import crossings, middle_of_top
from ldru_study.analysis.steps import Step
from ldru_study.analysis.thresholds import interval_cut
from ldru_study.analysis.verdict import VerdictSettings

# a root deviance of no weight
_NEGLIGIBLE = 5.0


def median_multiple(
    subject: FailingFit, family: Family, level: float | None, settings: VerdictSettings
) -> Estimate:
    """Return where the median seed's S is 1/2, or where its excess over chance is ``level``.

    The value is half way between the median of the fitted distribution, its mean over all that the
    counts leave open, the shape among it, and the median of the seeds, for a scatter that is not
    log-normal; averaged over the chosen family and the logistic form with the weights of their
    BIC. The interval is read off the highest likelihood of any candidate, M1 and the logistic form
    among them, so that it covers the choice of the shape; what the lapse adds is propagated from
    its standard error. Where a step is among what the counts leave open, so is all of its bracket.

    Source: weights exp(-BIC / 2), Raftery 1995, "Bayesian model selection in social research".
    """
    n = subject.best[family]
    lapses = subject.parameters[:, 0, LAPSE] ** 2
    shifts, slopes = np.zeros(len(lapses)), subject.lapse_slopes.copy()
    if level is not None:
        chance = _chance_at_failure(subject)
        if lapses[n] >= (1 - level) * (1 - chance):
            return UNKNOWN
        # a plateau below the level has no crossing
        lapses = np.minimum(lapses, (1 - level * (1 + 1e-9)) * (1 - chance))
        logistic = set(subject.members["logistic"])
        for row in range(len(lapses)):
            form: Form = "logistic" if row in logistic else "weibull"
            at, half = (Anchor(x, np.array(chance), form) for x in (level, None))
            steepness = at.steepness * np.exp(subject.parameters[row, 0, BETA])
            log_g, by_lapse, _ = at.log_g(lapses[row])
            shifts[row] = (log_g - half.log_g(lapses[row])[0]) / steepness
            slopes[row] += 2 * np.sqrt(lapses[row]) * by_lapse / steepness
    mu = subject.mu + shifts[n]
    values = np.stack(
        [
            np.interp(mu - shift, subject.mu, row)
            for shift, row in zip(shifts, subject.values, strict=True)
        ]
    )
    every = values.max(0)
    cut = interval_cut(len(subject.curves), subject.spare(family), settings.confidence)
    low, high = crossings(mu, _root_deviance(every), float(np.sqrt(cut)))
    own = values[subject.members[family]].max(0)
    value = middle_of_top(mu, _root_deviance(own))
    centre = float(mu[own.argmax()]) if value is None else value
    if value is not None:
        weight = float(expit((subject.bic[family] - subject.logistic_bic) / 2))
        averages = []
        for name in (family, "logistic"):
            best, rows = subject.best[name], subject.members[name]
            middle = float(np.median(subject.seeds[best])) + shifts[best]
            averages.append((_mean(mu, values[rows]) + middle) / 2)
        value = (1 - weight) * averages[0] + weight * averages[1]
    extra = float(ndtri(0.5 + settings.confidence / 2) * abs(slopes[n]) * subject.lapse_errors[n])
    lower = None if low is None else centre - np.hypot(max(centre - low, 0.0), extra)
    last = np.log(subject.last)
    if lower is not None and lower >= last:
        # all of it lies beyond the tested lengths: how far is nothing that was seen
        return Estimate(None, subject.last, None)
    found = Estimate(
        None if value is None or value > last else float(np.exp(value)),
        None if lower is None else float(np.exp(lower)),
        None if high is None else float(np.exp(centre + np.hypot(max(high - centre, 0.0), extra))),
    )
    step = subject.step
    if step is None or 2 * (subject.values.max() - step.value) > cut:
        return found
    return Estimate(
        found.value if subject.unresolved(family) is None else step.middle,
        None if found.lower is None else min(found.lower, step.low),
        None if found.upper is None else max(found.upper, step.high),
    )


def widest_sharpness(subject: FailingFit, step: Step, settings: VerdictSettings) -> float | None:
    """Return the largest W that the counts leave open beside a step; None: any that was tried."""
    rows = subject.members["weibull"]
    log_betas = subject.parameters[rows, 0, BETA]
    order = log_betas.argsort()
    # a step is the steepest of all
    points = np.append(log_betas[order], max(float(log_betas.max()), np.log(BETA_RANGE[1])))
    root = _root_deviance(np.append(subject.values[rows].max(1)[order], step.value))
    cut = interval_cut(1, subject.spare("weibull"), settings.confidence)
    least, _ = crossings(points, root, float(np.sqrt(cut)))
    return None if least is None else sharpness(float(np.exp(least)))


def _mean(mu: Floats, values: Floats) -> float:
    """Return the mean of ``mu`` [Q] with the likelihoods of all candidates as weights.

    Args:
        mu: ascending.
        values: log likelihood of each candidate, [J, Q]; linear in between.
    """
    near = mu[_root_deviance(values.max(0)) < _NEGLIGIBLE]
    fine = np.linspace(near[0], near[-1], 501)
    weights = sum(np.exp(np.interp(fine, mu, row) - values.max()) for row in values)
    return float(np.average(fine, weights=weights))


def _root_deviance(values: Floats) -> Floats:
    return np.asarray(np.sqrt(np.maximum(2 * (values.max() - values), 0.0)))


def _chance_at_failure(subject: FailingFit) -> float:
    """Return the chance at the length nearest to the median half multiple."""
    mu = subject.mu[subject.values.max(0).argmax()]
    curve = subject.curves[0]
    return float(curve.chance[np.abs(np.log(curve.multiples) - mu).argmin()])
