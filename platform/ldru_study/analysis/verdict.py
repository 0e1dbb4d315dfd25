"""The words of a verdict: its kinds, its flags, its thresholds and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ldru_study.analysis.bracket import NO_BRACKET, Bracket
from ldru_study.analysis.evidence import Evidence
from ldru_study.analysis.failure import UNKNOWN, Estimate
from ldru_study.analysis.fits import CurveFit

Kind = Literal["holds", "gradual", "sharp", "never_learned", "inconclusive"]
KINDS: tuple[Kind, ...] = ("holds", "gradual", "sharp", "never_learned", "inconclusive")
FLAGS = {
    "below_chance": "below chance at some length: an inverted answer, not a guess",
    "non_monotone": "accuracy rises again at a longer length",
    "outside_bracket": "the fitted failure multiple lies outside the bracket of the counts",
    "imperfect_plateau": "accuracy at multiples <= 1 is surely not near-perfect",
    "slow_decay": "a slow decay is measurable, yet nearly all of the plateau is kept",
    "uninformative_lengths": "left out lengths where a constant answer is nearly always right",
    "length_parity": "residuals depend on whether the length is odd or even",
    "tree_depth": "residuals depend on ceil(log2 length)",
    "oracle_selection": "settings were chosen on lengths that also judge: accuracy is flattered",
    "pooling_artefact": "the pooled curve looks unlike most of the seeds it is made of",
}

# BICs nearer than this do not decide
CLOSE = 2.0


@dataclass(frozen=True)
class VerdictSettings:
    """What counts as learned, as sharp and as certain.

    Args:
        sharp_ratio: largest W = m10/m90 that is called sharp.
        learned_level: chance-corrected excess that must be reached at multiples <= 1, and whose
            sure loss is a failure. It is deliberately below near-perfect: a plateau at 0.95 is
            learned and may hold; the plateau is printed beside every verdict.
        near_perfect: accuracy that the claim at 2x and 3x asks for, and the share of its plateau
            that a curve must keep for a slope to be no failure.
        levels: excesses whose failure multiples are reported.
        confidence: of every interval.
        informative_chance: lengths where chance is above this say nothing and are left out.

    Raises:
        ValueError: a value is out of its range.
    """

    sharp_ratio: float = 2.0
    learned_level: float = 0.9
    near_perfect: float = 0.99
    levels: tuple[float, ...] = (0.99, 0.9, 0.5)
    confidence: float = 0.95
    informative_chance: float = 0.9

    def __post_init__(self) -> None:
        if self.sharp_ratio <= 1:
            raise ValueError(f"sharp_ratio is {self.sharp_ratio}, it must be > 1")
        shares = [
            self.learned_level,
            self.near_perfect,
            *self.levels,
            self.confidence,
            self.informative_chance,
        ]
        if any(not 0 < share < 1 for share in shares):
            raise ValueError(f"levels and confidence must lie inside (0, 1), found {shares}")


DEFAULTS = VerdictSettings()


@dataclass(frozen=True)
class CurveVerdict:
    """The verdict on one seed, or on all seeds of a cell pooled.

    Args:
        kind: the verdict.
        reason: one sentence.
        seed: the replicate; None for a pooled verdict.
        accuracy_in_distribution: over all strings at multiples <= 1; None if there were none.
        reach: largest multiple that can show a failure; None if there is none.
        fit: the selected fit; None where nothing was fitted.
        half_multiple: where S = 1/2, half way between plateau and chance.
        sharpness: W; only for curves that fail.
        failure_multiples: by level, for the levels asked for.
        bracket: of the failure at the learned level, from the counts alone.
        next_lengths: lengths in tokens that would narrow the bracket.
        flags: names in `FLAGS`.
    """

    kind: Kind
    reason: str
    seed: int | None = None
    accuracy_in_distribution: float | None = None
    reach: float | None = None
    fit: CurveFit | None = None
    half_multiple: Estimate = UNKNOWN
    sharpness: Estimate = UNKNOWN
    failure_multiples: Mapping[float, Estimate] = field(default_factory=dict)
    bracket: Bracket = NO_BRACKET
    next_lengths: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()


def unlearned_reason(evidence: Evidence) -> tuple[Kind, str]:
    """Return kind and reason of a curve that cannot be asked how it fails."""
    if evidence.counts is None or evidence.excess is None:
        return "inconclusive", "at every length a constant answer is nearly always right"
    if evidence.accuracy is None:
        at = times(float(evidence.counts.multiples[0]))
        return "inconclusive", f"low at {at} already, and never tested at <= 1x"
    way = f"only {100 * evidence.excess:.0f} % of the way from chance to perfect"
    return (
        "never_learned",
        f"{way if evidence.excess >= 0.01 else 'no better than chance'} at <= 1x",
    )


def times(multiple: float) -> str:
    """Write a multiple of the training length: 12.5x."""
    return f"{multiple:.3g}x"
