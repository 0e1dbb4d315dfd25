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
from ldru_study.analysis.failure import Estimate
from ldru_study.analysis.intervals import wilson
from ldru_study.analysis.plots import DASHES, SYMBOLS, series_styles, tasks_of
from ldru_study.analysis.sentences import leading_kind
from ldru_study.analysis.verdict import CurveVerdict
from ldru_study.results.query import Database
from ldru_study.results.search_table import SearchRow

# points of a fitted line
_NUM_POINTS = 80


@dataclass(frozen=True)
class ScalingLine:
    """A line through the failure lengths of one model on one task.

    Args:
        axis: what varies, as in the grid.
        task: the task.
        label: the model and the other axes, as `page_data` names its points.
        what: the line in words, its exponent and interval.
        x: values of the axis.
        y: tokens.
    """

    axis: str
    task: str
    label: str
    what: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Extras:
    """What a page shows beside the verdicts; whatever is empty is left out.

    Args:
        training: training curves of each cell by its key: ``seed``, ``step``, ``loss`` (validation,
            nats) and ``accuracy`` (validation).
        objectives: what the searches minimised, the first chose.
        searches: every setting that was tried.
        shortcuts: by cell, the accuracy at each of its lengths of the best predictor that sees only
            a window as long as the training length.
        scaling: lines through the points of the scaling panel.
        samplings: how test strings were drawn.
    """

    training: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    objectives: Sequence[str] = ()
    searches: Sequence[SearchRow] = ()
    shortcuts: Mapping[str, Floats] = field(default_factory=dict)
    scaling: Sequence[ScalingLine] = ()
    samplings: Sequence[str] = ()


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
        "scaling": _scaling(verdicts, extras.scaling),
        "search": _search(extras),
    }


def _cell(verdict: CellVerdict, extras: Extras) -> dict[str, Any]:
    cell = verdict.cell
    found: dict[str, Any] = {
        "key": cell.key,
        "kind": leading_kind(verdict),
        "summary": verdict.summary,
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
    """Return the line through a cell: the joint fit of its seeds, or else the isotonic line."""
    pooled = verdict.pooled
    counts = pool_counts(verdict.cell.curves)
    if pooled is None or pooled.fit is None:
        what = "isotonic line through the sums of all seeds"
        return {
            "what": what,
            "x": _numbers(counts.multiples, 5),
            "y": _numbers(isotonic_line(counts), 4),
        }
    fit, multiples = pooled.fit, counts.multiples
    x = np.geomspace(multiples[0], multiples[-1], _NUM_POINTS)
    s = (
        np.ones(len(x))
        if fit.half_multiple is None or fit.beta is None
        else survival(x, fit.half_multiple, fit.beta)
    )
    chance = np.interp(np.log(x), np.log(multiples), counts.chance)
    y = chance * (1 - s) + (1 - fit.lapse) * s
    return {
        "what": f"joint fit of all seeds ({fit.family})",
        "is_artefact": "pooling_artefact" in verdict.flags,
        "x": _numbers(x, 5),
        "y": _numbers(y, 4),
    }


def _chance(curves: Sequence[LengthCurve]) -> dict[str, Any]:
    counts = pool_counts(curves)
    return {"x": _numbers(counts.multiples, 5), "y": _numbers(counts.chance, 4)}


def _scaling(verdicts: Sequence[CellVerdict], lines: Sequence[ScalingLine]) -> list[dict[str, Any]]:
    """Return failure lengths in tokens against every axis of the grid that is a number.

    A point has a length ``y``, or only bounds: ``low`` without ``high`` when no failure was seen,
    ``high`` without ``low`` when it failed at the shortest length.
    """
    axes = dict.fromkeys(
        axis
        for verdict in verdicts
        for axis, value in verdict.cell.axes.items()
        if _as_number(value) is not None
    )
    found = []
    for axis in axes:
        points = [point for verdict in verdicts for point in _points(verdict, axis)]
        if len({point["x"] for point in points}) > 1:
            through = [
                {"task": line.task, "label": line.label, "what": line.what}
                | {"x": _numbers(line.x, 5), "y": _numbers(line.y, 5)}
                for line in lines
                if line.axis == axis
            ]
            found.append({"axis": axis, "points": points, "lines": through})
    return found


def _points(verdict: CellVerdict, axis: str) -> list[dict[str, Any]]:
    cell, x = verdict.cell, _as_number(verdict.cell.axes.get(axis))
    if x is None:
        return []
    others = [f"{name} {value}" for name, value in cell.axes.items() if name != axis]
    who = {"x": x, "task": cell.task, "label": ", ".join([cell.model, *others])}
    points = []
    for curve, one in zip(cell.curves, verdict.seeds, strict=True):
        half, scale = one.half_multiple, curve.train_max_length
        ends = {"y": half.value, "low": half.lower, "high": half.upper}
        if one.fit is not None and any(end is not None for end in ends.values()):
            shown = {
                name: None if end is None else round(end * scale, 1) for name, end in ends.items()
            }
            points.append(who | {"seed": one.seed} | shown)
    return points


def _as_number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


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
