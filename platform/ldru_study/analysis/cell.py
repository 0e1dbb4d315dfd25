"""The verdict on a cell: per seed first, then counted, and only then pooled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ldru_study.analysis.bracket import residual_p_values
from ldru_study.analysis.claims import Claim, claim_at
from ldru_study.analysis.consensus import JointVerdict, judge_jointly
from ldru_study.analysis.counts import CellCurves
from ldru_study.analysis.failure import UNKNOWN, Estimate
from ldru_study.analysis.intervals import exact_bounds
from ldru_study.analysis.judge import judge_curves, judge_groups
from ldru_study.analysis.verdict import (
    DEFAULTS,
    FLAGS,
    KINDS,
    CurveVerdict,
    Kind,
    VerdictSettings,
)

_CLAIMED_MULTIPLES = (2.0, 3.0)
# a residual test must be this sure before it raises a flag
_RESIDUAL_P = 0.01


@dataclass(frozen=True)
class CellVerdict:
    """What all seeds of a cell say together.

    Args:
        cell: the counts that were judged.
        seeds: one verdict per evaluated seed.
        counts: seeds of each kind, most frequent first; empty when no seed was evaluated.
        pooled: verdict on one curve for all seeds, to see what pooling would hide; None when no
            seed was evaluated.
        joint: verdict from all seeds at once, each with a threshold of its own: the cell's own
            verdict and numbers, wherever one is shown; None likewise.
        holds_share: exact one-sided bounds on the share of seeds that hold; an inconclusive seed
            counts as failing in the lower and as holding in the upper bound.
        error_bound: the error rate at every tested length beyond the training length is below
            this, length by length and seed by seed; None unless the cell and every seed hold.
        confidence: of every bound.
        claims: near-perfect at 2x and at 3x.
        flags: names in `FLAGS`, from the seeds, from the pooled curve and from comparing them.
    """

    cell: CellCurves
    seeds: tuple[CurveVerdict, ...]
    counts: Mapping[Kind, int]
    pooled: CurveVerdict | None
    joint: JointVerdict | None
    holds_share: tuple[float, float]
    error_bound: float | None
    confidence: float
    claims: tuple[Claim, ...]
    flags: tuple[str, ...]

    @property
    def kind(self) -> Kind | None:
        """The verdict on the cell; None when no seed was evaluated."""
        return None if self.joint is None else self.joint.kind

    @property
    def half_multiple(self) -> Estimate:
        """Where the cell is half way to chance."""
        return UNKNOWN if self.joint is None else self.joint.half_multiple

    @property
    def left_out(self) -> Mapping[int, Kind]:
        """The seeds of another kind than the cell, which do not enter its numbers."""
        return {} if self.joint is None else self.joint.left_out

    @property
    def num_agreeing(self) -> int:
        """The seeds that the cell's verdict and numbers are of."""
        return len(self.seeds) - len(self.left_out)

    @property
    def summary(self) -> str:
        """Count the seeds, each judged alone: "holds 3 of 3", or "2 of 3 hold, 1 sharp"."""
        total = len(self.seeds)
        if not total:
            return "no seed was evaluated"
        names = [kind.replace("_", " ") for kind in self.counts]
        if len(names) == 1:
            return f"{names[0]} {total} of {total}"
        first, *others = self.counts.values()
        words = [f"{first} of {total} {names[0].replace('holds', 'hold')}"]
        words += [f"{count} {name}" for count, name in zip(others, names[1:], strict=True)]
        return ", ".join(words)


def judge_cells(
    cells: Sequence[CellCurves],
    settings: VerdictSettings = DEFAULTS,
    *,
    seed_levels: Sequence[float] = (),
) -> list[CellVerdict]:
    """Judge every seed of every cell, and every cell's pooled curve.

    Args:
        cells: any number of cells; many at once are far faster than one by one.
        settings: thresholds.
        seed_levels: excesses whose failure multiples are wanted of every single seed; the joint
            verdict has those of the settings without being asked. Three of them double the time.

    Raises:
        ValueError: the seeds of a cell were trained on different lengths.
    """
    curves = [curve for cell in cells for curve in cell.curves]
    verdicts = iter(judge_curves(curves, settings, levels=seed_levels))
    per_cell = [tuple(next(verdicts) for _ in cell.curves) for cell in cells]
    groups = [cell.curves for cell in cells if cell.curves]
    pooled = iter(judge_groups(groups, settings, levels=()))
    alone = [[seed.kind for seed in seeds] for seeds in per_cell if seeds]
    joint = iter(judge_jointly(groups, settings, alone=alone))
    return [
        _combine(cell, seeds, (next(pooled), next(joint)) if cell.curves else None, settings)
        for cell, seeds in zip(cells, per_cell, strict=True)
    ]


def _combine(
    cell: CellCurves,
    seeds: tuple[CurveVerdict, ...],
    together: tuple[CurveVerdict, JointVerdict] | None,
    settings: VerdictSettings,
) -> CellVerdict:
    pooled, joint = together or (None, None)
    tally = Counter(verdict.kind for verdict in seeds)
    counts = dict(sorted(tally.items(), key=lambda item: (-item[1], KINDS.index(item[0]))))
    return CellVerdict(
        cell=cell,
        seeds=seeds,
        counts=counts,
        pooled=pooled,
        joint=joint,
        holds_share=_holds_share(tally, settings.confidence),
        error_bound=_error_bound(cell, settings) if _all_hold(joint, counts) else None,
        confidence=settings.confidence,
        claims=tuple(
            claim_at(cell, multiple, settings.near_perfect, settings.confidence)
            for multiple in _CLAIMED_MULTIPLES
        ),
        flags=_flags(cell, seeds, pooled, counts),
    )


def _all_hold(joint: JointVerdict | None, counts: Mapping[Kind, int]) -> bool:
    return joint is not None and joint.kind == "holds" and set(counts) == {"holds"}


def _holds_share(tally: Mapping[Kind, int], confidence: float) -> tuple[float, float]:
    total = sum(tally.values())
    if not total:
        return 0.0, 1.0
    lower, _ = exact_bounds(tally.get("holds", 0), total, confidence)
    perhaps = tally.get("holds", 0) + tally.get("inconclusive", 0)
    _, upper = exact_bounds(perhaps, total, confidence)
    return float(lower), float(upper)


def _error_bound(cell: CellCurves, settings: VerdictSettings) -> float | None:
    """Return the largest one-sided bound on the error over all seeds and longer lengths."""
    worst = []
    for curve in cell.curves:
        counted = ~curve.in_distribution & (curve.chance <= settings.informative_chance)
        wrong = (curve.num_total - curve.num_correct)[counted]
        worst += list(exact_bounds(wrong, curve.num_total[counted], settings.confidence)[1])
    return float(max(worst)) if worst else None


def _flags(
    cell: CellCurves,
    seeds: Sequence[CurveVerdict],
    pooled: CurveVerdict | None,
    counts: Mapping[Kind, int],
) -> tuple[str, ...]:
    # a pooled crossing is no one's failure, so its bracket is not held against it
    found = {flag for verdict in seeds for flag in verdict.flags}
    found |= {"oracle_selection"} if cell.chosen_by == "oracle" else set()
    most = {kind for kind, count in counts.items() if count == max(counts.values())}
    undecided = "inconclusive" in most | {pooled.kind if pooled else "inconclusive"}
    if pooled is not None and not undecided and pooled.kind not in most:
        found.add("pooling_artefact")
    fitted = [
        (curve, verdict.fit)
        for curve, verdict in zip(cell.curves, seeds, strict=True)
        if verdict.fit is not None
    ]
    if fitted:
        curves, fits = zip(*fitted, strict=True)
        parity, depth = residual_p_values(curves, fits)
        found |= {"length_parity"} if parity is not None and parity < _RESIDUAL_P else set()
        found |= {"tree_depth"} if depth is not None and depth < _RESIDUAL_P else set()
    return tuple(name for name in FLAGS if name in found)
