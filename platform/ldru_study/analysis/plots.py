"""Failure curves as pictures for a README or a paper, and the styles that the page shares."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from ldru_study.analysis.counts import CellCurves, Floats
from ldru_study.analysis.verdict import times

# distinguishable with every colour vision, on white and on black. Source: Paul Tol, "bright"
PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377", "#66CCEE")
DASHES = ("solid", "dash", "dot")
_LINESTYLES = ("-", "--", ":")
# a second difference for readers who see no colours
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "x")
_MARKERS = ("o", "s", "^", "D", "P", "X")
_GREY = "#888888"


def series_styles(cells: Sequence[CellCurves]) -> dict[str, tuple[str, int]]:
    """Give each label a colour and, once the colours are used up, another dash.

    Returns:
        Colour and number of the dash (0: solid) by label, in order of appearance.
    """
    labels = dict.fromkeys(cell.label for cell in cells)
    return {
        label: (PALETTE[i % len(PALETTE)], i // len(PALETTE) % len(DASHES))
        for i, label in enumerate(labels)
    }


def tasks_of(cells: Sequence[CellCurves]) -> list[str]:
    """Return the tasks in order of appearance."""
    return list(dict.fromkeys(cell.task for cell in cells))


def failure_figure(cells: Sequence[CellCurves], *, columns: int = 3) -> Figure:
    """Draw one panel per task for a README or a paper, 8 inches wide.

    Every line is one seed, every mark the accuracy at one length.

    Raises:
        ValueError: no cell has a curve, or ``columns`` is below 1.
    """
    drawn = [cell for cell in cells if cell.curves]
    if not drawn or columns < 1:
        raise ValueError("a figure needs at least one cell with curves and one column")
    tasks, styles = tasks_of(drawn), series_styles(drawn)
    columns = min(columns, len(tasks))
    rows = -(-len(tasks) // columns)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 2.5 * rows + 0.6), dpi=200, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, task in zip(grid.flat, tasks, strict=False):
            _draw(axes, [cell for cell in drawn if cell.task == task], styles)
            axes.set_title(_literal(task), fontsize=9, fontweight="bold", loc="left")
        for axes in grid.flat[len(tasks) :]:
            axes.remove()
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy")
        figure.supxlabel("test length / longest training length", fontsize=9)
        handles = [
            mpl.lines.Line2D(
                [],
                [],
                color=colour,
                linestyle=_LINESTYLES[dash],
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4,
            )
            for number, (colour, dash) in enumerate(styles.values())
        ]
        handles.append(mpl.lines.Line2D([], [], color=_GREY, linestyle="--", linewidth=1))
        figure.legend(
            handles,
            [*map(_literal, styles), "chance"],
            loc="outside upper left",
            ncols=min(len(handles), 4),
            frameon=False,
        )
    return figure


def _draw(axes: Axes, cells: Sequence[CellCurves], styles: dict[str, tuple[str, int]]) -> None:
    axes.set_xscale("log", base=2)
    first, last = _span(cells)
    axes.axvspan(first / 2, 1, color=_GREY, alpha=0.12, linewidth=0)
    for x, y in _chance_lines(cells):
        axes.plot(x, y, color=_GREY, linestyle="--", linewidth=1)
    groups = {label: number for number, label in enumerate(styles)}
    for cell in cells:
        colour, dash = styles[cell.label]
        group = groups[cell.label]
        for curve in cell.curves:
            axes.plot(
                curve.multiples,
                curve.accuracy,
                color=colour,
                linestyle=_LINESTYLES[dash],
                linewidth=1 + 0.5 * _layer(group, len(groups)),
                marker=_MARKERS[group % len(_MARKERS)],
                markersize=2 + _layer(group, len(groups)),
                alpha=0.8,
            )
    axes.set_xlim(first / 1.15, last * 1.15)
    axes.set_ylim(-0.02, 1.03)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(first, last)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: times(x)))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.text(1, 0.0, " trained to here", color=_GREY, fontsize=7, ha="left", va="bottom")


def _layer(group: int, num_groups: int) -> int:
    """Return how much wider a model is drawn than those above it, so that all are seen."""
    return min(num_groups - group, 4)


def _chance_lines(cells: Sequence[CellCurves]) -> list[tuple[Floats, Floats]]:
    """Return each distinct course of chance over the multiples."""
    curves = [curve for cell in cells for curve in cell.curves]
    lines = {
        (tuple(curve.multiples), tuple(curve.chance)): (curve.multiples, curve.chance)
        for curve in curves
    }
    return list(lines.values())


def _span(cells: Sequence[CellCurves]) -> tuple[float, float]:
    multiples = [curve.multiples for cell in cells for curve in cell.curves]
    if not multiples:
        return 0.5, 2.0
    return min(float(m[0]) for m in multiples), max(float(m[-1]) for m in multiples)


def _ticks(first: float, last: float) -> list[float]:
    """Return powers of two between the ends, at most eight of them and always 1."""
    low, high = int(np.ceil(np.log2(first))), int(np.floor(np.log2(last)))
    stride = max(1, -(-(high - low + 1) // 8))
    return [2.0**power for power in range(low, high + 1) if power % stride == 0]


def _literal(text: str) -> str:
    # matplotlib would set what stands between dollar signs as mathematics
    return text.replace("$", r"\$")
