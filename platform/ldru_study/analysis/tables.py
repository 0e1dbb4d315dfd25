"""The verdict table: one row of typed values per cell, the words for it, and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ldru_study.analysis.cell import CellVerdict
from ldru_study.analysis.claims import Outcome
from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.failure import Estimate
from ldru_study.analysis.verdict import Kind, times

Range = tuple[float, float]
COLUMNS = (
    "task",
    "model",
    "verdict",
    "each seed alone",
    "in distribution",
    "at 2x",
    "at 3x",
    "near-perfect at 2x, 3x",
    "at the longest",
    "half way to chance",
    "bound (95 %)",
    "flags",
)


@dataclass(frozen=True)
class VerdictRow:
    """One cell of a study.

    ``verdict``, ``half_multiple``, ``failure_multiples`` (by level) and ``scatter`` are of all
    seeds together but those in ``left_out``, whose own kinds stand there; see `JointVerdict`.
    ``summary`` counts the seeds judged alone. Accuracies are the lowest and the highest over the
    seeds, None where nothing was evaluated. ``holds_share`` bounds the share of seeds that hold,
    ``error_bound`` the error at each longer length. ``claim_at_2x`` and ``claim_at_3x`` say whether
    every seed answers at least ``near_perfect`` right there, see `Claim`; ``num_unfinished`` seeds
    may still change that.
    """

    task: str
    model: str
    key: str
    num_seeds: int
    num_failed: int
    num_unfinished: int
    verdict: Kind | None
    left_out: Mapping[int, Kind]
    summary: str
    accuracy_in_distribution: Range | None
    accuracy_at_2x: Range | None
    accuracy_at_3x: Range | None
    near_perfect: float
    claim_at_2x: Outcome | None
    claim_at_3x: Outcome | None
    longest: float | None
    accuracy_at_longest: Range | None
    half_multiple: Estimate
    failure_multiples: Mapping[float, Estimate]
    scatter: float | None
    holds_share: Range
    error_bound: float | None
    confidence: float
    flags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`; None is null."""
        return _plain_mapping(asdict(self))


def verdict_rows(verdicts: Iterable[CellVerdict]) -> list[VerdictRow]:
    """Return one row per cell, in the order given."""
    return [_row(verdict) for verdict in verdicts]


def render(row: VerdictRow) -> list[str]:
    """Return the row as text, one string per name in `COLUMNS`."""
    failed = f" (+{row.num_failed} failed)" if row.num_failed else ""
    longest = "" if row.longest is None else f" ({times(row.longest)})"
    return [
        row.task,
        row.model,
        kind_words(row),
        f"{row.summary}{failed}",
        accuracies(row.accuracy_in_distribution),
        accuracies(row.accuracy_at_2x),
        accuracies(row.accuracy_at_3x),
        claim_words((row.claim_at_2x, row.claim_at_3x), row.num_unfinished),
        accuracies(row.accuracy_at_longest) + longest,
        estimate(row.half_multiple),
        bound(row),
        ", ".join(flag.replace("_", " ") for flag in row.flags),
    ]


def to_json(verdict: CellVerdict) -> dict[str, Any]:
    """Return everything about one cell as plain values: the row, each seed, all of them."""
    return _plain_mapping(
        asdict(_row(verdict))
        | {
            "axes": dict(verdict.cell.axes),
            "failed": dict(verdict.cell.failed),
            "seeds": [asdict(seed) for seed in verdict.seeds],
            "pooled": None if verdict.pooled is None else asdict(verdict.pooled),
            "joint": None if verdict.joint is None else asdict(verdict.joint),
            "claims": [asdict(claim) for claim in verdict.claims],
        }
    )


def kind_words(row: VerdictRow) -> str:
    """Write a cell's verdict and which seeds are not in it: "sharp, without seed 2 (holds)"."""
    if row.verdict is None:
        return "-"
    kind = row.verdict.replace("_", " ")
    return f"{kind}, {left_out_words(row.left_out)}" if row.left_out else kind


def left_out_words(left_out: Mapping[int, Kind]) -> str:
    """Write which seeds are of another kind than their cell: "without seed 2 (never learned)"."""
    of_kind: dict[Kind, list[int]] = {}
    for seed, kind in left_out.items():
        of_kind.setdefault(kind, []).append(seed)
    return ", ".join(
        f"without seed {', '.join(map(str, seeds))} ({kind.replace('_', ' ')})"
        for kind, seeds in of_kind.items()
    )


def accuracies(found: Range | None) -> str:
    """Write the range of an accuracy over seeds: "99.2..100 %"."""
    if found is None:
        return "-"
    low, high = (_percent(x) for x in found)
    return f"{low} %" if low == high else f"{low}..{high} %"


def estimate(found: Estimate) -> str:
    """Write one multiple with its interval: "3.9x (3.6x to 4.2x)", "> 25x", "4x to 6x", "-"."""
    low = None if found.lower is None else times(found.lower)
    high = None if found.upper is None else times(found.upper)
    if found.value is not None:
        return f"{times(found.value)} ({low or 'below'} to {high or 'beyond'})"
    if low and high:
        return f"{low} to {high}"
    return f"> {low}" if low else f"< {high}" if high else "-"


def claim_words(outcomes: Sequence[str | None], num_unfinished: int) -> str:
    """Write what became of a claim at several multiples, in their order: "supported, undecided".

    Args:
        outcomes: None, written "-", where nothing was tested; all None are one "-".
        num_unfinished: seeds to come; what is not refuted holds "so far" while there are any.
    """
    if all(outcome is None for outcome in outcomes):
        return "-"
    words = ", ".join(outcome or "-" for outcome in outcomes)
    return f"{words} (so far)" if may_change(outcomes, num_unfinished) else words


def may_change(outcomes: Iterable[str | None], num_unfinished: int) -> bool:
    """Return whether seeds to come can change an outcome: all but "refuted" hang on them."""
    return num_unfinished > 0 and any(outcome != "refuted" for outcome in outcomes)


def share(part: float) -> str:
    """Write a share: "63 %"."""
    return f"{100 * part:.0f} %"


def bound(row: VerdictRow) -> str:
    """Write what the counts and the number of seeds can exclude."""
    low, high = row.holds_share
    if row.error_bound is not None:
        error = f"error < {100 * row.error_bound:.2g} % per length"
        return f"{error}, < {share(1 - low)} of seeds fail"
    if not row.num_seeds:
        return "-"
    if low == 0:
        return f"< {share(high)} of seeds hold" if high < 1 else "-"
    return f"{100 * low:.0f} to {share(high)} of seeds hold"


def _row(verdict: CellVerdict) -> VerdictRow:
    cell, joint = verdict.cell, verdict.joint
    longest = max((float(curve.multiples[-1]) for curve in cell.curves), default=None)
    at_2x, at_3x = verdict.claims
    inside = [v.accuracy_in_distribution for v in verdict.seeds]
    return VerdictRow(
        task=cell.task,
        model=cell.label,
        key=cell.key,
        num_seeds=len(cell.curves),
        num_failed=len(cell.failed),
        num_unfinished=cell.num_unfinished,
        verdict=verdict.kind,
        left_out=verdict.left_out,
        summary=verdict.summary,
        accuracy_in_distribution=_range(x for x in inside if x is not None),
        accuracy_at_2x=_accuracy_at(cell, 2.0),
        accuracy_at_3x=_accuracy_at(cell, 3.0),
        near_perfect=at_2x.level,
        claim_at_2x=at_2x.outcome,
        claim_at_3x=at_3x.outcome,
        longest=longest,
        accuracy_at_longest=None if longest is None else _accuracy_at(cell, longest),
        half_multiple=verdict.half_multiple,
        failure_multiples={} if joint is None else joint.failure_multiples,
        scatter=None if joint is None else joint.scatter,
        holds_share=verdict.holds_share,
        error_bound=verdict.error_bound,
        confidence=verdict.confidence,
        flags=verdict.flags,
    )


def _accuracy_at(cell: CellCurves, multiple: float) -> Range | None:
    def at(curve: LengthCurve) -> float | None:
        index = curve.nearest(multiple)
        return None if index is None else float(curve.accuracy[index])

    return _range(x for x in map(at, cell.curves) if x is not None)


def _range(values: Iterable[float]) -> Range | None:
    found = list(values)
    return (min(found), max(found)) if found else None


def _percent(share: float) -> str:
    # never round an imperfect accuracy up to 100
    return "100" if share == 1 else f"{min(100 * share, 99.94):.1f}"


def _plain_mapping(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Turn keys into text and tuples into lists, all the way down."""
    return {str(key): _plain(item) for key, item in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _plain_mapping(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
