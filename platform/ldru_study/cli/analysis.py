"""`analyze` and `report`: what the counts say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldru_study.cli.group import (
    FAILED,
    StudyGroup,
    json_option,
    print_json,
    print_table,
    say,
    store_option,
    warn_damage,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ldru_study.results.search_table import SearchRow
    from ldru_study.results.store import Store


_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.group(cls=StudyGroup)
def analyze() -> None:
    """Judge the failure curves of a study."""


@analyze.command()
@click.argument("study")
@store_option
@json_option
def verdicts(study: str, store_uri: str, as_json: bool) -> None:
    """Say for every cell whether it holds, fades or collapses, and how sure that is.

    STUDY is a study's name or its YAML file. 'near-perfect at 2x, 3x' says of both multiples
    whether every seed surely answers 99 % right (analysis.near_perfect in the study file):
    supported, refuted or undecided, '-' where nothing was tested. On a narrow terminal the columns
    come in several tables; --json has what each seed says. Exits with 4 when a trial failed or a
    file of the store is damaged.

    \b
    Example: ldru-study analyze verdicts quick
    """
    from ldru_study.results.store import Store

    is_whole = print_verdicts(Store(store_uri), study_name(study), as_json=as_json)
    sys.exit(0 if is_whole else FAILED)


@analyze.command()
@click.argument("counts", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--learned-level",
    type=_SHARE,
    default=0.5,
    show_default=True,
    help="How far from chance to perfect a curve must be at multiples <= 1 to count as learned.",
)
@click.option(
    "--near-perfect",
    type=_SHARE,
    default=0.95,
    show_default=True,
    help="The share of its plateau that a curve must keep to hold.",
)
@click.option(
    "--sharp-ratio",
    type=click.FloatRange(min=1, min_open=True),
    default=2.0,
    show_default=True,
    help="The largest ratio W of the multiples at 10 % and 90 % that is called sharp.",
)
@json_option
def fit(
    counts: Path, learned_level: float, near_perfect: float, sharp_ratio: float, as_json: bool
) -> None:
    """Judge counts from anywhere: where each case fails, how sharply, and how sure that is.

    COUNTS is a JSON file, or - for stdin: {"cases": [{"id": "a", "multiples": [1, 2, 4],
    "num_correct": [[64, 60, 33], [64, 63, 40]], "num_total": 64, "chance": 0.5}]}, with a list of
    counts for each seed. num_total and chance may also differ from multiple to multiple.

    A case may begin at multiple 1, where a gradual failure is under way already, so less must be
    learned and kept than `analyze verdicts` asks for: --learned-level 0.9 --near-perfect 0.99
    judge as it does.

    \b
    Example: ldru-study analyze fit counts.json --json
    """
    from dataclasses import replace

    from ldru_study.analysis.cases import CASE_SETTINGS, case_json, judge_cases, read_cases
    from ldru_study.analysis.tables import estimate

    settings = replace(
        CASE_SETTINGS,
        learned_level=learned_level,
        near_perfect=near_perfect,
        sharp_ratio=sharp_ratio,
    )
    cases = read_cases(*_read_text(counts))
    judged = list(zip(cases, judge_cases(cases, settings), strict=True))
    if as_json:
        chosen = ("learned_level", "near_perfect", "sharp_ratio", "confidence")
        print_json(
            {
                "settings": {name: getattr(settings, name) for name in chosen},
                "cases": [case_json(*one) for one in judged],
            }
        )
        return
    print_table(
        ("id", "seeds", "verdict", "half way to chance (95 %)", "reason"),
        [
            [
                case.id,
                len(case.curves),
                verdict.kind,
                estimate(verdict.half_multiple),
                verdict.reason,
            ]
            for case, verdict in judged
        ],
        right=("seeds",),
        keys=("id",),
    )


@analyze.command()
@click.argument("study")
@click.option(
    "--x",
    "field",
    required=True,
    metavar="FIELD",
    help="What varies: a numeric field of the spec such as train.max_length or model.width, "
    "num_parameters or flops_per_token.",
)
@store_option
@json_option
def scaling(study: str, field: str, store_uri: str, as_json: bool) -> None:
    """Show how far models hold against what varies, with what the data cannot carry refused.

    STUDY is a study's name or its YAML file. Medians come from censored runs (Turnbull), exponents
    from a censored regression, and from a power law with a floor where no run is censored.

    \b
    Example: ldru-study analyze scaling length-sweep --x train.max_length
    """
    from ldru_study.analysis.collect import collect
    from ldru_study.analysis.scaling_table import COLUMNS, law_lines, median_rows, series_json
    from ldru_study.analysis.series import scale_cells
    from ldru_study.results.store import Store

    found = collect(Store(store_uri), study_name(study))
    series = scale_cells(found.cells, field, found.settings)
    if as_json:
        print_json(
            {"study": found.name, "x": field, "series": [series_json(one) for one in series]}
        )
    else:
        rows = [row for one in series for row in median_rows(one)]
        print_table(COLUMNS, rows, right=COLUMNS[2:7], keys=("task", "model"))
        for one in series:
            for line in law_lines(one, field):
                click.echo(line)
    warn_damage(found.damage)


@analyze.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="[B]", required=False)
@click.option("--published", is_flag=True, help="Set A beside published figures, without B.")
@store_option
@json_option
def compare(first: str, second: str | None, published: bool, store_uri: str, as_json: bool) -> None:
    """Test whether A holds better than B beyond the training length, task by task.

    A and B are STUDY:MODEL, or STUDY where the study has a single model; MODEL is a label of the
    verdict table. Pairs are one task and one seed; the test is an exact permutation of signs, with
    Holm's correction over the tasks. 1 is perfect and 0 a constant answer.

    With --published A may be a STUDY of any models: its mean accuracy over the lengths of the
    published mean, with the lowest and the highest seed, beside the figure, and what differs.

    \b
    Example: ldru-study analyze compare quick:lstm "quick:ldru(mlp)"
    Example: ldru-study analyze compare paper-rq1 --published
    """
    from ldru_study.results.store import Store

    if published and second is not None:
        raise click.UsageError(f"--published compares one study. Drop '{second}'.")
    if published:
        _compare_published(Store(store_uri), first, as_json=as_json)
    elif second is None:
        raise click.UsageError("Name a second model B, or compare with --published figures.")
    else:
        _compare_models(Store(store_uri), first, second, as_json=as_json)


def _compare_published(store: Store, side: str, *, as_json: bool) -> None:
    from ldru_study.analysis import published as publishing
    from ldru_study.analysis.comparison_table import pick_cells

    found, left_out = publishing.beside_published(pick_cells(store, side, study_name))
    if as_json:
        figures = [publishing.published_json(one) for one in found]
        print_json({"study": side, "figures": figures, "left_out": left_out})
    else:
        columns = publishing.COLUMNS
        rows = publishing.published_rows(found)
        print_table(columns, rows, right=("seeds", "published"), keys=("task", "model"))
    by_reason: dict[str, list[str]] = {}
    for cell, reason in left_out.items():
        by_reason.setdefault(reason, []).append(cell)
    for reason, cells in by_reason.items():
        say(f"Left out: {', '.join(cells)}: {reason}.")


def _compare_models(store: Store, first: str, second: str, *, as_json: bool) -> None:
    from dataclasses import asdict

    from ldru_study.analysis import compare as comparing
    from ldru_study.analysis.comparison_table import COLUMNS, comparison_rows, pick_model
    from ldru_study.errors import StudyError

    a, b = (pick_model(store, side, study_name) for side in (first, second))
    try:
        found = comparing.compare(a, b)
    except ValueError as error:
        raise StudyError(f"compare: {first} and {second}: {error}.") from None
    if as_json:
        print_json({"a": first, "b": second, **asdict(found)})
    else:
        print_table(COLUMNS, comparison_rows(found), right=COLUMNS[1:], keys=("task",))
    for task, reason in found.skipped.items():
        say(f"Left out: {task}: {reason}.")


def _read_text(path: Path) -> tuple[str, str]:
    """Return a file's text and its name; ``-`` is stdin."""
    from ldru_study.errors import InputError, NotFoundError

    if str(path) == "-":
        return sys.stdin.read(), "stdin"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path}: there is no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), [f"it cannot be read as text: {error}."]) from None


@analyze.command()
@click.argument("study")
@store_option
@json_option
@click.option(
    "--optuna",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write every search as an Optuna study into a new SQLite file; "
    "`optuna-dashboard sqlite:///FILE` opens it.",
)
def search(study: str, store_uri: str, as_json: bool, optuna: Path | None) -> None:
    """Show what a study's searches tried, cell by cell, and what won.

    STUDY is a study's name or its YAML file. With several objectives the column 'front' marks the
    settings that no other beats in all of them.

    \b
    Example: ldru-study analyze search search --optuna search.db
    """
    from ldru_study.results.search_table import read_searches, rows_of
    from ldru_study.results.store import Store

    spec, searches = read_searches(Store(store_uri), study_name(study))
    assert spec.file.search is not None  # noqa: S101 - read_searches refuses studies without
    objectives = spec.file.search.objective
    rows = rows_of(searches)
    if as_json:
        print_json(
            {
                "study": spec.name,
                "objectives": list(objectives),
                "is_oracle": any(one.is_oracle for one in searches),
                "suggestions": [_search_json(row, objectives) for row in rows],
            }
        )
    else:
        print_table(
            ("cell", "number", "state", *objectives, "front", "settings"),
            [_search_cells(row, len(objectives)) for row in rows],
            right=("number", *objectives),
            keys=("cell", "number"),
        )
        for one in searches:
            if not one.is_over:
                left = one.num_trials - sum(made.is_over for made in one.suggestions)
                say(f"{one.cell.key}: {left} of {one.num_trials} settings are still to be tried.")
        if any(one.is_oracle for one in searches):
            say("Oracle selection: settings are chosen on lengths that also judge.")
    if optuna is not None:
        from ldru_study.execution.optuna_export import export_searches

        export_searches(searches, spec, optuna)
        say(f"{optuna}: {len(searches)} Optuna studies. `optuna-dashboard sqlite:///{optuna}`")


def _search_json(row: SearchRow, objectives: Sequence[str]) -> dict[str, Any]:
    values = [None] * len(objectives) if row.values is None else row.values
    return {
        "cell": row.cell,
        "number": row.number,
        "state": row.state,
        "params": dict(row.params),
        "values": dict(zip(objectives, values, strict=True)),
        "on_front": row.on_front,
        "is_winner": row.is_winner,
    }


def _search_cells(row: SearchRow, num_objectives: int) -> list[Any]:
    values = [""] * num_objectives if row.values is None else [f"{v:.4g}" for v in row.values]
    settings = ", ".join(
        f"{path}={value:.4g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in row.params.items()
    )
    mark = "winner" if row.is_winner else "front" if row.on_front else ""
    return [row.cell, row.number, row.state, *values, mark, settings]


@click.command()
@click.argument("study")
@store_option
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    default="report.html",
    show_default=True,
    help="The page to write.",
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the failure curves as a figure; .png, .svg or .pdf.",
)
def report(study: str, store_uri: str, output: Path, figure: Path | None) -> None:
    """Write one self-contained HTML page: verdicts, failure curves, tables, provenance.

    STUDY is a study's name or its YAML file. For each model the page begins with a sentence on
    where it holds or fails, and one on whether it is near-perfect at 2x and 3x.

    \b
    Example: ldru-study report quick --output quick.html --figure quick.png
    """
    from ldru_study.analysis.report import write_figure, write_report
    from ldru_study.results.store import Store

    store, name = Store(store_uri), study_name(study)
    write_report(store, name, output)
    say(f"{output}: the report of {name}.")
    if figure is not None:
        write_figure(store, name, figure)
        say(f"{figure}: its failure curves.")


def study_name(study: str) -> str:
    """Return a study's name, given itself or the path of its YAML file."""
    if not study.endswith((".yaml", ".yml")):
        return study
    from ldru_study.spec.study import load_study

    return load_study(Path(study)).name


def print_verdicts(store: Store, study: str, *, as_json: bool) -> bool:
    """Print a study's verdict table on stdout; False when something is missing from it.

    Raises:
        NotFoundError: the store holds no such study.
    """
    from ldru_study.analysis.cell import judge_cells
    from ldru_study.analysis.collect import collect
    from ldru_study.analysis.tables import COLUMNS, render, to_json, verdict_rows

    found = collect(store, study)
    levels = found.settings.levels if as_json else ()
    judged = judge_cells(found.cells, found.settings, seed_levels=levels)
    if as_json:
        print_json(
            {
                "study": study,
                "states": dict(found.states),
                "cells": [to_json(verdict) for verdict in judged],
                "failures": [vars(failure) for failure in found.failures],
                "damage": list(found.damage),
            }
        )
    else:
        rows = [render(row) for row in verdict_rows(judged)]
        # a column that is empty in every row says nothing
        filled = [n for n in range(len(COLUMNS)) if any(row[n] not in ("", "-") for row in rows)]
        columns = [COLUMNS[n] for n in filled]
        rows = [[row[n] for n in filled] for row in rows]
        print_table(columns, rows, keys=("task", "model"))
    for failure in found.failures:
        who = f"{failure.cell} seed {failure.seed}"
        say(f"Failed ({failure.cause}): {who}: {failure.message}")
    for item in found.damage:
        say(f"Warning: {item}")
    return not found.failures and not found.damage
