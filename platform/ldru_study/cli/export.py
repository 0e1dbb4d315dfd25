"""`export`: tables, a figure and claims for a paper, and whether they still follow."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ldru_study.cli.analysis import study_name
from ldru_study.cli.group import FAILED, say, store_option


@click.command()
@click.argument("study")
@store_option
@click.option(
    "--latex",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Where the files are written, or lie.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing; exit with 4 when a number no longer follows from the store.",
)
def export(study: str, store_uri: str, folder: Path, check: bool) -> None:
    """Write booktabs tables, a vector figure, and the SQL behind every number of them.

    The tables need \\usepackage{booktabs,graphicx}; failure_curves.pdf is the figure; preview.tex
    shows all of them. claims.json names for each entry of the tables the query that gives it. The
    same store gives the same bytes. verdicts.tex also says whether each cell is near-perfect at 2x
    and 3x.

    \b
    Example: ldru-study export quick --latex paper
    Example: ldru-study export quick --latex paper --check
    """
    from ldru_study.analysis.export import check_pack, write_pack
    from ldru_study.results.store import Store

    store, name = Store(store_uri), study_name(study)
    if not check:
        for path in write_pack(store, name, folder):
            say(f"{path}: written.")
        return
    problems = check_pack(store, name, folder)
    for problem in problems:
        click.echo(problem)
    if problems:
        sys.exit(FAILED)
    say(f"{folder}: every number follows from the store.")
