"""What is settled before any fit: which lengths can tell, whether it was learned, odd counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldru_study.analysis.bracket import below_chance, pool_counts, rises_again
from ldru_study.analysis.counts import LengthCurve
from ldru_study.analysis.intervals import exact_bounds


@dataclass(frozen=True, eq=False)
class Evidence:
    """A group of seeds (or one) on the lengths where a constant answer is not already right.

    Args:
        curves: the seeds' curves on informative lengths; seeds without any are left out.
        counts: their sums at each length; None when no length is informative.
        reduced: whether lengths were left out.
        accuracy: over all strings at multiples <= 1; None if there were none.
        excess: chance-corrected accuracy there, or at the shortest length if there were none;
            None when no length is informative.
    """

    curves: tuple[LengthCurve, ...]
    counts: LengthCurve | None
    reduced: bool
    accuracy: float | None
    excess: float | None

    @property
    def reach(self) -> float | None:
        """Largest multiple that can show a failure."""
        return None if self.counts is None else float(self.counts.multiples[-1])


def gather(group: Sequence[LengthCurve], informative_chance: float) -> Evidence:
    """Keep the lengths whose chance is at most ``informative_chance`` and add up the seeds."""
    masks = [curve.chance <= informative_chance for curve in group]
    curves = tuple(
        curve if mask.all() else curve.select(mask)
        for curve, mask in zip(group, masks, strict=True)
        if mask.any()
    )
    reduced = not all(mask.all() for mask in masks)
    if not curves:
        return Evidence((), None, reduced, None, None)
    counts = pool_counts(curves)
    inside = counts.in_distribution
    # without lengths <= 1 the shortest one vouches for the plateau, if it can
    source = counts.select(inside if inside.any() else np.arange(len(inside)) == 0)
    total = source.num_total.sum()
    accuracy = float(source.num_correct.sum() / total)
    chance = float((source.chance * source.num_total).sum() / total)
    return Evidence(
        curves,
        counts,
        reduced,
        accuracy if inside.any() else None,
        (accuracy - chance) / (1 - chance),
    )


def count_flags(evidence: Evidence, confidence: float, near_perfect: float) -> set[str]:
    """Return the flags that need no fit."""
    flags = {"uninformative_lengths"} if evidence.reduced else set()
    counts = evidence.counts
    if counts is None:
        return flags
    if below_chance(counts, confidence):
        flags.add("below_chance")
    if rises_again(counts, confidence):
        flags.add("non_monotone")
    inside = counts.in_distribution
    if inside.any():
        right, total = counts.num_correct[inside].sum(), counts.num_total[inside].sum()
        if exact_bounds(right, total, confidence)[1] < near_perfect:
            flags.add("imperfect_plateau")
    return flags
