"""Keep the counts of cpu_field and ldru_recipe as cases, judge them and draw them.

    python study_specs/field/field.py record --store results   # writes cpu_field.json and so on
    python study_specs/field/field.py draw                     # writes curves.png, prints tables

The JSON files are what `ldru-study analyze fit` reads, with what else the tables say of a cell.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import numpy as np

from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.plots import failure_figure
from ldru_study.analysis.tables import estimate, kind_words, verdict_rows
from ldru_study.analysis.views import open_database
from ldru_study.results.store import Store

HERE = Path(__file__).parent
TRAINED_TO = 40
FILES = {
    "cpu_field": ("cpu-field",),
    "ldru_recipe": ("ldru-recipe", "ldru-recipe-longer", "ldru-recipe-penalty"),
}
_COUNTS = """
select task, model_label, seed, list(length order by length) as lengths,
       list(num_correct order by length) as num_correct,
       list(num_total order by length) as num_total, list(chance order by length) as chance
from evaluations where study = '{study}' group by all order by all
"""
# all attempts, those that were stopped among them, and those of studies that share the trials
_COSTS = """
select task, model_label, sum(seconds) / 60 as minutes
from attempts join (select distinct trial_id, task, model_label from trials
                    where study = '{study}') using (trial_id)
where event = 'end' group by all
"""


@click.group()
def main() -> None:
    """Record and draw what the studies of this folder measured."""


@main.command()
@click.option("--store", default="results", show_default=True, help="Holds the studies.")
def record(store: str) -> None:
    """Write the counts of every study that the store has."""
    known = {path.name for path in (Path(store) / "studies").glob("*")}
    for name, studies in FILES.items():
        cases: list[dict[str, Any]] = []
        for study in [study for study in studies if study in known]:
            database = open_database(Store(store), studies=[study])
            rows = database.sql(_COUNTS.format(study=study)).to_pylist()
            costs = {
                (row["task"], row["model_label"]): row["minutes"]
                for row in database.sql(_COSTS.format(study=study)).to_pylist()
            }
            cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for row in rows:
                cells.setdefault((row["task"], row["model_label"]), []).append(row)
            cases += [as_case(study, cell, seeds, costs[cell]) for cell, seeds in cells.items()]
        if not cases:
            continue
        lines = ",\n".join(json.dumps(case) for case in cases)
        (HERE / f"{name}.json").write_text(f'{{"cases": [\n{lines}\n]}}\n')
        click.echo(f"{name}.json: {len(cases)} cells")


def as_case(
    study: str, cell: tuple[str, str], seeds: list[dict[str, Any]], minutes: float
) -> dict[str, Any]:
    """Return a cell as a case of `ldru-study analyze fit`, and what its name does not say."""
    first = seeds[0]
    for row in seeds:
        if row["lengths"] != first["lengths"] or row["num_total"] != first["num_total"]:
            raise click.ClickException(
                f"{'/'.join((study, *cell))}: seed {row['seed']} was tested at other lengths than "
                f"seed {first['seed']}. Record a study that is done and not refined."
            )
    return {
        "id": "/".join((study, *cell)),
        "study": study,
        "task": cell[0],
        "model": cell[1],
        "minutes": round(minutes, 1),  # of the clock, over all seeds
        "seeds": [row["seed"] for row in seeds],
        "multiples": [length / TRAINED_TO for length in first["lengths"]],
        "num_correct": [row["num_correct"] for row in seeds],
        "num_total": first["num_total"],
        "chance": first["chance"],
    }


def read_cells(name: str) -> list[tuple[dict[str, Any], CellCurves]]:
    """Return the cases of a file beside their curves."""
    found = []
    for case in json.loads((HERE / f"{name}.json").read_text())["cases"]:
        lengths = np.rint(np.array(case["multiples"]) * TRAINED_TO).astype(int)
        total, chance = np.array(case["num_total"]), np.array(case["chance"])
        curves = tuple(
            LengthCurve(seed, TRAINED_TO, lengths, np.array(correct), total, chance)
            for seed, correct in zip(case["seeds"], case["num_correct"], strict=True)
        )
        found.append((case, CellCurves(case["task"], case["model"], case["id"], curves)))
    return found


def mean_accuracies(cell: CellCurves) -> list[float]:
    """Return the mean accuracy over all lengths beyond training, one number per seed."""
    beyond = [curve.lengths > TRAINED_TO for curve in cell.curves]
    return [
        float((curve.num_correct / curve.num_total)[far].mean())
        for curve, far in zip(cell.curves, beyond, strict=True)
    ]


def field_table() -> list[str]:
    """Return one row per task and model of cpu_field, in Markdown."""
    found = read_cells("cpu_field")
    verdicts = judge_cells([cell for _, cell in found])
    rows = [
        "| task | model | verdict | half way to chance | mean over 41..500, every seed, % | "
        "learned, % | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (case, cell), row in zip(found, verdict_rows(verdicts), strict=True):
        means = " ".join(percent(mean) for mean in sorted(mean_accuracies(cell), reverse=True))
        rows.append(
            f"| {cell.task} | {cell.model} | {kind_words(row)} | "
            f"{estimate(row.half_multiple)} | {means} | {learned(cell)} | "
            f"{case['minutes']:.1f} |"
        )
    return rows


def recipe_table() -> list[str]:
    """Return one row per task of ldru_recipe and a column per switch, in Markdown."""
    found = read_cells("ldru_recipe")
    columns = list(dict.fromkeys(switch(case) for case, _ in found))
    tasks = list(dict.fromkeys(case["task"] for case, _ in found))
    means = {
        (case["task"], switch(case)): " ".join(
            percent(mean) for mean in sorted(mean_accuracies(cell), reverse=True)
        )
        for case, cell in found
    }
    rows = [f"| task | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for task in tasks:
        cells = (means.get((task, column), "") for column in columns)
        rows.append(f"| {task} | {' | '.join(cells)} |")
    return rows


def switch(case: dict[str, Any]) -> str:
    """Return what a cell of ldru_recipe has changed."""
    if (other := case["study"].removeprefix("ldru-recipe").removeprefix("-")) != "":
        return {"longer": "3 200 steps", "penalty": "penalty 0.1"}[other]
    label: str = case["model"]
    for field, calm in {
        "width": "32",
        "dropout": "0.0",
        "node_noise": "0.0",
        "random_brackets": "False",
    }.items():
        value = re.search(rf"{field}=([\w.]+)", label)
        if value and value[1] != calm:
            return field if value[1] == "True" else f"{field} {value[1]}"
    return "none"


def learned(cell: CellCurves) -> str:
    """Return the least and greatest accuracy over seeds within the training lengths."""
    within = [
        float(curve.num_correct[near].sum() / curve.num_total[near].sum())
        for curve in cell.curves
        for near in [curve.lengths <= TRAINED_TO]
    ]
    return percent(min(within)) + (f"..{percent(max(within))}" if max(within) > min(within) else "")


def percent(share: float) -> str:
    """Return a share in percent, never rounded up to 100."""
    if share == 1:
        return "100"
    return f"{min(100 * share, 99.99):.2f}" if share > 0.99 else f"{100 * share:.1f}"


@main.command()
@click.option("--output", type=click.Path(path_type=Path), default=HERE, show_default=False)
def draw(output: Path) -> None:
    """Write curves.png and print the tables of README.md."""
    cells = [cell for _, cell in read_cells("cpu_field")]
    failure_figure(cells, columns=3).savefig(output / "curves.png")
    tables = [field_table()]
    if (HERE / "ldru_recipe.json").exists():
        tables.append(recipe_table())
    click.echo("\n\n".join("\n".join(table) for table in tables))


if __name__ == "__main__":
    main()
