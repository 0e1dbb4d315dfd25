"""A study's cells as series: runs that differ in one field alone, and how they scale with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldru_study.analysis.cell import CellVerdict
from ldru_study.analysis.counts import CellCurves
from ldru_study.analysis.judge import judge_curves
from ldru_study.analysis.scaling import Run, Scaling, run_of, scale
from ldru_study.analysis.verdict import DEFAULTS, CurveVerdict, VerdictSettings
from ldru_study.errors import StudyError, did_you_mean
from ldru_study.spec.model_size import ModelSize, size_of
from ldru_study.spec.paths import get_place, parse_place

# what follows from a cell's configuration and stands nowhere in it
_DERIVED: Mapping[str, Callable[[ModelSize], int]] = {
    "num_parameters": lambda size: size.num_parameters,
    "flops_per_token": lambda size: size.flops_per_token,
}
# what makes a model larger and leaves it the same kind of model
_SIZES = ("width", "layers", "heads", "state", "matrices", "match_parameters")


@dataclass(frozen=True)
class Series:
    """The cells that differ in x alone, by task and label, and what they say about x.

    ``runs`` are all seeds of these cells, with the interval of each one's failure length, and
    ``seeds`` says which each is of.
    """

    task: str
    label: str
    runs: tuple[Run, ...]
    seeds: tuple[int, ...]
    scaling: Scaling


def scale_varying(
    verdicts: Sequence[CellVerdict], settings: VerdictSettings = DEFAULTS
) -> dict[str, list[Series]]:
    """Return how failure length scales with every numeric field that varies in a study.

    The number of parameters is such a field too where models of one kind differ in it.

    Args:
        verdicts: every cell.
        settings: those of the verdicts.

    Returns:
        By field, the series that have more than one value of it; no field without a series.
    """
    cells = [verdict.cell for verdict in verdicts]
    judged = {verdict.cell.key: verdict.seeds for verdict in verdicts}
    found = {}
    for x in _varying(cells):
        series = scale_cells(cells, x, settings, judged=judged)
        found[x] = [one for one in series if len(one.scaling.medians) > 1]
    return {x: series for x, series in found.items() if series}


def _varying(cells: Sequence[CellCurves]) -> list[str]:
    """Return the fields that take several numbers among cells that are otherwise alike."""
    names = dict.fromkeys(name for cell in cells for name in _numeric(cell.config))
    names["num_parameters"] = None
    found = []
    for x in names:
        values: dict[str, set[float]] = {}
        # of most fields every cell has the same number, which needs no groups
        known = [(cell, value) for cell in cells if (value := _value(cell, x)) is not None]
        if len({value for _, value in known}) > 1:
            for cell, value in known:
                values.setdefault(_key(cell, x), set()).add(value)
        if any(len(group) > 1 for group in values.values()):
            found.append(x)
    return found


def scale_cells(
    cells: Sequence[CellCurves],
    x: str,
    settings: VerdictSettings = DEFAULTS,
    *,
    judged: Mapping[str, Sequence[CurveVerdict]] | None = None,
) -> list[Series]:
    """Return how failure length scales with x in each series of a study.

    Args:
        cells: all cells; those without a result say nothing.
        x: dotted path of a numeric field, such as ``train.max_length`` or ``model.width``; or
            ``num_parameters`` or ``flops_per_token``, see `ModelSize`, and then cells that differ
            in nothing but sizes of the model are one series.
        settings: whose ``learned_level`` is the excess below which a run has failed.
        judged: the verdicts of the seeds by the key of their cell; None judges them here.

    Raises:
        StudyError: no cell has such a field, or it is no number; the message names the fields.
    """
    known = [(cell, value) for cell in cells if (value := _value(cell, x)) is not None]
    if not known:
        fields = sorted(
            {name for cell in cells for name in _numeric(cell.config)} | {*_DERIVED} - {x}
        )
        hint = did_you_mean(x, fields)
        parts = (f"--x: no cell has a number at '{x}'.", hint, f"Fields: {', '.join(fields)}.")
        raise StudyError(" ".join(part for part in parts if part))
    groups: dict[str, list[tuple[CellCurves, float]]] = {}
    for cell, value in known:
        if cell.curves:
            groups.setdefault(_key(cell, x), []).append((cell, value))
    return [_series(group, x, settings, judged) for group in groups.values()]


def _series(
    group: Sequence[tuple[CellCurves, float]],
    x: str,
    settings: VerdictSettings,
    judged: Mapping[str, Sequence[CurveVerdict]] | None,
) -> Series:
    curves = [curve for cell, _ in group for curve in cell.curves]
    values = [value for cell, value in group for _ in cell.curves]
    verdicts = (
        judge_curves(curves, settings, levels=())
        if judged is None
        else [verdict for cell, _ in group for verdict in judged[cell.key]]
    )
    lengths = [
        None if (half := verdict.half_multiple.value) is None else half * curve.train_max_length
        for verdict, curve in zip(verdicts, curves, strict=True)
    ]
    runs = [
        run_of(
            curve,
            value,
            settings.learned_level,
            settings.confidence,
            is_learned=verdict.kind != "never_learned",
        )
        for curve, value, verdict in zip(curves, values, verdicts, strict=True)
    ]
    return Series(
        task=group[0][0].task,
        label=_label(group, x),
        runs=tuple(runs),
        seeds=tuple(curve.seed for curve in curves),
        scaling=scale(runs, [float(curve.lengths[-1]) for curve in curves], lengths),
    )


def _value(cell: CellCurves, x: str) -> float | None:
    if x in _DERIVED:
        size = size_of(cell.config)
        # zero, of a constant's FLOPs, has no place on a logarithmic axis
        return None if size is None else _DERIVED[x](size) or None
    try:
        found = get_place(cell.config, parse_place(x))
    except (LookupError, TypeError, ValueError):
        return None
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and np.isfinite(found) and found > 0 else None


def _numeric(config: Mapping[str, Any], before: str = "") -> list[str]:
    found = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _numeric(value, f"{before}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(f"{before}{name}")
    return found


def _key(cell: CellCurves, x: str) -> str:
    flat = dict(cell.config)
    for place in [("model", size) for size in _SIZES] if x in _DERIVED else [parse_place(x)]:
        flat = _without(flat, place)
    return json.dumps(flat, sort_keys=True)


def _without(config: Mapping[str, Any], place: tuple[str | int, ...]) -> dict[str, Any]:
    first, rest = place[0], place[1:]
    return {
        key: _without(value, rest)
        if key == first and rest and isinstance(value, Mapping)
        else value
        for key, value in config.items()
        if key != first or rest
    }


def _label(group: Sequence[tuple[CellCurves, float]], x: str) -> str:
    """Return what the cells of a series have in common."""
    first = group[0][0]
    models = {cell.model for cell, _ in group}
    kind = first.config.get("model", {}).get("kind", first.model)
    parts = [first.model if len(models) == 1 else str(kind)]
    for axis, value in first.axes.items():
        if axis != x and all(cell.axes.get(axis) == value for cell, _ in group):
            parts.append(f"{axis} {value}")
    return ", ".join(parts)
