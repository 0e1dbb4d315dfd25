"""`analyze` and `report`: what the counts say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ldru_study.cli.group import (
    FAILED,
    StudyGroup,
    json_option,
    print_json,
    print_table,
    say,
    store_option,
)

if TYPE_CHECKING:
    from ldru_study.results.store import Store


@click.group(cls=StudyGroup)
def analyze() -> None:
    """Judge the failure curves of a study."""


@analyze.command()
@click.argument("study")
@store_option
@json_option
def verdicts(study: str, store_uri: str, as_json: bool) -> None:
    """Say for every cell whether it holds, fades or collapses, and how sure that is.

    STUDY is a study's name or its YAML file. Exits with 4 when a trial failed or a file of the
    store is damaged.

    \b
    Example: ldru-study analyze verdicts quick
    """
    from ldru_study.results.store import Store

    is_whole = print_verdicts(Store(store_uri), study_name(study), as_json=as_json)
    sys.exit(0 if is_whole else FAILED)


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

    STUDY is a study's name or its YAML file.

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
    judged = judge_cells(found.cells, found.settings)
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
