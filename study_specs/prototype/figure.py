"""Judge the measured curves of an early prototype and draw them.

    python study_specs/prototype/figure.py       # reads curves.csv, writes curves.json, curves.png

`curves.csv` has one row per model, seed and set of four lengths: `correct` of `total` answers, all
models trained on lengths up to 40. A set stands at its longest length. `curves.json` is what
`ldru-study analyze fit` reads.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click
import numpy as np

from ldru_study.analysis.cases import judge_cases, read_cases
from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.plots import failure_figure
from ldru_study.analysis.tables import estimate

HERE = Path(__file__).parent
TRAINED_TO = 40
# accuracy of the best constant answer, all classes being about equally frequent
CHANCE = {"parity": 1 / 2, "evenpairs": 1 / 2, "cycle": 1 / 5}


def read_curves() -> dict[tuple[str, str], list[LengthCurve]]:
    """Return the seeds of every task and model."""
    rows: dict[tuple[str, str, int], list[tuple[int, int, int]]] = {}
    with (HERE / "curves.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = row["task"], row["model"], int(row["seed"])
            counts = int(row["longest"]), int(row["correct"]), int(row["total"])
            rows.setdefault(key, []).append(counts)
    found: dict[tuple[str, str], list[LengthCurve]] = {}
    for (task, model, seed), counts in rows.items():
        lengths, correct, total = np.array(sorted(counts)).T
        chance = np.full(len(lengths), CHANCE[task])
        curve = LengthCurve(seed, TRAINED_TO, lengths, correct, total, chance)
        found.setdefault((task, model), []).append(curve)
    return found


def as_case(name: tuple[str, str], curves: list[LengthCurve]) -> dict[str, object]:
    """Return a cell as a case of `ldru-study analyze fit`."""
    return {
        "id": "/".join(name),
        "multiples": [float(m) for m in curves[0].multiples],
        "num_correct": [[int(k) for k in curve.num_correct] for curve in curves],
        "num_total": [int(n) for n in curves[0].num_total],
        "chance": CHANCE[name[0]],
    }


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=HERE, show_default=False)
def main(output: Path) -> None:
    """Write curves.json and curves.png, and print one line per cell."""
    found = read_curves()
    text = json.dumps({"cases": [as_case(*cell) for cell in found.items()]})
    (output / "curves.json").write_text(text + "\n")
    cases = read_cases(text, "curves.json")
    for case, verdict in zip(cases, judge_cases(cases), strict=True):
        half, others = estimate(verdict.half_multiple), ", ".join(verdict.left_out.values())
        besides = (
            f"; {len(verdict.left_out)} of {len(case.curves)} seeds: {others}" if others else ""
        )
        click.echo(f"{case.id}: {verdict.kind}, {half}, {verdict.reason}{besides}")
    cells = [
        CellCurves(task, model, f"{task}/{model}", tuple(curves))
        for (task, model), curves in found.items()
    ]
    failure_figure(cells, columns=3).savefig(output / "curves.png")


if __name__ == "__main__":
    main()
