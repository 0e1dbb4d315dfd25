"""Scaling as text: one row per value of x, and one line per law or refusal."""

from __future__ import annotations

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
            _length(one),
        ]
        for one in series.scaling.medians
    ]


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


def _length(one: Median) -> str:
    if one.upper is None:
        # nothing was seen to fail beyond the longest length
        return f"> {max(one.lower, 0):g}" if one.lower else f"unknown up to {one.longest:g}"
    return f"{one.lower:g} to {one.upper:g}" if one.lower else f"<= {one.upper:g}"
