"""Test the claim "near-perfect at 2x and 3x" with exact intervals over strings and over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.intervals import exact_bounds, strings_needed

Outcome = Literal["supported", "refuted", "undecided"]


@dataclass(frozen=True)
class Claim:
    """The outcome of one claim for one cell.

    Args:
        multiple: multiple of the training length that the claim is about.
        level: accuracy that is claimed.
        outcome: for the seeds that ran: "supported" when every seed's lower bound reaches the
            level, "refuted" when some seed's upper bound lies below it; None when no seed was
            tested near the multiple.
        by_seed: each seed's own outcome, "undecided" where it was not tested near the multiple.
        share: exact one-sided bounds on the share of all possible seeds that pass; an undecided
            seed counts as failed in the lower and as passed in the upper bound.
        needs: strings per seed that would let a faultless seed pass.
    """

    multiple: float
    level: float
    outcome: Outcome | None
    by_seed: Mapping[int, Outcome]
    share: tuple[float, float]
    needs: int


def claim_at(
    cell: CellCurves,
    multiple: float,
    level: float,
    confidence: float = 0.95,
) -> Claim:
    """Test whether every seed answers at least ``level`` right at ``multiple``.

    Args:
        cell: all seeds; a seed that failed to train has no say.
        multiple: any tested length within 5 % of it stands for it; the nearest is used.
        level: accuracy, not corrected for chance, inside (0, 1).
        confidence: of each one-sided Clopper-Pearson bound.

    Raises:
        ValueError: ``level`` is not inside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, it must lie inside (0, 1)")
    by_seed = {curve.seed: _outcome(curve, multiple, level, confidence) for curve in cell.curves}
    outcomes = list(by_seed.values())
    passed, refuted, seeds = outcomes.count("supported"), outcomes.count("refuted"), len(outcomes)
    outcome: Outcome | None = "undecided"
    if all(curve.nearest(multiple) is None for curve in cell.curves):
        outcome = None
    elif refuted:
        outcome = "refuted"
    elif passed == seeds:
        outcome = "supported"
    share = (0.0, 1.0)
    if seeds:
        lower, _ = exact_bounds(passed, seeds, confidence)
        _, upper = exact_bounds(seeds - refuted, seeds, confidence)
        share = float(lower), float(upper)
    return Claim(multiple, level, outcome, by_seed, share, strings_needed(1 - level, confidence))


def _outcome(curve: LengthCurve, multiple: float, level: float, confidence: float) -> Outcome:
    nearest = curve.nearest(multiple)
    if nearest is None:
        return "undecided"
    lower, upper = exact_bounds(curve.num_correct[nearest], curve.num_total[nearest], confidence)
    if lower >= level:
        return "supported"
    return "refuted" if upper < level else "undecided"
