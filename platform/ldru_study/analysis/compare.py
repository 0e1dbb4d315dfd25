"""Two models on the same tasks and seeds: paired permutation tests, corrected over the tasks.

Both models of a pair meet the same evaluation strings, so differences are taken seed by seed. With
few pairs every assignment of signs is counted; five pairs cannot give a p below 2/32, and then no
interval at 95 % exists either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ldru_study.analysis.bracket import excess
from ldru_study.analysis.counts import CellCurves, Floats, LengthCurve

# 2^14 assignments of signs are counted one by one
_MAX_EXACT = 14
_NUM_DRAWS = 20_000


@dataclass(frozen=True)
class Paired:
    """One test of A against B.

    Args:
        task: what is compared; None for all tasks together.
        num_pairs: seeds (and cells of the same task) that both models have.
        effect: mean difference A - B of the chance-corrected accuracy over the common lengths
            beyond the longest training length.
        lower: lower end of its interval, by inverting the test; None where no shift is refused.
        upper: the upper end.
        p_value: two-sided.
        p_holm: corrected over the tasks by Holm; None for all tasks together.
        is_exact: whether every assignment of signs was counted.
        differences: of the pairs.
    """

    task: str | None
    num_pairs: int
    effect: float
    lower: float | None
    upper: float | None
    p_value: float
    p_holm: float | None
    is_exact: bool
    differences: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """A against B on every common task, and on all together.

    ``skipped`` says for each task that only one of them has, or that cannot be paired, why.
    """

    tasks: tuple[Paired, ...]
    overall: Paired
    skipped: Mapping[str, str]


def compare(
    a: Sequence[CellCurves], b: Sequence[CellCurves], confidence: float = 0.95
) -> Comparison:
    """Compare two models over their common tasks.

    Args:
        a: the cells of one model.
        b: the cells of the other; a pair is one task, one value of each other axis and one seed.
        confidence: of the intervals.

    Raises:
        ValueError: nothing can be paired; the message says why.
    """
    differences: dict[str, list[float]] = {}
    skipped: dict[str, str] = {}
    for task in dict.fromkeys(cell.task for cell in (*a, *b)):
        try:
            differences[task] = _differences(
                [cell for cell in a if cell.task == task], [cell for cell in b if cell.task == task]
            )
        except ValueError as error:
            skipped[task] = str(error)
    if not differences:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in skipped.items())
        raise ValueError(f"nothing can be paired ({reasons or 'there is no cell'})")
    tested = {task: _test(task, np.array(found), confidence) for task, found in differences.items()}
    corrected = holm([one.p_value for one in tested.values()])
    tasks = tuple(
        Paired(**(vars(one) | {"p_holm": p}))
        for one, p in zip(tested.values(), corrected, strict=True)
    )
    everything = np.array([d for found in differences.values() for d in found])
    return Comparison(tasks, _test(None, everything, confidence), skipped)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values corrected for their number.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    p = np.asarray(p_values, float)
    order = p.argsort()
    raised = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(raised, 1.0)
    return [float(value) for value in corrected]


def sign_flip_p(differences: Floats, *, seed: int = 0) -> tuple[float, bool]:
    """Return the two-sided p of "the differences are symmetric about 0", and whether it is exact.

    The statistic is the mean. Beyond 14 pairs, 20 000 assignments of signs are drawn, and the one
    observed is counted among them.

    Args:
        differences: one per pair, [D].
        seed: of the draws.

    Source: Fisher 1935, "The design of experiments", section 21.
    """
    signs, is_exact = _signs(len(differences), seed)
    return float(_p_values(differences, np.zeros(1), signs)[0]), is_exact


def _signs(num_pairs: int, seed: int) -> tuple[Floats, bool]:
    if num_pairs <= _MAX_EXACT:
        bits = np.arange(2**num_pairs)[:, None] >> np.arange(num_pairs)
        return np.asarray(1 - 2 * (bits & 1), np.float64), True
    draws = np.random.default_rng(seed).integers(2, size=(_NUM_DRAWS, num_pairs))
    signs = np.asarray(1 - 2 * draws, np.float64)
    # the assignment that was observed
    signs[0] = 1.0
    return signs, False


def _p_values(differences: Floats, shifts: Floats, signs: Floats) -> Floats:
    """Return the p of each shift of the differences, [N]."""
    moved = differences[:, None] - shifts
    observed = np.abs(moved.sum(0))
    # ties count, up to rounding
    return np.asarray((np.abs(signs @ moved) >= observed - 1e-9).mean(0))


def _test(task: str | None, differences: Floats, confidence: float) -> Paired:
    signs, is_exact = _signs(len(differences), 0)
    p = float(_p_values(differences, np.zeros(1), signs)[0])
    lower, upper = _interval(differences, signs, confidence)
    return Paired(
        task=task,
        num_pairs=len(differences),
        effect=float(differences.mean()),
        lower=lower,
        upper=upper,
        p_value=p,
        p_holm=None,
        is_exact=is_exact,
        differences=tuple(map(float, differences)),
    )


def _interval(
    differences: Floats, signs: Floats, confidence: float
) -> tuple[float | None, float | None]:
    """Return the shifts that the test does not refuse; None where it can refuse none."""
    if 2.0 ** (1 - len(differences)) > 1 - confidence:
        return None, None
    centre = float(differences.mean())
    ends = []
    for edge in (float(differences.min()), float(differences.max())):
        inside, outside = centre, edge + np.sign(edge - centre) * 1e-9
        for _ in range(30):
            middle = (inside + outside) / 2
            kept = _p_values(differences, np.array([middle]), signs)[0] > 1 - confidence
            inside, outside = (middle, outside) if kept else (inside, middle)
        ends.append(float((inside + outside) / 2))
    return ends[0], ends[1]


def _differences(a: Sequence[CellCurves], b: Sequence[CellCurves]) -> list[float]:
    """Return A - B of every pair of one task.

    Raises:
        ValueError: there is no pair, or two curves share no length to compare at.
    """
    of_a, of_b = _by_pair(a), _by_pair(b)
    if not of_a or not of_b:
        who = "both" if not of_a and not of_b else "A" if not of_a else "B"
        raise ValueError(f"{who} has no evaluated trial")
    common = sorted(of_a.keys() & of_b.keys())
    if not common:
        raise ValueError(
            f"no common seed and cell: A has {_names(of_a)}, B has {_names(of_b)}; "
            "pairs need the same seed and the same value on every other axis"
        )
    return [_difference(pair, of_a[pair], of_b[pair]) for pair in common]


def _by_pair(cells: Sequence[CellCurves]) -> dict[tuple[str, int], LengthCurve]:
    found: dict[tuple[str, int], LengthCurve] = {}
    for cell in cells:
        axes = ", ".join(f"{axis} {value}" for axis, value in sorted(cell.axes.items()))
        for curve in cell.curves:
            if (axes, curve.seed) in found:
                where = f"seed {curve.seed}" + (f", {axes}" if axes else "")
                raise ValueError(f"{where} occurs twice on one side; name a single model")
            found[axes, curve.seed] = curve
    return found


def _names(pairs: Mapping[tuple[str, int], LengthCurve]) -> str:
    return "; ".join(f"seed {seed}" + (f", {axes}" if axes else "") for axes, seed in sorted(pairs))


def _difference(pair: tuple[str, int], a: LengthCurve, b: LengthCurve) -> float:
    where = f"seed {pair[1]}" + (f", {pair[0]}" if pair[0] else "")
    if a.train_max_length != b.train_max_length:
        longest = f"{a.train_max_length} and {b.train_max_length}"
        raise ValueError(f"{where}: trained up to {longest} tokens, which is no pair")
    lengths = np.intersect1d(a.lengths, b.lengths)
    lengths = lengths[lengths > a.train_max_length]
    means = []
    for curve in (a, b):
        kept = np.isin(curve.lengths, lengths) & (curve.chance < 1)
        if not kept.any():
            raise ValueError(f"{where}: no common test length beyond the training length")
        means.append(float(excess(curve.accuracy[kept], curve.chance[kept]).mean()))
    return means[0] - means[1]
