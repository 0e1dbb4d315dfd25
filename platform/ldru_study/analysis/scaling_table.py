"""Scaling as text: one row per value of x, and one line per law or refusal."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from ldru_study.analysis.scaling import Median, Refusal
from ldru_study.analysis.series import Series

COLUMNS = (
    "task",
    "model",
    "x",
    "runs",
    "failed",
    "beyond",
    "never learned",
    "median failure length",
)


def median_rows(series: Series) -> list[list[str]]:
    """Return one row per value of x, one string per name in `COLUMNS`."""
    return [
        [
            series.task,
            series.label,
            f"{one.x:g}",
            str(one.num_runs),
            str(one.num_failed),
            str(one.num_beyond),
            str(one.num_unlearned),
            median_length(one),
        ]
        for one in series.scaling.medians
    ]


def series_json(series: Series) -> dict[str, Any]:
    """Return everything about one series as plain values; null is beyond the tested lengths."""
    runs = [
        {"seed": seed, "x": run.x, "lower": run.lower, "upper": finite(run.upper)}
        for seed, run in zip(series.seeds, series.runs, strict=True)
    ]
    return {
        "task": series.task,
        "label": series.label,
        "runs": runs,
        "scaling": asdict(series.scaling),
    }


def finite(length: float) -> float | None:
    """Return a length, or None for infinity."""
    return length if math.isfinite(length) else None


def law_lines(series: Series, x: str) -> list[str]:
    """Say in two lines what is fitted, or why nothing is."""
    who = f"{series.task}, {series.label}"
    regression, law = series.scaling.regression, series.scaling.power_law
    if isinstance(regression, Refusal):
        first = f"{who}: no regression: {regression.reason}."
    else:
        interval = f"{regression.lower:.2f} to {regression.upper:.2f}"
        first = (
            f"{who}: failure length ~ {x}^{regression.exponent:.2f} ({interval}), "
            f"{regression.model} about the line."
        )
    if isinstance(law, Refusal):
        return [first, f"{who}: no power law with a floor: {law.reason}."]
    interval = f"{law.lower:.2f} to {law.upper:.2f}"
    return [
        first,
        f"{who}: {law.floor:.3g} + {law.scale:.3g} {x}^{law.exponent:.2f} ({interval}) tokens.",
    ]


def median_length(one: Median) -> str:
    """Write the median failure length in tokens: "80 to 160", or how it is censored."""
    if one.upper is None:
        # nothing was seen to fail beyond the longest length
        return f"> {max(one.lower, 0):g}" if one.lower else f"unknown up to {one.longest:g}"
    return f"{one.lower:g} to {one.upper:g}" if one.lower else f"<= {one.upper:g}"
