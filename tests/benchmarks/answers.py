"""How long answers take: SQL and a report on a store of ten million rows, judging many cells.

`python tests/benchmarks/answers.py` makes a store of 100 studies, 100 000 trials and 100 lengths
each, beside one study of 50 cells, 10 seeds and 30 lengths, and times what reads it. Medians and
all runs are printed.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ldru_study.analysis.report import write_report
from ldru_study.analysis.views import open_database
from ldru_study.results.schema import TABLES, versioned
from ldru_study.results.store import Store
from ldru_study.spec.plan import plan_study
from ldru_study.spec.resolved import resolved
from ldru_study.spec.study import StudySpec, parse_study

# 20 cells of 50 seeds, 100 lengths
FILLER = """\
name: filler-{number}
grid:
  task: [parity_check, even_pairs]
  model: [{{kind: lstm, width: 8}}, {{kind: ldru, operator: mlp, width: 8}}]
  train.learning_rate: [1e-4, 2e-4, 3e-4, 4e-4, 5e-4]
train: {{steps: {steps}, max_length: 40}}
seeds: 50
evaluate: {{lengths: [{lengths}], multiples: [], strings: 512}}
"""
# 50 cells of 10 seeds, 30 lengths
WIDE = """\
name: wide
question: Does the page bear fifty cells?
grid:
  task: [parity_check, even_pairs, cycle_navigation, tomita_3, prefix_2_2]
  model: [{kind: lstm, width: 8}, {kind: rnn, width: 8}]
  train.max_length: [10, 20, 40, 80, 160]
train: {steps: 1000}
seeds: 10
evaluate:
  multiples: [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 14, 16,
              20, 24, 28, 32, 40, 48, 56, 64, 80, 100]
  strings: 512
"""
AGGREGATES = (
    "select task, sum(num_correct) / sum(num_total) as accuracy from evaluations "
    "where multiple between 2 and 3 and model_label = 'lstm' group by task",
    "select cell, avg(accuracy) from evaluations where study = 'filler-7' and length > 80 "
    "group by cell",
)


@click.command()
@click.option("--studies", default=100, show_default=True, help="Studies of 100 000 rows each.")
@click.option("--runs", default=5, show_default=True, help="Runs of every query.")
@click.option("--store", "folder", type=click.Path(path_type=Path), help="Keep the store here.")
def main(studies: int, runs: int, folder: Path | None) -> None:
    """Time SQL, verdicts and a report on a store of many rows."""
    with tempfile.TemporaryDirectory() as scratch:
        place = (folder or Path(scratch)) / "results"
        if not place.exists():
            report("make the store", [timed(lambda: fill(Store(str(place)), studies))])
        databases = []
        report("open", [timed(lambda: databases.append(open_database(Store(str(place)))))])
        database = databases[0]
        (size,) = database.sql("select count(*) as n from evaluations").to_pylist()
        click.echo(f"{size['n']} rows")
        for sql in AGGREGATES:
            report(sql, [timed(lambda sql=sql: database.sql(sql)) for _ in range(runs)])
        one = open_database(Store(str(place)), studies=["wide"])
        verdicts = "select count(*) from verdicts where study = 'wide'"
        report("verdicts of 50 cells of 10 seeds", [timed(lambda: one.sql(verdicts))])
        page = Path(scratch) / "wide.html"
        report(
            "report of 50 cells, 10 seeds, 30 lengths",
            [timed(lambda: write_report(Store(str(place)), "wide", page)) for _ in range(2)],
        )
        click.echo(f"{page.stat().st_size / 1e6:.2f} MB")
        time_page(page)


def time_page(page: Path) -> None:
    """Open a report in Chromium and time how long its script keeps the page from answering."""
    chromium = shutil.which("chromium")
    if chromium is None:
        click.echo("no chromium on the PATH: the page is not opened")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        report("open the page", [timed(lambda: tab.goto(page.as_uri()))])
        tab.locator("#curves").scroll_into_view_if_needed()
        tab.wait_for_selector("#curves .main-svg", state="attached")
        # one task after the other, as a click in the table of verdicts or on the list would
        switch = """async task => {
            const begun = performance.now();
            choose(task, null);
            await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
            return (performance.now() - begun) / 1000;
        }"""
        tasks = range(tab.evaluate("data.tasks.length"))
        report("draw the curves of another task", [tab.evaluate(switch, n) for n in tasks])
        browser.close()


def fill(store: Store, studies: int) -> None:
    """Commit every trial of every study, as one file per table and study, with weights."""
    lengths = ", ".join(str(2 * n) for n in range(1, 101))
    texts = [FILLER.format(number=n, steps=1000 + n, lengths=lengths) for n in range(studies)]
    for number, text in enumerate([*texts, WIDE]):
        spec = parse_study(text, "study.yaml")
        save(store, spec, seed=number)


def save(store: Store, spec: StudySpec, seed: int) -> None:
    """Record a study as `submit` does, and answers to all that it asks."""
    plan = plan_study(spec)
    rng = np.random.default_rng(seed)
    parts = []
    # a cell of the wide study fails somewhere, or nowhere
    halves = {cell.cell.key: rng.uniform(2, 300) for cell in plan.cells}
    for trial in plan.trials:
        lengths = np.array([question.length for question in trial.questions])
        multiples = lengths / trial.config.train.max_length
        half = halves[trial.cell.key] * rng.uniform(0.8, 1.25)
        accuracy = 0.5 + 0.5 * np.exp2(-((multiples / half) ** 6.0))
        parts.append(
            {
                "trial_id": np.repeat(trial.trial_id, len(lengths)),
                "attempt_id": np.repeat(
                    f"20260101T000000000000-{trial.trial_id[:6]}", len(lengths)
                ),
                "length": lengths,
                "multiple": multiples,
                "num_correct": rng.binomial(512, accuracy),
            }
        )
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    size = len(columns["length"])
    columns |= {
        "num_total": np.full(size, 512),
        "chance": np.full(size, 0.5),
        "loss": rng.random(size),
        "eval_seed": np.zeros(size, np.int64),
        "seconds": rng.random(size),
        "committed_at": np.full(size, np.datetime64("2026-01-01T00:00:00", "us")),
    }
    schema = TABLES["evaluations"]
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema]
    path = Path(store.uri, "evaluations", f"{spec.name}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays(arrays, schema=versioned(schema)), path)
    record = {"submissions": [{"at": "2026-01-01T00:00:00+00:00", "command": ["submit"]}]}
    about = {"revision": "0" * 40, "diff": "", "versions": {}, "hardware": {}}
    record["submissions"][0] |= about
    store.save_study(
        spec.name,
        {
            "spec.yaml": spec.text.encode(),
            "provenance.json": json.dumps(record).encode(),
            "resolved.json": json.dumps(resolved(spec, plan)).encode(),
        },
    )


def timed(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes, in seconds."""
    clock = time.monotonic()
    work()
    return time.monotonic() - clock


def report(what: str, seconds: list[float]) -> None:
    """Print a median and all runs."""
    runs = ", ".join(f"{value:.2f}" for value in sorted(seconds))
    click.echo(f"{statistics.median(seconds):7.2f} s  {what}  ({runs})")


if __name__ == "__main__":
    main()
