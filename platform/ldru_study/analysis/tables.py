"""The verdict table: one row of typed values per cell, the words for it, and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ldru_study.analysis.cell import CellVerdict
from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.failure import Estimate
from ldru_study.analysis.verdict import times

Range = tuple[float, float]
COLUMNS = (
    "task",
    "model",
    "verdict",
    "in distribution",
    "at 2x",
    "at 3x",
    "at the longest",
    "half way to chance",
    "bound (95 %)",
    "flags",
)


@dataclass(frozen=True)
class VerdictRow:
    """One cell of a study.

    Accuracies are the lowest and the highest over the seeds, None where nothing was evaluated.
    ``half_multiples`` are those of the learned seeds, in the order of the seeds. ``holds_share``
    bounds the share of seeds that hold, ``error_bound`` the error at each longer length.
    """

    task: str
    model: str
    key: str
    num_seeds: int
    num_failed: int
    verdict: str
    accuracy_in_distribution: Range | None
    accuracy_at_2x: Range | None
    accuracy_at_3x: Range | None
    longest: float | None
    accuracy_at_longest: Range | None
    half_multiples: tuple[Estimate, ...]
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
        f"{row.verdict}{failed}",
        accuracies(row.accuracy_in_distribution),
        accuracies(row.accuracy_at_2x),
        accuracies(row.accuracy_at_3x),
        accuracies(row.accuracy_at_longest) + longest,
        half_way(row.half_multiples),
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


def half_way(halves: Sequence[Estimate]) -> str:
    """Write the half multiples of all seeds: one with its interval, several as a range."""
    if len(halves) == 1:
        return estimate(halves[0])
    # a seed that only has a bracket counts with its middle
    ends = [(e.lower, e.upper) for e in halves if e.value is None and e.lower and e.upper]
    known = sorted([e.value for e in halves if e.value] + [(a * b) ** 0.5 for a, b in ends])
    beyond = [e.lower for e in halves if e.value is None and e.upper is None and e.lower]
    parts = []
    if known:
        first, last = times(known[0]), times(known[-1])
        parts.append(first if first == last else f"{first}..{last}")
    if beyond:
        parts.append(f"> {times(min(beyond))}")
    return ", ".join(parts) or "-"


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
    cell = verdict.cell
    longest = max((float(curve.multiples[-1]) for curve in cell.curves), default=None)
    inside = [v.accuracy_in_distribution for v in verdict.seeds]
    return VerdictRow(
        task=cell.task,
        model=cell.label,
        key=cell.key,
        num_seeds=len(cell.curves),
        num_failed=len(cell.failed),
        verdict=verdict.summary,
        accuracy_in_distribution=_range(x for x in inside if x is not None),
        accuracy_at_2x=_accuracy_at(cell, 2.0),
        accuracy_at_3x=_accuracy_at(cell, 3.0),
        longest=longest,
        accuracy_at_longest=None if longest is None else _accuracy_at(cell, longest),
        half_multiples=tuple(v.half_multiple for v in verdict.seeds if v.fit is not None),
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
