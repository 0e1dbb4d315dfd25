"""What the report's charts are drawn from: plain numbers as JSON, small enough for fifty cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ldru_study.analysis.bracket import isotonic_line, pool_counts
from ldru_study.analysis.cell import CellVerdict
from ldru_study.analysis.counts import Floats, LengthCurve
from ldru_study.analysis.curves import survival
from ldru_study.analysis.drawing import Draw
from ldru_study.analysis.failure import Estimate
from ldru_study.analysis.intervals import wilson
from ldru_study.analysis.plots import DASHES, SYMBOLS, series_styles, tasks_of
from ldru_study.analysis.scaling import Refusal
from ldru_study.analysis.scaling_table import finite, law_lines, median_length
from ldru_study.analysis.sentences import cell_sentence, claim_lines
from ldru_study.analysis.series import Series
from ldru_study.analysis.verdict import CurveVerdict
from ldru_study.results.query import Database
from ldru_study.results.search_table import SearchRow

# points of a fitted line
_NUM_POINTS = 80


@dataclass(frozen=True)
class Extras:
    """What a page shows beside the verdicts; whatever is empty is left out.

    Args:
        training: training curves of each cell by its key: ``seed``, ``step``, ``loss`` (validation,
            nats) and ``accuracy`` (validation).
        objectives: what the searches minimised, the first chose.
        searches: every setting that was tried.
        searches_not_shown: why these cannot be told.
        shortcuts: by cell, the accuracy at each of its lengths of the best predictor that sees only
            a window as long as the training length.
        scaling: by numeric field that varies, its series.
        draws: the task and the sampling of each cell.
    """

    training: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    objectives: Sequence[str] = ()
    searches: Sequence[SearchRow] = ()
    searches_not_shown: str = ""
    shortcuts: Mapping[str, Floats] = field(default_factory=dict)
    scaling: Mapping[str, Sequence[Series]] = field(default_factory=dict)
    draws: Sequence[Draw] = ()


NO_EXTRAS = Extras()


def training_curves(database: Database, study: str) -> dict[str, list[dict[str, Any]]]:
    """Return the training curve of every trial that judges, by cell."""
    rows = database.rows(
        "select cell, seed, list(step order by step) as step, "
        "list(validation_loss order by step) as loss, "
        "list(validation_num_correct / validation_num_total order by step) as accuracy "
        "from metrics join trials using (trial_id) where study = $study and suggestion is null "
        "group by cell, seed order by cell, seed",
        study=study,
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        loss, accuracy = _numbers(row["loss"], 4), _numbers(row["accuracy"], 4)
        curve = {"seed": row["seed"], "step": row["step"], "loss": loss, "accuracy": accuracy}
        found.setdefault(row["cell"], []).append(curve)
    return found


def page_data(verdicts: Sequence[CellVerdict], extras: Extras) -> dict[str, Any]:
    """Return what the page's script draws, as JSON values."""
    cells = [verdict.cell for verdict in verdicts]
    styles = series_styles(cells)
    tasks = tasks_of(cells)
    numbers = {label: number for number, label in enumerate(styles)}
    return {
        "tasks": tasks,
        "series": [
            {
                "label": label,
                "colour": colour,
                "dash": DASHES[dash],
                "symbol": SYMBOLS[number % len(SYMBOLS)],
            }
            for number, (label, (colour, dash)) in enumerate(styles.items())
        ],
        "cells": [
            _cell(verdict, extras)
            | {"task": tasks.index(verdict.cell.task), "series": numbers[verdict.cell.label]}
            for verdict in verdicts
        ],
        "scaling": _scaling(extras.scaling),
        "search": _search(extras),
    }


def _cell(verdict: CellVerdict, extras: Extras) -> dict[str, Any]:
    cell = verdict.cell
    found: dict[str, Any] = {
        "key": cell.key,
        "kind": verdict.kind,
        "sentence": cell_sentence(verdict),
        "reason": "" if verdict.joint is None else verdict.joint.reason,
        "claims": claim_lines(verdict),
        "half": _estimate(verdict.half_multiple),
        "seeds": [],
        "training": extras.training.get(cell.key, []),
    }
    if not cell.curves:
        return found
    found |= {
        "train_max_length": cell.curves[0].train_max_length,
        "seeds": [_seed(curve, one) for curve, one in zip(cell.curves, verdict.seeds, strict=True)],
        "line": _line(verdict),
        "chance": _chance(cell.curves),
    }
    shortcut = extras.shortcuts.get(cell.key)
    if shortcut is not None:
        multiples = pool_counts(cell.curves).multiples
        found["shortcut"] = {"x": _numbers(multiples, 5), "y": _numbers(shortcut, 5)}
    return found


def _seed(curve: LengthCurve, verdict: CurveVerdict) -> dict[str, Any]:
    lower, upper = wilson(curve.num_correct, curve.num_total)
    return {
        "seed": curve.seed,
        "kind": verdict.kind,
        "reason": verdict.reason,
        "length": curve.lengths.tolist(),
        "k": curve.num_correct.tolist(),
        "n": curve.num_total.tolist(),
        "low": _numbers(lower, 4),
        "high": _numbers(upper, 4),
        "half": _estimate(verdict.half_multiple),
        "reach": verdict.reach,
        "inside": verdict.accuracy_in_distribution,
    }


def _estimate(found: Estimate) -> list[float | None]:
    return [
        None if x is None else float(f"{x:.5g}") for x in (found.value, found.lower, found.upper)
    ]


def _line(verdict: CellVerdict) -> dict[str, Any]:
    """Return the line through a cell: its median seed, or where none fails the isotonic line.

    Seeds of another kind than the cell are in neither.
    """
    curves = [c for c in verdict.cell.curves if c.seed not in verdict.left_out]
    counts = pool_counts(curves)
    total = len(verdict.seeds)
    who = "all seeds" if len(curves) == total else f"{len(curves)} of {total} seeds"
    joint, half = verdict.joint, verdict.half_multiple.value
    if joint is None or joint.beta is None or half is None:
        return {
            "what": f"isotonic line through the sums of {who}",
            "is_artefact": "pooling_artefact" in verdict.flags,
            "x": _numbers(counts.multiples, 5),
            "y": _numbers(isotonic_line(counts), 4),
        }
    multiples = counts.multiples
    x = np.geomspace(multiples[0], multiples[-1], _NUM_POINTS)
    s = survival(x, half, joint.beta)
    chance = np.interp(np.log(x), np.log(multiples), counts.chance)
    y = chance * (1 - s) + (1 - (joint.lapse or 0.0)) * s
    return {
        "what": f"joint fit of {who}: its median seed ({joint.family})",
        "is_artefact": False,
        "x": _numbers(x, 5),
        "y": _numbers(y, 4),
    }


def _chance(curves: Sequence[LengthCurve]) -> dict[str, Any]:
    counts = pool_counts(curves)
    return {"x": _numbers(counts.multiples, 5), "y": _numbers(counts.chance, 4)}


def _scaling(found: Mapping[str, Sequence[Series]]) -> list[dict[str, Any]]:
    """Return failure lengths in tokens against every field that varies.

    A run or a median lies between ``low`` and ``high``: beyond ``low`` where ``high`` is null,
    which nobody saw fail, and anywhere up to ``high`` where ``low`` is 0.
    """
    return [
        {"axis": x, "series": [_one_series(one, x) for one in all_]} for x, all_ in found.items()
    ]


def _one_series(series: Series, x: str) -> dict[str, Any]:
    return {
        "task": series.task,
        "label": series.label,
        "points": [
            {"seed": seed, "x": run.x, "low": run.lower, "high": finite(run.upper)}
            for seed, run in zip(series.seeds, series.runs, strict=True)
        ],
        "medians": [
            {
                "x": one.x,
                "low": one.lower,
                "high": one.upper,
                "what": f"median of {one.num_runs} runs: {median_length(one)} tokens",
            }
            for one in series.scaling.medians
        ],
        "lines": _laws(series, x),
        "laws": law_lines(series, x),
    }


def _laws(series: Series, x: str) -> list[dict[str, Any]]:
    """Return the lines of the laws that the runs carry."""
    regression, law = series.scaling.regression, series.scaling.power_law
    values = [one.x for one in series.scaling.medians]
    at = np.geomspace(values[0], values[-1], _NUM_POINTS // 2)
    first, second = law_lines(series, x)
    found = []
    if not isinstance(regression, Refusal):
        y = regression.scale * at**regression.exponent
        found.append({"what": first, "dash": "solid", "y": _numbers(y, 4)})
    if not isinstance(law, Refusal):
        y = law.floor + law.scale * at**law.exponent
        found.append({"what": second, "dash": "dash", "y": _numbers(y, 4)})
    return [line | {"x": _numbers(at, 5)} for line in found]


def _search(extras: Extras) -> dict[str, Any] | None:
    if not extras.searches:
        return None
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in extras.searches:
        cells.setdefault(row.cell, []).append(
            {
                "number": row.number,
                "state": row.state,
                "values": None if row.values is None else _numbers(row.values, 5),
                "settings": settings(row.params),
                "front": row.on_front,
                "winner": row.is_winner,
            }
        )
    names = [name.replace("_", " ") for name in extras.objectives]
    return {"objectives": names, "cells": cells}


def settings(params: Mapping[str, Any]) -> str:
    """Write settings in one line, as they would stand in a study file."""
    return ", ".join(
        f"{path}: {value:.4g}" if isinstance(value, float) else f"{path}: {value}"
        for path, value in params.items()
    )


def _numbers(values: Iterable[float | None], digits: int) -> list[float | None]:
    """Return numbers with so many significant digits; None for what is no finite number."""
    return [
        None if value is None or not np.isfinite(value) else float(f"{value:.{digits}g}")
        for value in values
    ]
