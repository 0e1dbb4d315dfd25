"""The verdict on a cell from all of its seeds at once: one shape, a threshold for each seed.

A seed of 64 strings a length often cannot tell alone how it fails; ten of them can, as long as
nobody forces them onto one curve. `judge_jointly` fits the shape that they share and the
distribution of their half multiples, and answers where the median seed is half way to chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import expit, ndtri

from ldru_study.analysis.bracket import find_bracket
from ldru_study.analysis.counts import Floats, LengthCurve
from ldru_study.analysis.curves import (
    BETA,
    FAMILIES,
    LAPSE,
    RHO,
    SCALE,
    Anchor,
    Cells,
    Family,
    Form,
    survival,
)
from ldru_study.analysis.evidence import Evidence, gather
from ldru_study.analysis.failure import UNKNOWN, Estimate, log_span, sharpness
from ldru_study.analysis.fits import BETA_RANGE, optimise
from ldru_study.analysis.joint import (
    LAPSE_MEAN,
    JointFits,
    fit_jointly,
    refit_as,
    refit_with,
    stack_seeds,
)
from ldru_study.analysis.judge import judge_curves
from ldru_study.analysis.profiles import crossings, middle_of_top
from ldru_study.analysis.steps import Step, fit_steps
from ldru_study.analysis.thresholds import Thresholds, interval_cut, profile_medians
from ldru_study.analysis.verdict import DEFAULTS, Kind, VerdictSettings, times, unlearned_reason

# BICs nearer than this do not decide
_CLOSE = 2.0
# M0: lapse, rho; M1: also median and scatter of the half multiples; M2: also beta
_NUM_PARAMETERS: dict[Family, int] = {"holds": 2, "gradual": 4, "weibull": 5}
# steeper candidates than this differ from it on no grid of lengths
_STEEPEST = 60.0
# a root deviance of no weight
_NEGLIGIBLE = 5.0
# a seed further from the others than this many standard deviations is of another kind
_FAR = 3.0
_LEAST_SCATTER = 0.1
_CELLS_AT_ONCE = 100


@dataclass(frozen=True)
class JointVerdict:
    """What all seeds of a cell say about how they fail.

    Args:
        kind: of the cell; where its seeds are of several kinds, of most of them.
        reason: one sentence.
        half_multiple: where the median seed is half way between plateau and chance. Its upper end
            may lie beyond the tested lengths: it then follows from the shape. Where a step between
            two neighbouring lengths explains all seeds, only that bracket is known: the value is
            its geometric middle, and None where the lengths are more than 2-fold apart.
        failure_multiples: where the median seed's chance-corrected excess falls to each level.
        scatter: standard deviation of the natural logarithms of the seeds' half multiples.
        sharpness: W = m10/m90 of a single seed, at the optimum; None for such a step, whose
            upper bound is in the reason.
        family: the curve that every number here is of; None where the seeds do not fail.
        lapse: distance of the plateau from perfect.
        rho: overdispersion.
        left_out: seeds of another kind than the cell, which do not enter its numbers.
    """

    kind: Kind
    reason: str
    half_multiple: Estimate = UNKNOWN
    failure_multiples: Mapping[float, Estimate] = field(default_factory=dict)
    scatter: float | None = None
    sharpness: float | None = None
    family: Family | None = None
    lapse: float | None = None
    rho: float | None = None
    left_out: Mapping[int, Kind] = field(default_factory=dict)

    @property
    def beta(self) -> float | None:
        """The exponent of the shape, the inverse of `failure.sharpness`."""
        return None if self.sharpness is None else log_span() / float(np.log(self.sharpness))


@dataclass(frozen=True, eq=False)
class _Subject:
    """A cell, and how well each family can explain it at best.

    Args:
        curves: its seeds, on informative lengths.
        bic: of each family; no more than it, where the cell surely holds.
    """

    curves: tuple[LengthCurve, ...]
    bic: Mapping[Family, float]

    @property
    def last(self) -> float:
        """The longest multiple."""
        return max(float(curve.multiples[-1]) for curve in self.curves)


@dataclass(frozen=True, eq=False)
class _Fitted(_Subject):
    """The fits of a cell that may fail.

    Args:
        logistic_bic: of the logistic form, which has a say in the numbers and none in the kind.
        members: numbers of the candidates of each failing family and of the logistic form.
        best: number of the best candidate of each.
        parameters: of each candidate and seed, [J, S, 4]; the last candidate is M1.
        mu: the median half multiples that were tried, as natural logarithms, [Q].
        values: log likelihood of each candidate there, with the prior of the lapse, [J, Q].
        scatters: of each candidate, [J].
        seeds: logarithms of the seeds' half multiples under each candidate, [J, S].
        lapse_errors: standard errors of the square root of the lapse, [J].
        lapse_slopes: change of a half multiple's logarithm with it, mean over the seeds, [J].
        step: the step that fits best; None where the half multiple is beyond the tested lengths.
    """

    logistic_bic: float
    members: Mapping[Family | Form, Sequence[int]]
    best: Mapping[Family | Form, int]
    parameters: Floats
    mu: Floats
    values: Floats
    scatters: Floats
    seeds: Floats
    lapse_errors: Floats
    lapse_slopes: Floats
    step: Step | None

    def unresolved(self, family: Family) -> Step | None:
        """Return the step, where a family of free steepness has nothing over it."""
        if self.step is None or family != "weibull":
            return None
        return self.step if 2 * (self.values.max() - self.step.value) < _CLOSE else None


def judge_jointly(
    groups: Sequence[Sequence[LengthCurve]],
    settings: VerdictSettings = DEFAULTS,
    *,
    levels: Sequence[float] | None = None,
    alone: Sequence[Sequence[Kind]] | None = None,
) -> list[JointVerdict]:
    """Judge each group of seeds by a shape that they share and a threshold of each.

    Args:
        groups: the curves of each cell; many at once are far faster than one by one.
        settings: thresholds.
        levels: excesses whose failure multiples are wanted; None: those of the settings.
        alone: what `judge_curves` says about each seed of each group; None: it is asked here,
            where that is in question.

    Raises:
        ValueError: a group is empty or mixes training lengths.

    >>> import numpy as np
    >>> from ldru_study.analysis.counts import LengthCurve
    >>> lengths, total, chance = np.array([20, 40, 80, 160, 320]), np.full(5, 512), np.full(5, 0.5)
    >>> seeds = [
    ...     LengthCurve(0, 40, lengths, np.array([512, 511, 470, 300, 251]), total, chance),
    ...     LengthCurve(1, 40, lengths, np.array([512, 512, 488, 322, 260]), total, chance),
    ... ]
    >>> (verdict,) = judge_jointly([seeds])
    >>> verdict.kind, round(verdict.half_multiple.value, 1)
    ('gradual', 3.0)
    """
    wanted = settings.levels if levels is None else tuple(levels)
    evidence = [gather(group, settings.informative_chance) for group in groups]
    verdicts: dict[int, JointVerdict] = {}
    asked = []
    for row, subject in enumerate(evidence):
        if _is_learned(subject, settings):
            asked.append(row)
        else:
            verdicts[row] = _unlearned(subject)
    subjects = _fit([evidence[row].curves for row in asked], settings)
    others = [_other_kinds(subject, settings) for subject in subjects]
    again = [n for n, other in enumerate(others) if 0 < len(other) < len(subjects[n].curves) / 2]
    rest = [[c for c in subjects[n].curves if c.seed not in others[n]] for n in again]
    for n, refitted in zip(again, _fit(rest, settings), strict=True):
        subjects[n] = refitted
    decided = [_decide(subject, settings, wanted) for subject in subjects]
    collapsed = _collapsed(
        {
            row: (subjects[n].curves, groups[row], None if alone is None else alone[row])
            for n, row in enumerate(asked)
            if decided[n].kind == "holds"
        },
        settings,
    )
    for n, row in enumerate(asked):
        own = decided[n]
        verdict = _majority(subjects[n], others[n]) or own
        kinds = {curve.seed: own.kind for curve in subjects[n].curves} | others[n]
        kinds |= collapsed.get(row, {})
        left = {seed: kinds[seed] for seed in sorted(kinds) if kinds[seed] != verdict.kind}
        verdicts[row] = replace(verdict, left_out=left)
    return [verdicts[row] for row in range(len(groups))]


def _is_learned(subject: Evidence, settings: VerdictSettings) -> bool:
    """Whether all seeds together, or most of them, reach the level of learning at <= 1x."""
    if subject.excess is None or subject.excess >= settings.learned_level:
        return subject.excess is not None
    alone = [gather([curve], settings.informative_chance).excess for curve in subject.curves]
    learned = sum(excess is not None and excess >= settings.learned_level for excess in alone)
    return 2 * learned > len(alone)


def _unlearned(subject: Evidence) -> JointVerdict:
    kind, reason = unlearned_reason(subject)
    return JointVerdict(kind, reason)


def _fit(groups: Sequence[Sequence[LengthCurve]], settings: VerdictSettings) -> list[_Subject]:
    """Fit every family to each cell, and M2 with several values of beta."""
    # in parts, so that a thousand cells need no more memory than a hundred
    parts = [groups[n : n + _CELLS_AT_ONCE] for n in range(0, len(groups), _CELLS_AT_ONCE)]
    return [subject for part in parts for subject in _fit_part(part, settings)]


def _fit_part(groups: Sequence[Sequence[LengthCurve]], settings: VerdictSettings) -> list[_Subject]:
    whole, cells = Cells.stack(groups), stack_seeds(groups)
    held, held_value = optimise(whole, "holds")
    held_value -= held[:, LAPSE] ** 2 / LAPSE_MEAN
    weibull, gradual = fit_jointly(cells, "weibull"), fit_jointly(cells, "gradual")
    subjects: list[_Subject] = []
    for curves, *values in zip(groups, held_value, gradual.value, weibull.value, strict=True):
        # with the half multiples integrated out no shape reaches the value of its best ones
        bic = _bics(dict(zip(FAMILIES, values, strict=True)), curves)
        subjects.append(_Subject(tuple(curves), bic))
    asked = np.array([n for n, one in enumerate(subjects) if not _surely_holds(one)], dtype=np.intp)
    if len(asked):
        some = [groups[n] for n in asked]
        fits = _shapes(weibull.take(asked), gradual.take(asked), cells.take(asked), settings)
        found = profile_medians(fits, cells.take(asked))
        fitted = [
            _subject(row, some[row], fits, found, held_value[n]) for row, n in enumerate(asked)
        ]
        halves = np.exp([_log_half(one, "weibull") for one in fitted])
        for n, one, step in zip(asked, fitted, fit_steps(some, halves), strict=True):
            subjects[n] = replace(one, step=step)
    return subjects


def _log_half(subject: _Fitted, family: Family) -> float:
    """Return the logarithm of the half multiple at the optimum of a family that fails."""
    return float(subject.mu[subject.values[subject.best[family]].argmax()])


def _shapes(
    weibull: JointFits, gradual: JointFits, cells: Cells, settings: VerdictSettings
) -> list[JointFits]:
    """Return every candidate for the shape of each cell; the last is M1."""
    cut = log_span() / np.log(settings.sharp_ratio)
    betas = _less_steep(weibull, cells, cut)
    logistic = refit_as(weibull, cells, "logistic")
    # the Weibull form has the widest candidates already
    others = _less_steep(logistic, cells, cut)[1:3]
    return [
        *(weibull, *(refit_with(weibull, cells, beta) for beta in betas)),
        *(logistic, *(refit_with(logistic, cells, beta) for beta in others)),
        gradual,
    ]


def _surely_holds(subject: _Subject) -> bool:
    """Whether "holds" is ahead of whatever fails, by more than is close."""
    failing = min(bic for family, bic in subject.bic.items() if family != "holds")
    return failing - subject.bic["holds"] >= _CLOSE


def _bics(values: Mapping[Family, float], curves: Sequence[LengthCurve]) -> dict[Family, float]:
    log_n = np.log(sum(len(curve.lengths) for curve in curves))
    return {f: float(-2 * values[f] + k * log_n) for f, k in _NUM_PARAMETERS.items()}


def _subject(
    row: int,
    curves: Sequence[LengthCurve],
    fits: Sequence[JointFits],
    found: Sequence[Thresholds],
    held_value: float,
) -> _Fitted:
    parameters = np.stack([fit.parameters[row, : len(curves)] for fit in fits])
    values = np.stack([one.log_likelihood[row] for one in found])
    values -= parameters[:, :1, LAPSE] ** 2 / LAPSE_MEAN
    peaks = values.max(1)
    members: dict[Family | Form, list[int]] = {
        "gradual": [n for n, fit in enumerate(fits) if fit.family == "gradual"],
        "weibull": [
            n for n, fit in enumerate(fits) if (fit.family, fit.form) == ("weibull", "weibull")
        ],
        "logistic": [n for n, fit in enumerate(fits) if fit.form == "logistic"],
    }
    best = {name: rows[int(peaks[rows].argmax())] for name, rows in members.items()}
    highest: dict[Family, float] = {"holds": held_value, "gradual": peaks[best["gradual"]]}
    return _Fitted(
        curves=tuple(curves),
        bic=_bics({**highest, "weibull": peaks[best["weibull"]]}, curves),
        logistic_bic=_bics({**highest, "weibull": peaks[best["logistic"]]}, curves)["weibull"],
        members=members,
        best=best,
        parameters=parameters,
        mu=found[0].mu[row],
        values=values,
        scatters=np.array([one.scatter[row] for one in found]),
        seeds=np.stack([one.seeds[row, : len(curves)] for one in found]),
        lapse_errors=np.array([np.sqrt(fit.covariance[row, 1, 1]) for fit in fits]),
        lapse_slopes=np.array([fit.slopes[row, : len(curves), 1].mean() for fit in fits]),
        step=None,
    )


def _less_steep(weibull: JointFits, cells: Cells, cut: float) -> list[Floats]:
    """Return other candidates for beta than the joint optimum, [4] of [C].

    With a threshold for each seed the optimum is too steep: a step explains all seeds that fail
    between the same two lengths. The candidates are judged with the thresholds integrated out.
    They reach down to a deviance of about 9, taken as quadratic in the width 1 / beta of the fall,
    or, where the fall is wide, to two standard errors on either side.
    """
    log_beta = weibull.parameters[:, 0, BETA]
    at_cut = refit_with(weibull, cells, np.full(len(log_beta), cut))
    lost = np.maximum(2 * (weibull.value - at_cut.value), 1e-9)
    width = np.exp(-np.minimum(log_beta, np.log(_STEEPEST)))
    widest = width + np.maximum(1 / cut - width, 0.0) * np.minimum(3 / np.sqrt(lost), 1.5)
    error = np.clip(np.sqrt(weibull.covariance[:, 0, 0]), 0.03, 0.4)
    is_steep = np.exp(log_beta) > 1.35 * cut
    return [
        np.where(
            is_steep,
            1 / (width + share * (widest - width)),
            np.clip(np.exp(log_beta + step * error), 0.31, 900.0),
        )
        for share, step in ((0.2, -2.0), (0.4, -1.0), (0.7, 1.0), (1.0, 2.0))
    ]


def _name(subject: _Fitted, family: Family, settings: VerdictSettings) -> Kind:
    """Say what a family's optimum would be called: a slope that costs nothing is no failure."""
    if family == "holds":
        return "holds"
    n = subject.best[family]
    beta = float(np.exp(subject.parameters[n, 0, BETA]))
    half = float(np.exp(_log_half(subject, family)))
    if survival(np.array([subject.last]), half, beta)[0] >= settings.near_perfect:
        return "holds"
    return "sharp" if sharpness(beta) <= settings.sharp_ratio else "gradual"


def _other_kinds(subject: _Subject, settings: VerdictSettings) -> dict[int, Kind]:
    """Return the seeds that were never learned or hold, where the cell fails otherwise.

    Such a seed is no far tail of the seeds that fail: it would only widen their distribution.
    """
    family = min(subject.bic, key=lambda name: subject.bic[name])
    if not isinstance(subject, _Fitted) or _name(subject, family, settings) == "holds":
        return {}
    parameters = subject.parameters[subject.best[family]]
    halves, beta = np.exp(parameters[:, SCALE]), float(np.exp(parameters[0, BETA]))
    found: dict[int, Kind] = {}
    failing = []
    for curve, half in zip(subject.curves, halves, strict=True):
        if half < curve.multiples[0]:
            found[curve.seed] = "never_learned"
        elif survival(curve.multiples[-1:], half, beta)[0] >= settings.near_perfect:
            found[curve.seed] = "holds"
        else:
            failing.append(np.log(half))
    if not failing:
        return found
    reach = _FAR * max(float(np.std(failing)), _LEAST_SCATTER)
    near = np.exp([np.mean(failing) - reach, np.mean(failing) + reach])
    # a seed that the others' scatter can explain is one of them
    explained = {"holds": near[1] > subject.last, "never_learned": near[0] < 1}
    return {seed: kind for seed, kind in found.items() if not explained[kind]}


def _collapsed(
    cells: Mapping[int, tuple[Sequence[LengthCurve], Sequence[LengthCurve], Sequence[Kind] | None]],
    settings: VerdictSettings,
) -> dict[int, dict[int, Kind]]:
    """Return the seeds of each cell that fail when judged alone.

    A cell whose other seeds are faultless may hold, with such a seed as overdispersion.

    Args:
        cells: by row, the curves that were fitted, those given, and what each of these is alone.
        settings: thresholds.
    """
    level, confidence = settings.near_perfect, settings.confidence
    fallen = [
        (row, curve)
        for row, (curves, _, _) in cells.items()
        for curve in curves
        if find_bracket(curve, level, confidence).fails_at is not None
    ]
    known = {
        (row, curve.seed): kind
        for row, (_, given, alone) in cells.items()
        for curve, kind in zip(given, alone or (), strict=alone is not None)
    }
    asked = [(row, curve) for row, curve in fallen if (row, curve.seed) not in known]
    verdicts = judge_curves([curve for _, curve in asked], settings, levels=())
    known |= {(row, c.seed): v.kind for (row, c), v in zip(asked, verdicts, strict=True)}
    found: dict[int, dict[int, Kind]] = {row: {} for row in cells}
    for row, curve in fallen:
        kind = known[row, curve.seed]
        if kind not in ("holds", "inconclusive"):
            found[row][curve.seed] = kind
    return found


def _majority(subject: _Subject, others: Mapping[int, Kind]) -> JointVerdict | None:
    """Return the verdict where at least half of the seeds hold, or were never learned."""
    total = len(subject.curves) + (len(others) if len(others) < len(subject.curves) / 2 else 0)
    for kind in ("holds", "never_learned"):
        count = sum(other == kind for other in others.values())
        if 2 * count >= len({c.seed for c in subject.curves} | set(others)) and count:
            words = "hold" if kind == "holds" else "were never learned"
            beyond = Estimate(None, subject.last, None) if kind == "holds" else UNKNOWN
            return JointVerdict(kind, f"{count} of {total} seeds {words}", beyond)
    return None


def _decide(subject: _Subject, settings: VerdictSettings, levels: Sequence[float]) -> JointVerdict:
    order = sorted(subject.bic, key=lambda name: subject.bic[name])
    family = order[0]
    if not isinstance(subject, _Fitted):
        beyond = Estimate(None, subject.last, None)
        return JointVerdict("holds", f"no failure up to {times(subject.last)}", beyond)
    named = {name: _name(subject, name, settings) for name in order}
    kind = named[family]
    rival = next((name for name in order if named[name] != kind), None)
    gap = np.inf if rival is None else subject.bic[rival] - subject.bic[family]
    is_close = rival is not None and gap < _CLOSE
    reason = f"no failure up to {times(subject.last)}"
    if is_close and rival is not None:
        reason = f"'{kind}' is ahead of '{named[rival]}' by a BIC of only {gap:.1f}"
    if kind == "holds" or (is_close and rival is not None and named[rival] == "holds"):
        # whether it fails at all is open, so where it fails is no question
        beyond = Estimate(None, subject.last, None) if kind == "holds" else UNKNOWN
        return JointVerdict("inconclusive" if is_close else kind, reason, beyond)
    n = subject.best[family]
    shared = subject.parameters[n, 0]
    ratio: float | None = sharpness(float(np.exp(shared[BETA])))
    step = subject.unresolved(family)
    width = f" (W = {ratio:.3g})"
    if step is not None:
        ratio, bound = None, _widest(subject, step, settings)
        width = "" if bound is None else f" (W <= {bound:.3g})"
        width += f", anywhere between {times(step.low)} and {times(step.high)}"
    if not is_close:
        reason = f"falls {kind if kind == 'sharp' else 'gradual'}ly{width}"
    return JointVerdict(
        kind="inconclusive" if is_close else kind,
        reason=reason,
        half_multiple=_multiple(subject, family, None, settings),
        failure_multiples={x: _multiple(subject, family, x, settings) for x in levels},
        scatter=float(subject.scatters[n]),
        sharpness=ratio,
        family=family,
        lapse=float(shared[LAPSE] ** 2),
        rho=float(shared[RHO] ** 2),
    )


def _multiple(
    subject: _Fitted, family: Family, level: float | None, settings: VerdictSettings
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
    num_counts = sum(len(curve.lengths) for curve in subject.curves)
    spare = num_counts - _NUM_PARAMETERS[family]
    cut = interval_cut(len(subject.curves), spare, settings.confidence)
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
    last = np.log(subject.last)
    found = Estimate(
        None if value is None or value > last else float(np.exp(value)),
        None if low is None else float(np.exp(centre - np.hypot(max(centre - low, 0.0), extra))),
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


def _widest(subject: _Fitted, step: Step, settings: VerdictSettings) -> float | None:
    """Return the largest W that the counts leave open beside a step; None: any that was tried."""
    rows = subject.members["weibull"]
    log_betas = subject.parameters[rows, 0, BETA]
    order = log_betas.argsort()
    # a step is the steepest of all
    points = np.append(log_betas[order], max(float(log_betas.max()), np.log(BETA_RANGE[1])))
    root = _root_deviance(np.append(subject.values[rows].max(1)[order], step.value))
    spare = sum(len(curve.lengths) for curve in subject.curves) - _NUM_PARAMETERS["weibull"]
    cut = interval_cut(1, spare, settings.confidence)
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


def _chance_at_failure(subject: _Fitted) -> float:
    """Return the chance at the length nearest to the median half multiple."""
    mu = subject.mu[subject.values.max(0).argmax()]
    curve = subject.curves[0]
    return float(curve.chance[np.abs(np.log(curve.multiples) - mu).argmin()])
