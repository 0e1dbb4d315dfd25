"""The benchmark's rows as a table and a figure: ``python -m ldru_kernels.bench_report RESULT ...``.

With ``--readme`` the table replaces what stands between two marks of a page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
# the op, shape and precision of a row
_CASE = ("op", "precision", "width", "batch", "tokens", "letters")
Result = dict[str, Any]
Rows = list[dict[str, Any]]


def markdown(results: Iterable[Result]) -> str:
    """Return a section per result, with a table per kind of case."""
    return "\n".join(_section(result) for result in results)


def _section(result: Result) -> str:
    rates = ", ".join(
        f"{name.removeprefix('torch.')} {rate / 1e12:.2f} TFLOP/s"
        for name, rate in result["rates"].items()
        if name != "copy"
    )
    threads = f", {result['num_threads']} threads" if result["num_threads"] else ""
    lines = [
        f"### {result['device']}{threads}, torch {result['torch']}, {result['date']}",
        "",
        f"Measured ceilings: copy {result['rates']['copy'] / 1e9:.0f} GB/s, {rates}.",
        "",
    ]
    for ops in (("tree_reduce",), ("prefix_scan",), ("training_step", "evaluation")):
        rows = [row for row in result["rows"] if row["op"] in ops]
        if rows:
            lines += [*_table(rows), ""]
    return "\n".join(lines)


def _table(rows: Rows) -> list[str]:
    """Return one line per case: ours, and how many times as long everybody else takes."""
    # who was not measured comes last, and nowhere at all where nobody was
    rows = sorted(rows, key=lambda row: "median_ms" not in row)
    names = list(dict.fromkeys(row["contender"] for row in rows))
    has_floors = any("of_matmul_rate" in row for row in rows)
    floors = [" of matmul rate |", " of copy rate |"] if has_floors else []
    head = ["| case |", f" {names[0]} |", *(f" {name} |" for name in names[1:]), *floors]
    lines = ["".join(head), "|" + " --- |" * (1 + len(names) + len(floors))]
    for case in dict.fromkeys(tuple(row[key] for key in _CASE) for row in rows):
        found = {row["contender"]: row for row in rows if tuple(row[key] for key in _CASE) == case}
        ours = found[names[0]]
        if "median_ms" not in ours:
            continue
        cells = [_name(ours), f"{_number(ours['median_ms'])} ms"]
        for name in names[1:]:
            median = found.get(name, {}).get("median_ms")
            cells.append(f"x {median / ours['median_ms']:.2f}" if median else "-")
        if has_floors:
            cells += [f"{ours['of_matmul_rate']:.0%}", f"{ours['of_copy_rate']:.1%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _name(row: dict[str, Any]) -> str:
    if row["letters"]:
        lengths = "T <= 40" if row["op"] == "training_step" else f"T = {row['tokens']}"
        kind = row["op"].replace("_", " ")
        return f"{kind}, {row['letters']} letters, B = {row['batch']}, {lengths}"
    precision = "" if row["precision"] == "ieee" else f", {row['precision']}"
    return f"E = {row['width']}, B = {row['batch']}, T = {row['tokens']}{precision}"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def figure(results: list[Result], path: Path) -> None:
    """Draw time per token against T, a panel per result and a line per contender."""
    from matplotlib.figure import Figure

    panels = [(result, _curves(result["rows"])) for result in results]
    panels = [(result, curves) for result, curves in panels if curves]
    drawn = Figure(figsize=(6.4 * len(panels), 4.4), dpi=160, layout="constrained")
    for axes, (result, curves) in zip(
        drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for order, (name, points) in enumerate(curves.items()):
            tokens, times = zip(*sorted(points), strict=True)
            axes.plot(
                tokens,
                times,
                marker="o",
                markersize=4,
                linewidth=2.4 if order == 0 else 1.2,
                color=_COLOURS[order % len(_COLOURS)],
                zorder=10 - order,
                label=f"ldru_kernels, {name}" if name in ("torch", "triton") else name,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(sorted({tokens for points in curves.values() for tokens, _ in points}))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("tokens per sequence")
        axes.set_ylabel("forward and backward, µs per token")
        row = next(row for row in result["rows"] if row["suite"] == "peers")
        axes.set_title(f"{result['device']}: E = {row['width']}, B = {row['batch']}", fontsize=10)
        axes.grid(which="major", alpha=0.25)
        axes.legend(fontsize=8)
    drawn.savefig(path)


# Okabe and Ito's, which people with colour blindness can tell apart
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def _curves(rows: Rows) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["suite"] == "peers" and row["op"] == "tree_reduce" and "median_ms" in row:
            per_token = 1e3 * row["median_ms"] / (row["batch"] * row["tokens"])
            curves.setdefault(row["contender"], []).append((row["tokens"], per_token))
    return curves


def replaced(page: str, section: str) -> str:
    """Return a page with what stands between its marks replaced.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no '{BEGIN}' before a '{END}'.")
    return f"{before}{BEGIN}\n{section}{END}{after}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or put it into a page; draw the figure where asked to."""
    parser = argparse.ArgumentParser(prog="python -m ldru_kernels.bench_report")
    parser.add_argument("results", type=Path, nargs="+", help="what bench --json wrote")
    parser.add_argument("--readme", type=Path, help="page with marks, to be changed")
    parser.add_argument("--figure", type=Path, help="where to draw (.png, .svg or .pdf)")
    chosen = parser.parse_args(arguments)
    results = [json.loads(path.read_text()) for path in chosen.results]
    if chosen.readme:
        chosen.readme.write_text(replaced(chosen.readme.read_text(), markdown(results)))
    else:
        print(markdown(results))
    if chosen.figure:
        figure(results, chosen.figure)


if __name__ == "__main__":
    main()
