"""One self-contained HTML page: what holds, what fails and where, and how it is known."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ldru_study.analysis.bracket import pool_counts
from ldru_study.analysis.cell import CellVerdict, judge_cells
from ldru_study.analysis.collect import StudyCounts, collect, counts_of
from ldru_study.analysis.counts import CellCurves, Floats
from ldru_study.analysis.drawing import how_chance_is_known
from ldru_study.analysis.page import NO_EXTRAS, Extras, page_data, settings, training_curves
from ldru_study.analysis.plots import failure_figure, series_styles, tasks_of
from ldru_study.analysis.sentences import (
    WORDS,
    answer,
    by_label,
    cell_sentence,
    headline,
    limits,
    near_perfect_answer,
)
from ldru_study.analysis.series import scale_varying
from ldru_study.analysis.tables import COLUMNS, estimate, kind_words, render, verdict_rows
from ldru_study.analysis.verdict import FLAGS, CurveVerdict, times
from ldru_study.errors import OtherVersionError, StudyError
from ldru_study.results.query import Database
from ldru_study.results.search_table import read_searches, rows_of
from ldru_study.results.store import Store
from ldru_study.spec.plan import PlannedSearch
from ldru_study.tasks.windows import window_shortcuts

_TEMPLATE = "report.html.j2"
_FIGURES = (".pdf", ".png", ".svg")
# of a diff so much is shown; the store has all of it
_MOST_DIFF = 20_000
# what a window tells of longer strings takes seconds per million tokens to reckon
_LONGEST_WINDOWED = 100_000
_NUMERIC = ("in distribution", "at 2x", "at 3x", "at the longest", "half way to chance")


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
    database = Database(store, [study])
    counts = counts_of(database, study)
    now = datetime.datetime.now(datetime.UTC)
    origin = Origin(
        spec_text=store.spec_text(study),
        submissions=store.provenance(study)["submissions"],
        written_at=f"{now:%Y-%m-%d %H:%M} UTC",
    )
    verdicts = judge_cells(counts.cells, counts.settings)
    extras = dataclasses.replace(
        _extras(database, study),
        shortcuts=shortcuts_of(counts.cells),
        scaling=scale_varying(verdicts, counts.settings),
    )
    page = render_report(counts, verdicts, origin, extras)
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


def _extras(database: Database, study: str) -> Extras:
    asked = database.studies[study]
    objectives = asked.get("objective") or ()
    searches: Sequence[PlannedSearch] = ()
    not_shown = ""
    if objectives:
        # what another version tried cannot be told, what it found is judged all the same
        try:
            searches = read_searches(database.facts.store, study)[1]
        except OtherVersionError as error:
            not_shown = str(error)
    return Extras(
        training=training_curves(database, study),
        objectives=objectives,
        searches=rows_of(searches),
        searches_not_shown=not_shown,
        draws=[(cell["config"]["task"], cell["config"]["sampling"]) for cell in asked["cells"]],
    )


def shortcuts_of(cells: Sequence[CellCurves]) -> dict[str, Floats]:
    """Return `Extras.shortcuts`: NaN where nothing is known, or it would take long to know."""
    found: dict[str, Floats] = {}
    known: dict[tuple[str, str, int, int], float] = {}
    for cell in cells:
        task = cell.config.get("task")
        if task is None or not cell.curves:
            continue
        sampling, window = cell.config["sampling"], cell.curves[0].train_max_length
        lengths = pool_counts(cell.curves).lengths.tolist()
        places = [(task, sampling, length, window) for length in lengths]
        open_lengths = [p[2] for p in places if p not in known and p[2] <= _LONGEST_WINDOWED]
        for one in window_shortcuts(task, sampling, open_lengths, window):
            best = [share for share in (one.first, one.last) if share is not None]
            known[task, sampling, one.length, window] = max(best, default=np.nan)
        found[cell.key] = np.array([known.get(place, np.nan) for place in places])
    return found


def render_report(
    counts: StudyCounts,
    verdicts: Sequence[CellVerdict],
    origin: Origin,
    extras: Extras = NO_EXTRAS,
) -> str:
    """Return the page as HTML; every text in it is escaped, nothing comes from elsewhere."""
    # undefined names are bugs of the template, not empty text
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ldru_study.analysis", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tight"] = _tight
    environment.filters["command"] = shlex.join
    environment.filters["settings"] = settings
    environment.filters["clipped"] = _clipped
    rows = [render(row) for row in verdict_rows(verdicts)]
    filled = [n for n in range(len(COLUMNS)) if any(row[n] not in ("", "-") for row in rows)]
    return environment.get_template(_TEMPLATE).render(
        counts=counts,
        origin=origin,
        extras=extras,
        num_trials=sum(counts.states.values()),
        answers=_answers(verdicts),
        heat=_heat(verdicts),
        columns=[COLUMNS[n] for n in filled],
        rows=[[row[n] for n in filled] for row in rows],
        numeric=_NUMERIC,
        failing=[_failing_row(verdict) for verdict in verdicts if _fails(verdict)],
        levels=counts.settings.levels,
        seeds=[_seed_row(cell, seed) for cell in verdicts for seed in cell.seeds],
        limits=limits(verdicts, extras.draws),
        how_chance_is_known=how_chance_is_known(extras.draws),
        flags={name.replace("_", " "): text for name, text in FLAGS.items()},
        style=Markup(_asset("report.css")),
        plotly=Markup(get_plotlyjs()),
        script=Markup(_asset("report.js")),
        # no text inside can end the script or begin another
        data=Markup(json.dumps(page_data(verdicts, extras)).replace("<", "\\u003c")),
    )


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _tight(text: str) -> str:
    """Keep a number and its unit, or its thousands, on one line."""
    return re.sub(r"(?<=\d) (?=%|\d{3}\b)", "\N{NO-BREAK SPACE}", text)


def _clipped(text: str) -> str:
    left = len(text) - _MOST_DIFF
    return text if left <= 0 else f"{text[:_MOST_DIFF]}\n... {left} more characters"


def _answers(verdicts: Sequence[CellVerdict]) -> list[dict[str, Any]]:
    """Return for each model its number, its label, what became of it and what of the claim."""
    return [
        {
            "series": number,
            "label": label,
            "text": answer(found),
            "claims": near_perfect_answer(found),
        }
        for number, (label, found) in enumerate(by_label(verdicts).items())
    ]


def _heat(verdicts: Sequence[CellVerdict]) -> dict[str, Any]:
    """Return the table of all cells, tasks as columns and models as rows."""
    tasks = tasks_of([verdict.cell for verdict in verdicts])
    places = {(v.cell.label, v.cell.task): number for number, v in enumerate(verdicts)}
    labels = series_styles([verdict.cell for verdict in verdicts])

    def square(label: str, task: str) -> dict[str, Any] | None:
        number = places.get((label, task))
        if number is None:
            return None
        verdict = verdicts[number]
        kind = verdict.kind
        return {
            "number": number,
            "kind": kind or "missing",
            "word": WORDS[kind] if kind else "no result",
            "detail": headline(verdict),
            "share": f"{verdict.num_agreeing}/{len(verdict.seeds)}" if kind else "",
            "title": f"{label} on {task}: {cell_sentence(verdict)}; "
            + near_perfect_answer([verdict]).removesuffix("."),
        }

    rows = [{"label": label, "squares": [square(label, t) for t in tasks]} for label in labels]
    return {"tasks": tasks, "rows": rows}


def _fails(verdict: CellVerdict) -> bool:
    return verdict.joint is not None and bool(verdict.joint.failure_multiples)


def _failing_row(verdict: CellVerdict) -> list[str]:
    """Return where one cell fails, all seeds together: by level, how sharply, how scattered."""
    joint = verdict.joint
    assert joint is not None  # noqa: S101 - `_fails` has chosen it
    return [
        verdict.cell.task,
        verdict.cell.label,
        kind_words(verdict_rows([verdict])[0]),
        estimate(joint.half_multiple),
        *(estimate(found) for found in joint.failure_multiples.values()),
        "-" if joint.sharpness is None else f"{joint.sharpness:.3g}",
        "-" if joint.scatter is None else f"{joint.scatter:.2g}",
        joint.reason,
    ]


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
