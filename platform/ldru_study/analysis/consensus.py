"""The verdict on a cell from all of its seeds at once: one shape, a threshold for each seed.

A seed of 64 strings a length often cannot tell alone how it fails; ten of them can, as long as
nobody forces them onto one curve. `judge_jointly` fits the shape that they share and the
distribution of their half multiples, and answers where the median seed is half way to chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ldru_study.analysis.bracket import find_bracket
from ldru_study.analysis.candidates import CellFit, FailingFit, fit_candidates, kind_of
from ldru_study.analysis.counts import LengthCurve
from ldru_study.analysis.curves import BETA, LAPSE, RHO, SCALE, Family, survival
from ldru_study.analysis.evidence import Evidence, gather
from ldru_study.analysis.failure import UNKNOWN, Estimate, log_span, sharpness
from ldru_study.analysis.judge import judge_curves
from ldru_study.analysis.median_seed import median_multiple, widest_sharpness
from ldru_study.analysis.verdict import (
    CLOSE,
    DEFAULTS,
    Kind,
    VerdictSettings,
    times,
    unlearned_reason,
)

# a seed further from the others than this many standard deviations is of another kind
_FAR = 3.0
_LEAST_SCATTER = 0.1


@dataclass(frozen=True)
class JointVerdict:
    """What all seeds of a cell say about how they fail.

    Args:
        kind: of the cell; where its seeds are of several kinds, of most of them.
        reason: one sentence.
        half_multiple: where the median seed is half way between plateau and chance. Its upper end
            may lie beyond the tested lengths: it then follows from the shape; value and lower end
            never do. Where a step between
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
    subjects = fit_candidates([evidence[row].curves for row in asked], settings)
    others = [_other_kinds(subject, settings) for subject in subjects]
    again = [n for n, other in enumerate(others) if 0 < len(other) < len(subjects[n].curves) / 2]
    rest = [[c for c in subjects[n].curves if c.seed not in others[n]] for n in again]
    for n, refitted in zip(again, fit_candidates(rest, settings), strict=True):
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


def _other_kinds(subject: CellFit, settings: VerdictSettings) -> dict[int, Kind]:
    """Return the seeds that were never learned or hold, where the cell fails otherwise.

    Such a seed is no far tail of the seeds that fail: it would only widen their distribution.
    """
    family = min(subject.bic, key=lambda name: subject.bic[name])
    if not isinstance(subject, FailingFit) or kind_of(subject, family, settings) == "holds":
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


def _majority(subject: CellFit, others: Mapping[int, Kind]) -> JointVerdict | None:
    """Return the verdict where at least half of the seeds hold, or were never learned."""
    total = len(subject.curves) + (len(others) if len(others) < len(subject.curves) / 2 else 0)
    for kind in ("holds", "never_learned"):
        count = sum(other == kind for other in others.values())
        if 2 * count >= len({c.seed for c in subject.curves} | set(others)) and count:
            words = "hold" if kind == "holds" else "were never learned"
            beyond = Estimate(None, subject.last, None) if kind == "holds" else UNKNOWN
            return JointVerdict(kind, f"{count} of {total} seeds {words}", beyond)
    return None


def _decide(subject: CellFit, settings: VerdictSettings, levels: Sequence[float]) -> JointVerdict:
    order = sorted(subject.bic, key=lambda name: subject.bic[name])
    family = order[0]
    if not isinstance(subject, FailingFit):
        beyond = Estimate(None, subject.last, None)
        return JointVerdict("holds", f"no failure up to {times(subject.last)}", beyond)
    named = {name: kind_of(subject, name, settings) for name in order}
    kind = named[family]
    rival = next((name for name in order if named[name] != kind), None)
    gap = np.inf if rival is None else subject.bic[rival] - subject.bic[family]
    is_close = rival is not None and gap < CLOSE
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
        ratio, bound = None, widest_sharpness(subject, step, settings)
        width = "" if bound is None else f" (W <= {bound:.3g})"
        width += f", anywhere between {times(step.low)} and {times(step.high)}"
    if not is_close:
        reason = f"falls {kind if kind == 'sharp' else 'gradual'}ly{width}"
    return JointVerdict(
        kind="inconclusive" if is_close else kind,
        reason=reason,
        half_multiple=median_multiple(subject, family, None, settings),
        failure_multiples={x: median_multiple(subject, family, x, settings) for x in levels},
        scatter=float(subject.scatters[n]),
        sharpness=ratio,
        family=family,
        lapse=float(shared[LAPSE] ** 2),
        rho=float(shared[RHO] ** 2),
    )
