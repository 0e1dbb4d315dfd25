"""Judge curves: holds, gradual, sharp, never_learned or inconclusive, each with its reason.

The same judgement serves one seed (its own curve) and a cell (all of its seeds pooled).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ldru_study.analysis.bracket import Bracket, find_bracket, next_lengths
from ldru_study.analysis.counts import LengthCurve
from ldru_study.analysis.curves import Cells, Family, survival
from ldru_study.analysis.evidence import Evidence, count_flags, gather
from ldru_study.analysis.failure import (
    UNKNOWN,
    Estimate,
    failure_multiples,
    failure_points,
    half_multiples,
    sharpness,
    sharpness_deviances,
    sharpnesses,
)
from ldru_study.analysis.fits import CurveFit, Fits, fit_cells
from ldru_study.analysis.verdict import (
    CLOSE,
    DEFAULTS,
    FLAGS,
    CurveVerdict,
    Kind,
    VerdictSettings,
    times,
    unlearned_reason,
)


@dataclass(frozen=True)
class _Shape:
    """How one curve was classified and where it fails.

    ``named`` says what each family's optimum would be called, ``cut_deviance`` how much worse a
    curve exactly as sharp as the cut would fit.
    """

    fits: Fits
    named: Mapping[Family, Kind]
    half_multiple: Estimate
    crossing: float | None
    multiples: Mapping[float, Estimate]
    sharpness: Estimate = UNKNOWN
    cut_deviance: float = 0.0


def judge_curves(
    curves: Sequence[LengthCurve],
    settings: VerdictSettings = DEFAULTS,
    *,
    levels: Sequence[float] | None = None,
) -> list[CurveVerdict]:
    """Judge every curve on its own; many at once are far faster than one by one.

    Args:
        curves: any number of seeds, also of different cells.
        settings: thresholds.
        levels: excesses whose failure multiples are wanted; None: those of the settings. None
            wanted saves two thirds of the time.
    """
    return judge_groups([[curve] for curve in curves], settings, levels=levels)


def judge_groups(
    groups: Sequence[Sequence[LengthCurve]],
    settings: VerdictSettings = DEFAULTS,
    *,
    levels: Sequence[float] | None = None,
) -> list[CurveVerdict]:
    """Judge each group of seeds as one shared curve, with one lapse and one rho.

    Arguments and order of the result are those of `judge_curves`.

    Raises:
        ValueError: a group is empty or mixes training lengths.
    """
    subjects = [gather(group, settings.informative_chance) for group in groups]
    asked = [
        row
        for row, subject in enumerate(subjects)
        if subject.excess is not None and subject.excess >= settings.learned_level
    ]
    wanted = settings.levels if levels is None else tuple(levels)
    shapes = _shapes([subjects[row] for row in asked], settings, wanted)
    found = dict(zip(asked, shapes, strict=True))
    return [
        _decide(subject, subject.counts, seed, found[row], settings)
        if row in found and subject.counts is not None
        else _unlearned(subject, seed, settings)
        for row, (subject, seed) in enumerate(zip(subjects, map(_only_seed, groups), strict=True))
    ]


def _only_seed(group: Sequence[LengthCurve]) -> int | None:
    return group[0].seed if len(group) == 1 else None


def _best(fits: Fits) -> CurveFit:
    return min(fits.values(), key=lambda fit: fit.bic)


def _shapes(
    subjects: Sequence[Evidence], settings: VerdictSettings, levels: Sequence[float]
) -> list[_Shape]:
    """Fit all curves together, and profile those that fail."""
    if not subjects:
        return []
    cells = Cells.stack([subject.curves for subject in subjects])
    fits = fit_cells(cells)
    named = [
        _name_families(fit, last, settings) for fit, last in zip(fits, cells.span[1], strict=True)
    ]
    failing = [row for row, fit in enumerate(fits) if named[row][_best(fit).family] != "holds"]
    # a curve that holds has no failure, whatever its slope would give when extrapolated
    chosen = [_best(fit) if row in set(failing) else fit["holds"] for row, fit in enumerate(fits)]
    halves = half_multiples(cells, chosen, settings.confidence)
    crossings = failure_points(cells, chosen, settings.learned_level)
    multiples = [failure_multiples(cells, chosen, x, settings.confidence) for x in levels]
    part = cells.take(np.array(failing, dtype=np.intp))
    weibull = [fits[row]["weibull"] for row in failing]
    ratios = dict(zip(failing, sharpnesses(part, weibull, settings.confidence), strict=True))
    cuts = dict(zip(failing, sharpness_deviances(part, weibull, settings.sharp_ratio), strict=True))
    return [
        _Shape(
            fits=fit,
            named=named[row],
            half_multiple=halves[row],
            crossing=crossings[row],
            multiples={x: found[row] for x, found in zip(levels, multiples, strict=True)},
            sharpness=ratios.get(row, UNKNOWN),
            cut_deviance=float(cuts.get(row, 0.0)),
        )
        for row, fit in enumerate(fits)
    ]


def _name_families(fits: Fits, log_reach: float, settings: VerdictSettings) -> dict[Family, Kind]:
    """Say what each family's optimum would be called: a slope that costs nothing is no failure."""
    named: dict[Family, Kind] = {}
    for family, fit in fits.items():
        if fit.half_multiple is None or fit.beta is None:
            named[family] = "holds"
            continue
        kept = survival(np.exp([log_reach]), fit.half_multiple, fit.beta)[0]
        sharp = sharpness(fit.beta) <= settings.sharp_ratio
        named[family] = (
            "holds" if kept >= settings.near_perfect else "sharp" if sharp else "gradual"
        )
    return named


def _decide(
    subject: Evidence,
    counts: LengthCurve,
    seed: int | None,
    shape: _Shape,
    settings: VerdictSettings,
) -> CurveVerdict:
    """Return the verdict on a curve that was learned."""
    bracket = find_bracket(counts, settings.learned_level, settings.confidence)
    kind, reason = _kind(shape, bracket, settings)
    best, half = _best(shape.fits), shape.half_multiple
    flags = count_flags(subject, settings.confidence, settings.near_perfect)
    if _outside(shape.crossing, bracket):
        flags.add("outside_bracket")
    if kind == "holds":
        reason = f"no failure up to {times(float(counts.multiples[-1]))}"
        flags |= {"slow_decay"} if best.family != "holds" else set()
    elif kind != "inconclusive":
        reason = f"{reason}, {_where(half, bracket)}"
    unresolved = half.value is None and bracket.fails_at is not None
    return CurveVerdict(
        kind=kind,
        reason=reason,
        seed=seed,
        accuracy_in_distribution=subject.accuracy,
        reach=subject.reach,
        fit=best,
        half_multiple=half,
        sharpness=shape.sharpness,
        failure_multiples=shape.multiples,
        bracket=bracket,
        next_lengths=next_lengths(counts, bracket) if unresolved else (),
        flags=tuple(name for name in FLAGS if name in flags),
    )


def _kind(shape: _Shape, bracket: Bracket, settings: VerdictSettings) -> tuple[Kind, str]:
    """Choose the verdict; families whose optima have the same name do not compete.

    Otherwise faultless counts would be undecided among three families that all say "holds".
    """
    best = _best(shape.fits)
    kind = shape.named[best.family]
    rivals = [fit for family, fit in shape.fits.items() if shape.named[family] != kind]
    rival = min(rivals, key=lambda fit: fit.bic, default=None)
    if rival is not None and rival.bic - best.bic < CLOSE:
        gap = rival.bic - best.bic
        other = shape.named[rival.family]
        return "inconclusive", f"'{kind}' is ahead of '{other}' by a BIC of only {gap:.1f}"
    if kind == "holds" and bracket.fails_at is not None:
        at = times(bracket.fails_at)
        return "inconclusive", f"a constant accuracy fits best, yet it is surely low at {at}"
    ratio = shape.sharpness
    if kind == "gradual":
        return kind, f"falls gradually (W = {sharpness(best.beta or 1.0):.3g})"
    if kind == "sharp" and ratio.value is None and shape.cut_deviance < CLOSE:
        return "inconclusive", "it fails between lengths too far apart to tell how sharply"
    if ratio.value is not None:
        return kind, f"falls sharply (W = {ratio.value:.3g})"
    return kind, "falls sharply" + (f" (W <= {ratio.upper:.3g})" if ratio.upper else "")


def _unlearned(subject: Evidence, seed: int | None, settings: VerdictSettings) -> CurveVerdict:
    """Return the verdict on a curve that cannot be asked how it fails."""
    kind, reason = unlearned_reason(subject)
    # below the level of learning, that it is not near-perfect goes without saying
    flags = count_flags(subject, settings.confidence, settings.near_perfect) - {"imperfect_plateau"}
    return CurveVerdict(
        kind=kind,
        reason=reason,
        seed=seed,
        accuracy_in_distribution=subject.accuracy,
        reach=subject.reach,
        flags=tuple(name for name in FLAGS if name in flags),
    )


def _outside(crossing: float | None, bracket: Bracket) -> bool:
    if crossing is None:
        return False
    below = bracket.holds_at is not None and crossing < bracket.holds_at
    return below or (bracket.fails_at is not None and crossing > bracket.fails_at)


def _where(half: Estimate, bracket: Bracket) -> str:
    if half.value is not None:
        return f"half way to chance at {times(half.value)}"
    if bracket.fails_at is None:
        return "half way to chance lies beyond the tested lengths"
    since = "the shortest length" if bracket.holds_at is None else times(bracket.holds_at)
    return f"between {since} and {times(bracket.fails_at)}"
