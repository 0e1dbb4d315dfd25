"""One self-contained HTML page: what holds, what fails and where, and how it is known."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ldru_study.analysis.cell import CellVerdict, judge_cells
from ldru_study.analysis.collect import StudyCounts, collect
from ldru_study.analysis.plots import failure_figure, panel, series_styles, tasks_of
from ldru_study.analysis.tables import COLUMNS, accuracies, estimate, half_way, render, verdict_rows
from ldru_study.analysis.verdict import FLAGS, CurveVerdict, Kind, times
from ldru_study.errors import StudyError
from ldru_study.results.store import Store

_TEMPLATE = "report.html.j2"
_FIGURES = (".pdf", ".png", ".svg")


@dataclass(frozen=True)
class Origin:
    """Where a study's results came from, as the page shows it.

    Args:
        spec_text: the study file as it was given.
        submissions: what the store recorded of every `submit`, oldest first.
        written_at: when the page is made, as text.
    """

    spec_text: str
    submissions: Sequence[Mapping[str, Any]]
    written_at: str


def write_report(store: Store, study: str, path: Path) -> None:
    """Write the page of a study.

    Raises:
        NotFoundError: the store holds no such study.
        StudyError: the file cannot be written.
    """
    counts = collect(store, study)
    now = datetime.datetime.now(datetime.UTC)
    origin = Origin(
        spec_text=store.spec_text(study),
        submissions=store.provenance(study)["submissions"],
        written_at=f"{now:%Y-%m-%d %H:%M} UTC",
    )
    page = render_report(counts, judge_cells(counts.cells, counts.settings), origin)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{path}: cannot be written: {error.strerror}.") from error


def write_figure(store: Store, study: str, path: Path) -> None:
    """Write the failure curves of a study as .png, .svg or .pdf.

    Raises:
        NotFoundError: the store holds no such study.
        StudyError: another ending, no results yet, or the file cannot be written.
    """
    if path.suffix not in _FIGURES:
        raise StudyError(f"{path}: '{path.suffix}' is no figure. Use {', '.join(_FIGURES)}.")
    counts = collect(store, study)
    if not any(cell.curves for cell in counts.cells):
        raise StudyError(f"{study}: no trial has been evaluated yet, so there is no figure.")
    try:
        failure_figure(counts.cells).savefig(path)
    except OSError as error:
        raise StudyError(f"{path}: cannot be written: {error.strerror}.") from error


def render_report(counts: StudyCounts, verdicts: Sequence[CellVerdict], origin: Origin) -> str:
    """Return the page as HTML; every text in it is escaped."""
    # undefined names are bugs of the template, not empty text
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ldru_study.analysis", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tight"] = _tight
    styles = series_styles(counts.cells)
    tasks = tasks_of(counts.cells)
    panels = [
        {
            "task": task,
            "figure": panel([c for c in counts.cells if c.task == task], styles).to_plotly_json(),
        }
        for task in tasks
    ]
    rows = [render(row) for row in verdict_rows(verdicts)]
    filled = [n for n in range(len(COLUMNS)) if any(row[n] not in ("", "-") for row in rows)]
    return environment.get_template(_TEMPLATE).render(
        counts=counts,
        origin=origin,
        num_trials=sum(counts.states.values()),
        tasks=tasks,
        headlines={task: _headlines(task, verdicts) for task in tasks},
        legend=[
            {"label": label, "colour": colour, "group": str(number)}
            for number, (label, (colour, _)) in enumerate(styles.items())
        ],
        columns=[COLUMNS[n] for n in filled],
        rows=[[row[n] for n in filled] for row in rows],
        seeds=[_seed_row(cell, seed) for cell in verdicts for seed in cell.seeds],
        flags={name.replace("_", " "): text for name, text in FLAGS.items()},
        plotly=Markup(get_plotlyjs()),
        # a script ends at "</": inside JSON text the slash may be escaped
        panels=Markup(_json(panels).replace("</", "<\\/")),
    )


def _tight(text: str) -> str:
    """Keep a number and its unit, or its thousands, on one line."""
    return re.sub(r"(?<=\d) (?=%|\d{3}\b)", "\N{NO-BREAK SPACE}", text)


def _json(content: object) -> str:
    return json.dumps(content, default=lambda array: array.tolist())


_WORDS: dict[Kind, str] = {
    "holds": "holds",
    "gradual": "fades",
    "sharp": "collapses",
    "never_learned": "never learned",
    "inconclusive": "undecided",
}


def _headlines(task: str, verdicts: Sequence[CellVerdict]) -> list[dict[str, str]]:
    """Return for each cell of a task its kind, its label and one sentence."""
    found = []
    for verdict in verdicts:
        if verdict.cell.task != task:
            continue
        kinds = list(verdict.counts)
        kind = kinds[0] if kinds else "inconclusive"
        found.append(
            {
                "kind": kind,
                "word": _WORDS[kind] if kinds else "no result",
                "label": verdict.cell.label,
                "text": _sentence(verdict),
            }
        )
    return found


def _sentence(verdict: CellVerdict) -> str:
    (row,) = verdict_rows([verdict])
    if row.longest is None:
        return "No seed was evaluated."
    parts = [row.verdict]
    if row.error_bound is not None:
        parts.append(
            f"to {times(row.longest)}, error below {100 * row.error_bound:.2g} % at each length"
        )
    elif (half := half_way(row.half_multiples)) != "-":
        parts.append(f"half way to chance at {half}")
    if set(verdict.counts) != {"holds"}:
        inside = accuracies(row.accuracy_in_distribution)
        parts.append(f"{inside} right in distribution")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _seed_row(cell: CellVerdict, seed: CurveVerdict) -> dict[str, Any]:
    bracket = seed.bracket
    ends = [None if x is None else times(x) for x in (bracket.holds_at, bracket.fails_at)]
    return {
        "task": cell.cell.task,
        "model": cell.cell.label,
        "seed": seed.seed,
        "kind": seed.kind,
        "word": seed.kind.replace("_", " "),
        "reason": seed.reason,
        "inside": "-"
        if seed.accuracy_in_distribution is None
        else f"{100 * seed.accuracy_in_distribution:.2f} %",
        "half": estimate(seed.half_multiple),
        "sharpness": estimate(seed.sharpness).replace("x", ""),
        "bracket": "-"
        if ends == [None, None]
        else f"holds {ends[0] or 'nowhere'}, fails {ends[1] or 'nowhere'}",
        "next": ", ".join(map(str, seed.next_lengths)) or "-",
        "flags": [flag.replace("_", " ") for flag in seed.flags],
    }
