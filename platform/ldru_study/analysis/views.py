"""The tables `curves` and `verdicts`: what the counts of a store say, as numbers for SQL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ldru_study.analysis.cell import CellVerdict, judge_cells
from ldru_study.analysis.collect import counts_of
from ldru_study.analysis.consensus import JointVerdict
from ldru_study.analysis.failure import Estimate
from ldru_study.analysis.tables import verdict_rows
from ldru_study.analysis.verdict import KINDS, CurveVerdict
from ldru_study.results.query import Database
from ldru_study.results.store import Store

_TEXT, _COUNT, _NUMBER = pa.string(), pa.int64(), pa.float64()
_LEVELS = {0.99: "failure_multiple_99", 0.9: "failure_multiple_90", 0.5: "failure_multiple_50"}


def _estimate(name: str) -> list[tuple[str, pa.DataType]]:
    return [(name, _NUMBER), (f"{name}_lower", _NUMBER), (f"{name}_upper", _NUMBER)]


def _range(name: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}_min", _NUMBER), (f"{name}_max", _NUMBER)]


_CELL = [(name, _TEXT) for name in ("study", "cell", "task", "model_label", "label", "chosen_by")]
# one row: one seed's curve, judged alone, or with seed null what all seeds of a cell say together:
# the curve of its median seed, which has neither a likelihood nor a bracket of its own
CURVES = pa.schema(
    [
        *_CELL,
        ("seed", _COUNT),
        ("train_max_length", _COUNT),
        ("verdict", _TEXT),
        ("reason", _TEXT),
        ("accuracy_in_distribution", _NUMBER),
        ("reach", _NUMBER),
        ("family", _TEXT),
        ("alpha", _NUMBER),
        ("beta", _NUMBER),
        ("lapse", _NUMBER),
        ("rho", _NUMBER),
        ("log_likelihood", _NUMBER),
        ("bic", _NUMBER),
        ("num_lengths", _COUNT),
        *_estimate("half_multiple"),
        *_estimate("sharpness"),
        *(column for name in _LEVELS.values() for column in _estimate(name)),
        ("holds_at", _NUMBER),
        ("fails_at", _NUMBER),
        ("next_lengths", pa.list_(_COUNT)),
        ("flags", pa.list_(_TEXT)),
    ]
)
# one row: one cell
VERDICTS = pa.schema(
    [
        *_CELL,
        ("verdict", _TEXT),
        ("reason", _TEXT),
        ("summary", _TEXT),
        ("num_seeds", _COUNT),
        ("num_failed", _COUNT),
        ("num_unfinished", _COUNT),
        *((f"num_{kind}", _COUNT) for kind in KINDS),
        ("num_strings_min", _COUNT),
        ("num_strings_max", _COUNT),
        ("pooled_verdict", _TEXT),
        *_estimate("half_multiple"),
        *(column for name in _LEVELS.values() for column in _estimate(name)),
        ("sharpness", _NUMBER),
        ("scatter", _NUMBER),
        ("left_out", pa.list_(_COUNT)),
        *_range("seed_half_multiple"),
        *_range("accuracy_in_distribution"),
        *_range("accuracy_at_2x"),
        *_range("accuracy_at_3x"),
        ("longest", _NUMBER),
        *_range("accuracy_at_longest"),
        ("holds_share_lower", _NUMBER),
        ("holds_share_upper", _NUMBER),
        ("error_bound", _NUMBER),
        ("confidence", _NUMBER),
        ("near_perfect", _NUMBER),
        ("claim_at_2x", _TEXT),
        ("claim_at_3x", _TEXT),
        ("flags", pa.list_(_TEXT)),
    ]
)


def open_database(store: Store, studies: Sequence[str] | None = None) -> Database:
    """Return a store as SQL tables, `curves` and `verdicts` among them.

    Curves are fitted when a query first names one of the two. See `Database` for what is raised.
    """
    judged: dict[str, list[CellVerdict]] = {}
    have_levels = False

    def judge(database: Database, seed_levels: bool) -> dict[str, list[CellVerdict]]:
        nonlocal have_levels
        # what single seeds cross is asked for only where it is shown: it takes as long again
        if not judged or (seed_levels and not have_levels):
            have_levels = seed_levels
            for study in database.studies:
                counts = counts_of(database, study)
                levels = tuple(_LEVELS) if seed_levels else ()
                judged[study] = judge_cells(counts.cells, counts.settings, seed_levels=levels)
        return judged

    def derived(
        rows: Callable[[str, CellVerdict], Iterator[dict[str, Any]]],
        schema: pa.Schema,
        *,
        seed_levels: bool = False,
    ) -> Callable[[Database], pa.Table]:
        def make(database: Database) -> pa.Table:
            found = [
                row
                for study, verdicts in judge(database, seed_levels).items()
                for verdict in verdicts
                for row in rows(study, verdict)
            ]
            return pa.Table.from_pylist(found, schema=schema)

        return make

    views = {
        "curves": derived(_curve_rows, CURVES, seed_levels=True),
        "verdicts": derived(_verdict_rows, VERDICTS),
    }
    return Database(store, studies, views)


def _cell(study: str, verdict: CellVerdict) -> dict[str, Any]:
    cell = verdict.cell
    return {
        "study": study,
        "cell": cell.key,
        "task": cell.task,
        "model_label": cell.model,
        "label": cell.label,
        "chosen_by": cell.chosen_by,
    }


def _curve_rows(study: str, verdict: CellVerdict) -> Iterator[dict[str, Any]]:
    trained = {curve.train_max_length for curve in verdict.cell.curves}
    about = _cell(study, verdict) | {"train_max_length": min(trained, default=None)}
    for one in verdict.seeds:
        yield about | _curve(one)
    if verdict.joint is not None and verdict.pooled is not None:
        yield about | _together(verdict, verdict.joint, verdict.pooled)


def _curve(one: CurveVerdict) -> dict[str, Any]:
    fit = one.fit
    row = {
        "seed": one.seed,
        "verdict": one.kind,
        "reason": one.reason,
        "accuracy_in_distribution": one.accuracy_in_distribution,
        "reach": one.reach,
        **_three("half_multiple", one.half_multiple),
        **_three("sharpness", one.sharpness),
        "holds_at": one.bracket.holds_at,
        "fails_at": one.bracket.fails_at,
        "next_lengths": list(one.next_lengths),
        "flags": list(one.flags),
    }
    row |= _levels(one.failure_multiples)
    if fit is not None:
        names = ("family", "alpha", "beta", "lapse", "rho", "log_likelihood", "bic")
        row |= {name: getattr(fit, name) for name in names} | {"num_lengths": fit.num_cells}
    return row


def _together(verdict: CellVerdict, joint: JointVerdict, pooled: CurveVerdict) -> dict[str, Any]:
    half, beta = joint.half_multiple.value, joint.beta
    return {
        "seed": None,
        "verdict": joint.kind,
        "reason": joint.reason,
        "accuracy_in_distribution": pooled.accuracy_in_distribution,
        "reach": pooled.reach,
        "family": joint.family,
        "alpha": half and beta and half / math.log(2) ** (1 / beta),
        "beta": beta,
        "lapse": joint.lapse,
        "rho": joint.rho,
        **_three("half_multiple", joint.half_multiple),
        "sharpness": joint.sharpness,
        **_levels(joint.failure_multiples),
        "flags": list(verdict.flags),
    }


def _levels(found: Mapping[float, Estimate]) -> dict[str, float | None]:
    return {
        column: value
        for level, name in _LEVELS.items()
        if level in found
        for column, value in _three(name, found[level]).items()
    }


def _verdict_rows(study: str, verdict: CellVerdict) -> Iterator[dict[str, Any]]:
    (row,) = verdict_rows([verdict])
    totals = [int(n) for curve in verdict.cell.curves for n in curve.num_total]
    known = [one.half_multiple.value for one in verdict.seeds if one.half_multiple.value]
    pooled, joint = verdict.pooled, verdict.joint
    yield {
        **_cell(study, verdict),
        "verdict": row.verdict,
        "reason": None if joint is None else joint.reason,
        "summary": row.summary,
        "num_seeds": row.num_seeds,
        "num_failed": row.num_failed,
        "num_unfinished": row.num_unfinished,
        **{f"num_{kind}": verdict.counts.get(kind, 0) for kind in KINDS},
        "num_strings_min": min(totals, default=None),
        "num_strings_max": max(totals, default=None),
        "pooled_verdict": None if pooled is None else pooled.kind,
        **_three("half_multiple", row.half_multiple),
        **_levels(row.failure_multiples),
        "sharpness": None if joint is None else joint.sharpness,
        "scatter": row.scatter,
        "left_out": list(row.left_out),
        **_two("seed_half_multiple", (min(known), max(known)) if known else None),
        **_two("accuracy_in_distribution", row.accuracy_in_distribution),
        **_two("accuracy_at_2x", row.accuracy_at_2x),
        **_two("accuracy_at_3x", row.accuracy_at_3x),
        "longest": row.longest,
        **_two("accuracy_at_longest", row.accuracy_at_longest),
        "holds_share_lower": row.holds_share[0],
        "holds_share_upper": row.holds_share[1],
        "error_bound": row.error_bound,
        "confidence": row.confidence,
        "near_perfect": row.near_perfect,
        "claim_at_2x": row.claim_at_2x,
        "claim_at_3x": row.claim_at_3x,
        "flags": list(row.flags),
    }


def _three(name: str, found: Estimate) -> dict[str, float | None]:
    return {name: found.value, f"{name}_lower": found.lower, f"{name}_upper": found.upper}


def _two(name: str, found: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = found or (None, None)
    return {f"{name}_min": low, f"{name}_max": high}
