"""`status`, `list` and `query`: what the store says; `store compact`: how it lies there."""

from __future__ import annotations

import io
import sys
from collections import Counter
from dataclasses import asdict
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
    import pyarrow

    from ldru_study.results.query import Database


@click.command("list")
@store_option
@json_option
def list_studies(store_uri: str, as_json: bool) -> None:
    """List the studies of a store with the states of their trials.

    \b
    Example: ldru-study list
    """
    from ldru_study.results.query import Database
    from ldru_study.results.store import DamagedFileError, Store

    store = Store(store_uri)
    database = Database(store)
    damage = list(database.damage)
    counts: dict[str, Counter[str]] = {name: Counter() for name in database.studies}
    for row in database.rows("select study, state, count(*) as n from trials group by all"):
        counts[row["study"]][row["state"]] = row["n"]
    rows = []
    for name, study in database.studies.items():
        try:
            submitted = store.provenance(name)["submissions"][-1]["at"]
        except DamagedFileError as error:
            damage.append(error.damage)
            submitted = None
        states = counts[name]
        rows.append((name, sum(states.values()), _shown(states), submitted, study["question"]))
    warn_damage(damage)
    columns = ("study", "trials", "states", "submitted", "question")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif rows:
        print_table(columns, rows, right=("trials",))
    else:
        say(f"{store.uri}: no studies yet. `ldru-study submit SPEC` makes one.")
    sys.exit(FAILED if damage else 0)


@click.command()
@click.argument("study", required=False)
@store_option
@json_option
def status(study: str | None, store_uri: str, as_json: bool) -> None:
    """Say how far a study is (default: the only one, or all), and why trials failed.

    Computed from the store's files and the age of heartbeats at every call. Exits with 4 when a
    trial failed or a file of the store is damaged.

    \b
    Example: ldru-study status quick
    """
    from ldru_study.results.query import Database
    from ldru_study.results.store import Store

    store = Store(store_uri)
    if study:
        store.study(study)
    database = Database(store)
    names = [study] if study else list(database.studies)
    beats = database.facts.beats
    warn_damage(database.damage)
    found = []
    any_failed = False
    for name in names:
        rows = database.rows(
            "select cell, seed, trial_id, state, cause from trials where study = $study",
            study=name,
        )
        for row in rows:
            beat = beats.get(row["trial_id"])
            row["step"] = beat.step if beat and row["state"] == "running" else None
        any_failed |= any(row["state"] == "failed" for row in rows)
        found.append({"study": name, "trials": rows})
        if not as_json:
            _print_status(name, rows, database)
    if as_json:
        print_json({"studies": found, "damage": [str(item) for item in database.damage]})
    elif not names:
        say(f"{store.uri}: no studies yet. `ldru-study submit SPEC` makes one.")
    sys.exit(FAILED if database.damage or any_failed else 0)


def _print_status(name: str, rows: list[dict[str, Any]], database: Database) -> None:
    cells: dict[str, Counter[str]] = {}
    for row in rows:
        cells.setdefault(str(row["cell"]), Counter())[str(row["state"])] += 1
    print_table(
        (f"{name}: cell", "trials", "states"),
        [(cell, sum(states.values()), _shown(states)) for cell, states in cells.items()],
        right=("trials",),
    )
    for row in rows:
        if row["state"] == "running":
            click.echo(f"  running: {row['cell']} seed {row['seed']} at step {row['step']}")
        if row["state"] == "failed":
            who = f"{row['cell']} seed {row['seed']}"
            click.echo(f"  failed ({row['cause']}): {who}: {_why(row, database)}")


def _why(row: dict[str, Any], database: Database) -> str:
    ends = database.rows(
        "select message from attempts where trial_id = $trial_id and event = 'end' "
        "order by attempt_id desc limit 1",
        trial_id=row["trial_id"],
    )
    return str(ends[0]["message"]) if ends else ""


def _shown(states: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


@click.command()
@click.argument("sql")
@store_option
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV on stdout.")
@click.option("--parquet", type=click.Path(dir_okay=False), help="Write a Parquet file instead.")
@click.option(
    "--study",
    "studies",
    multiple=True,
    metavar="NAME",
    help="Read this study only; repeatable. In a large store verdicts take as long as its trials.",
)
def query(
    sql: str,
    store_uri: str,
    as_json: bool,
    as_csv: bool,
    parquet: str | None,
    studies: tuple[str, ...],
) -> None:
    """Run one read-only SQL query (DuckDB) over the store.

    Tables: trials, evaluations, curves (fitted to every seed, and to all seeds of a cell where
    seed is null), verdicts (one row per cell), metrics, attempts, suggestions, refinements;
    `describe TABLE` lists the columns, such as num_parameters and flops_per_token (at the longest
    training length) of trials, claim_at_2x and claim_at_3x (near-perfect: supported, refuted,
    undecided) of verdicts. A query sees nothing but these tables, and Ctrl-C ends it.

    \b
    Example: ldru-study query "select cell, multiple, avg(accuracy) from evaluations group by all"
    Example: ldru-study query "select cell, seed, half_multiple from curves where verdict = 'sharp'"
    """
    import pyarrow.csv
    import pyarrow.parquet

    from ldru_study.analysis.views import open_database
    from ldru_study.results.query import to_flat, to_records
    from ldru_study.results.store import Store

    if as_json + as_csv + bool(parquet) > 1:
        raise click.UsageError("--json, --csv and --parquet exclude each other. Give one.")
    database = open_database(Store(store_uri), studies or None)
    warn_damage(database.damage)
    result = database.sql(sql)
    if parquet:
        try:
            pyarrow.parquet.write_table(result, parquet)
        except OSError as error:
            raise click.UsageError(f"{parquet}: cannot be written: {error}") from error
        say(f"{parquet}: {result.num_rows} rows.")
    elif as_csv:
        text = io.BytesIO()
        pyarrow.csv.write_csv(to_flat(result), text)
        click.echo(text.getvalue(), nl=False)
    elif as_json:
        print_json(to_records(result))
    else:
        rows = [[_written(v) for v in row.values()] for row in to_records(to_flat(result))]
        numbers = [field.name for field in result.schema if _is_number(field)]
        print_table(result.column_names, rows, right=numbers)


def _written(value: object) -> object:
    # the last digits of a binary fraction say nothing to a person
    return f"{value:.10g}" if isinstance(value, float) else value


def _is_number(field: pyarrow.Field) -> bool:
    import pyarrow.types

    checks = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_decimal)
    return any(check(field.type) for check in checks)


@click.group(cls=StudyGroup)
def store() -> None:
    """Look after a store."""


@store.command()
@store_option
@json_option
@click.option(
    "--min-age",
    "min_age_s",
    type=click.FloatRange(min=60),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="Leave files alone that are younger.",
)
def compact(store_uri: str, as_json: bool, min_age_s: float) -> None:
    """Merge the small files of the tables into large ones, which are read much faster.

    Works beside running studies and may be interrupted at any time: no row is ever missing or
    counted twice. Exits with 4 when a file is damaged; such files are left as they are.

    \b
    Example: ldru-study store compact --store s3://bucket/results
    """
    from ldru_study.results.compaction import Limits
    from ldru_study.results.compaction import compact as compact_store
    from ldru_study.results.store import Store

    done = compact_store(Store(store_uri), Limits(min_age_s=min_age_s))
    damage = [item for table in done for item in table.left_out]
    if as_json:
        print_json([asdict(table) for table in done])
    else:
        print_table(
            ("table", "files", "merged", "into", "rows", "too new"),
            [
                (t.table, t.num_files, t.num_merged, len(t.written), t.num_rows, t.num_young)
                for t in done
            ],
            right=("files", "merged", "into", "rows", "too new"),
        )
    warn_damage(damage)
    sys.exit(FAILED if damage else 0)
