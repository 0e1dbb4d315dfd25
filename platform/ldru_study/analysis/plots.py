"""Failure curves as pictures: plotly for the report page, matplotlib for a README or a paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from ldru_study.analysis.counts import CellCurves, Floats, LengthCurve
from ldru_study.analysis.intervals import wilson
from ldru_study.analysis.verdict import times

# distinguishable with every colour vision, on white and on black. Source: Paul Tol, "bright"
PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377", "#66CCEE")
_DASHES = ("solid", "dash", "dot")
_LINESTYLES = ("-", "--", ":")
# a second difference for readers who see no colours
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "x")
_MARKERS = ("o", "s", "^", "D", "P", "X")
_GREY = "#888888"


def series_styles(cells: Sequence[CellCurves]) -> dict[str, tuple[str, int]]:
    """Give each label a colour and, once the colours are used up, another dash.

    Returns:
        Colour and number of the dash (0: solid) by label, in order of appearance.
    """
    labels = dict.fromkeys(cell.label for cell in cells)
    return {
        label: (PALETTE[i % len(PALETTE)], i // len(PALETTE) % len(_DASHES))
        for i, label in enumerate(labels)
    }


def tasks_of(cells: Sequence[CellCurves]) -> list[str]:
    """Return the tasks in order of appearance."""
    return list(dict.fromkeys(cell.task for cell in cells))


def panel(
    cells: Sequence[CellCurves], styles: dict[str, tuple[str, int]], confidence: float = 0.95
) -> go.Figure:
    """Draw all cells of one task for the page.

    Every seed is a line with Wilson bars; a mean over few seeds would show failures that no seed
    has. Each trace's ``legendgroup`` is the number of its label in ``styles``, so that the page
    can toggle a model over all panels.

    Args:
        cells: the cells of one task.
        styles: from `series_styles` over all cells of the study.
        confidence: of the Wilson bars.
    """
    figure = go.Figure()
    groups = {label: number for number, label in enumerate(styles)}
    for line in _chance_lines(cells):
        figure.add_scatter(
            x=line[0],
            y=line[1],
            mode="lines",
            line={"color": _GREY, "width": 1, "dash": "dash"},
            hovertext=[f"chance {100 * y:.1f} %" for y in line[1]],
            hoverinfo="text",
        )
    for cell in cells:
        colour, dash = styles[cell.label]
        stroke = {"color": colour, "dash": _DASHES[dash]}
        group = groups[cell.label]
        for curve in cell.curves:
            lower, upper = wilson(curve.num_correct, curve.num_total, confidence)
            figure.add_scatter(
                x=curve.multiples,
                y=curve.accuracy,
                mode="lines+markers",
                opacity=0.8,
                line=stroke | {"width": 0.75 + _layer(group, len(groups)) / 2},
                marker={
                    "size": 4 + _layer(group, len(groups)),
                    "color": colour,
                    "symbol": _SYMBOLS[group % len(_SYMBOLS)],
                },
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": upper - curve.accuracy,
                    "arrayminus": curve.accuracy - lower,
                    "thickness": 0.8,
                    "width": 2,
                },
                hovertext=_hover(cell.label, curve),
                hoverinfo="text",
                legendgroup=str(group),
            )
    return _laid_out(figure, cells)


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


def _laid_out(figure: go.Figure, cells: Sequence[CellCurves]) -> go.Figure:
    first, last = _span(cells)
    ticks = _ticks(first, last)
    figure.add_vrect(x0=first / 2, x1=1, fillcolor=_GREY, opacity=0.12, line_width=0, layer="below")
    figure.update_xaxes(
        type="log",
        range=[np.log10(first / 1.15), np.log10(last * 1.15)],
        tickvals=ticks,
        ticktext=[times(tick) for tick in ticks],
        tickangle=0,
        showgrid=False,
        zeroline=False,
        title={"text": "test length / longest training length"},
    )
    figure.update_yaxes(range=[-0.02, 1.03], tickformat=".0%", zeroline=False)
    figure.update_layout(
        showlegend=False,
        height=320,
        margin={"l": 48, "r": 12, "t": 8, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
    )
    return figure


def _hover(label: str, curve: LengthCurve) -> list[str]:
    """Write what a point says; plotly reads a little HTML in it, so names are escaped."""
    who = f"{escape(label)}<br>seed {curve.seed}"
    return [
        f"{who}<br>{times(m)} ({length} tokens): {k}/{n} = {100 * k / n:.2f} %"
        for m, length, k, n in zip(
            curve.multiples, curve.lengths, curve.num_correct, curve.num_total, strict=True
        )
    ]


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
