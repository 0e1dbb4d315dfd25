"""How the store and the plan bear many trials: synthetic studies, whole commands, medians.

`python tests/benchmarks/scale.py` makes a store of committed trials, as it looks once it has been
compacted, and times the commands that read it; then a smaller one as trials leave it, one file per
commit, before and after it is compacted.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq

from ldru_study.results.schema import TABLES, versioned
from ldru_study.results.store import Store
from ldru_study.spec.plan import PlannedTrial, StudyPlan, plan_study
from ldru_study.spec.resolved import resolved
from ldru_study.spec.study import StudySpec, load_study

# 2 tasks x 2 models x 500 rates = 2 000 cells of 5 seeds; 11 questions each
SPEC = """\
name: scale-{number}
question: Does the store bear it?
grid:
  task: [parity_check, even_pairs]
  model: [{{kind: lstm, width: 8}}, {{kind: ldru, operator: mlp, width: 8}}]
  train.learning_rate: [{rates}]
train: {{steps: {steps}, max_length: 40}}
seeds: 5
"""
TRIALS_PER_STUDY = 10_000
NOW = datetime.datetime.now(datetime.UTC)


@click.command()
@click.option("--studies", default=10, show_default=True, help="Studies of 10 000 trials each.")
@click.option("--runs", default=3, show_default=True, help="Runs of every command.")
@click.option("--store", "folder", type=click.Path(path_type=Path), help="Keep the store here.")
def main(studies: int, runs: int, folder: Path | None) -> None:
    """Time planning, and `status`, `list`, `plan` and `query` on a store of many trials."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        paths = [write_spec(folder, number) for number in range(studies)]
        spec = load_study(paths[0])
        report(
            "load_study, 2 000 cells", [timed(lambda: load_study(paths[0])) for _ in range(runs)]
        )
        report("plan_study, 10 000 trials", [timed(lambda: plan_study(spec)) for _ in range(runs)])
        store = folder / "results"
        if not store.exists():
            seconds = timed(lambda: fill(Store(str(store)), paths))
            click.echo(f"made {studies * TRIALS_PER_STUDY} trials in {seconds:.0f} s")
        for command in (
            ["list"],
            ["status", "scale-0"],
            ["status"],
            ["plan", str(paths[0])],
            # nothing of it is there: the weights are looked for as well
            ["plan", str(paths[0]), "--set", "evaluate.seed=1"],
            ["query", "select task, sum(num_correct) from evaluations group by all"],
        ):
            report(" ".join(command), [timed_command(command, store) for _ in range(runs)])
        time_compaction(Path(scratch) / "small-files", paths[0], runs)


def time_compaction(store: Path, spec: Path, runs: int) -> None:
    """Time `status` before and after `store compact`, on 2 000 trials of three files each."""
    study = load_study(spec)
    plan = plan_study(study)
    save(Store(str(store)), study, plan)
    files = Store(str(store))
    for trial in plan.trials[:2000]:
        name = f"{trial.trial_id}-{keys(trial)['attempt_id']}"
        for table, rows_of in ROWS:
            files.commit(table, name, list(rows_of(trial)))
    old = time.time() - 3600
    for path in store.rglob("*.parquet"):
        os.utime(path, (old, old))
    num_files = sum(1 for _ in store.rglob("*.parquet"))
    status = ["status", study.name]
    report(f"status, {num_files} files", [timed_command(status, store) for _ in range(runs)])
    report("store compact", [timed_command(["store", "compact"], store)])
    num_files = sum(1 for _ in store.rglob("*.parquet"))
    report(f"status, {num_files} files", [timed_command(status, store) for _ in range(runs)])


def write_spec(folder: Path, number: int) -> Path:
    """Write one study file of 10 000 trials that no other number shares."""
    path = folder / f"scale-{number}.yaml"
    rates = ", ".join(f"{1e-6 * n:.6f}" for n in range(1, 501))
    path.write_text(SPEC.format(number=number, steps=1000 + number, rates=rates))
    return path


def fill(store: Store, paths: list[Path]) -> None:
    """Commit every trial of every study, as one file per table, with weights."""
    plans = []
    for path in paths:
        spec = load_study(path)
        plans.append(plan_study(spec))
        save(store, spec, plans[-1])
    trials = [trial for plan in plans for trial in plan.trials]
    for table, rows_of in ROWS:
        write_table(store, table, (row for trial in trials for row in rows_of(trial)))
    for trial in trials:
        weights = Path(store.uri, "checkpoints", trial.trial_id, "weights.safetensors")
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"weights")


def save(store: Store, spec: StudySpec, plan: StudyPlan) -> None:
    """Record a study as `submit` does."""
    record = {"submissions": [{"at": NOW.isoformat(timespec="seconds"), "command": ["submit"]}]}
    store.save_study(
        spec.name,
        {
            "spec.yaml": spec.text.encode(),
            "provenance.json": json.dumps(record).encode(),
            "resolved.json": json.dumps(resolved(spec, plan), indent=1).encode(),
        },
    )


def write_table(store: Store, table: str, rows: Iterator[dict[str, object]]) -> None:
    """Write rows as one file, a part at a time."""
    schema = versioned(TABLES[table])
    path = Path(store.uri, table, "all.parquet")
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, schema) as writer:
        while part := list(islice(rows, 50_000)):
            writer.write_table(pa.Table.from_pylist(part, schema=schema))


def attempt_rows(trial: PlannedTrial) -> Iterator[dict[str, object]]:
    """Return the start and the end of a trial that went well."""
    about = {
        **keys(trial),
        "study": "scale",
        "host": "here",
        "pid": 1,
        "at": NOW,
        "step": 1000,
    }
    row = dict.fromkeys(TABLES["attempts"].names) | about
    yield row | {
        "event": "start",
        "step": 0,
        "config": trial.config.model_dump_json(),
        "versions": json.dumps({"python": "3.11.7", "torch": "2.13.0", "revision": "0" * 40}),
    }
    yield row | {"event": "end", "state": "done", "seconds": 12.5}


def evaluation_rows(trial: PlannedTrial) -> Iterator[dict[str, object]]:
    """Return an answer to every question."""
    for question in trial.questions:
        yield {
            **keys(trial),
            "length": question.length,
            "multiple": question.length / trial.config.train.max_length,
            "num_correct": question.num_total - int(trial.trial_id[:2], 16),
            "num_total": question.num_total,
            "chance": 0.5,
            "loss": int(trial.trial_id[:6], 16) / 2**24,
            "eval_seed": question.eval_seed,
            "seconds": 0.01,
            "committed_at": NOW,
        }


def metric_rows(trial: PlannedTrial) -> Iterator[dict[str, object]]:
    """Return a training curve of ten measurements."""
    for number, step in enumerate((1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)):
        loss = int(trial.trial_id[:6], 16) / 2**24 / (number + 1)
        yield {
            **keys(trial),
            "step": step,
            "train_loss": loss,
            "validation_loss": loss,
            "validation_num_correct": 500,
            "validation_num_total": 512,
            "learning_rate": trial.config.train.learning_rate,
            "gradient_norm": 1.0,
            "seconds": 0.1 * number,
        }


ROWS: tuple[tuple[str, Callable[[PlannedTrial], Iterator[dict[str, object]]]], ...] = (
    ("attempts", attempt_rows),
    ("evaluations", evaluation_rows),
    ("metrics", metric_rows),
)


def keys(trial: PlannedTrial) -> dict[str, object]:
    """Return what names the rows of a trial's only attempt."""
    return {
        "trial_id": trial.trial_id,
        "attempt_id": f"20260101T000000000000-{trial.trial_id[:6]}",
    }


def timed(work: Callable[[], object]) -> float:
    """Return how long ``work`` takes, in seconds."""
    clock = time.monotonic()
    work()
    return time.monotonic() - clock


def timed_command(arguments: list[str], store: Path) -> float:
    """Return how long a whole command takes, in seconds, the start of Python included."""
    script = Path(sys.executable).parent / "ldru-study"
    clock = time.monotonic()
    subprocess.run([script, *arguments, "--store", store], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - clock


def report(what: str, seconds: list[float]) -> None:
    """Print a median and all runs."""
    runs = ", ".join(f"{value:.2f}" for value in sorted(seconds))
    click.echo(f"{statistics.median(seconds):7.2f} s  {what}  ({runs})")


if __name__ == "__main__":
    main()
