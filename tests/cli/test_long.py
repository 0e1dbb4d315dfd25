"""The study of long strings, shrunk to two cores: submit, Tune, workers, DeepSpeed, verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ldru_study.cli import main
from ldru_study.results.facts import read_facts
from ldru_study.results.store import Store
from ldru_study.spec.study import load_study

SPEC = Path(__file__).parents[2] / "study_specs" / "long.yaml"
SHRUNK = {
    "grid.task": "[parity_check]",
    "grid.train.engine.precision": "[bf16]",
    "grid.model[0].width": 8,
    "grid.model[1].width": 8,
    "grid.model[2].width": 8,
    "grid.model[2].heads": 2,
    "grid.model[2].layers": 2,
    "train.max_length": 64,
    "train.steps": 40,
    "train.batch_size": 8,
    "train.curriculum.start_length": 4,
    "evaluate.multiples": "[1, 2, 8]",
    "evaluate.strings": 32,
    "evaluate.validation_strings": 32,
    "seeds": 1,
    "resources.gpus": 0,
}


def test_the_study_asks_what_it_should():
    spec = load_study(SPEC)
    assert {cell.config.train.workers for cell in spec.cells} == {2}
    assert {cell.config.train.max_length for cell in spec.cells} == {4096}
    longest = spec.file.evaluate.multiples[-1] * 4096
    assert longest == 1_048_576
    assert {cell.config.model.kind for cell in spec.cells} == {"ldru", "lstm", "transformer"}


@pytest.mark.slow
def test_a_long_study_runs_on_two_cores(tmp_path):
    store, changes = Store(str(tmp_path / "results")), []
    for place, value in SHRUNK.items():
        changes += ["--set", f"{place}={value}"]
    command = ["submit", str(SPEC), "--store", store.uri, *changes]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    facts = read_facts(store)
    starts = [row for row in facts.attempts.to_pylist() if row["event"] == "start"]
    configs = [json.loads(row["config"])["train"] for row in starts]
    shared = sorted((train["sequence_parallel"], train["data_parallel"]) for train in configs)
    assert shared == [(1, 2), (1, 2), (2, 1)]
    assert {row["cpus"] for row in starts} == {2.0}
    # DeepSpeed's own configuration is kept with every attempt
    kept = [json.loads(row["versions"])["deepspeed"] for row in starts]
    assert all(each["zero_optimization"] == {"stage": 1} for each in kept)
    assert all(each["bf16"] == {"enabled": True} for each in kept)
    rows = facts.evaluations.to_pylist()
    assert sorted(row["length"] for row in rows) == sorted(3 * [64, 128, 512])
    assert {row["num_total"] for row in rows} == {32}
    judged = CliRunner().invoke(
        main, ["analyze", "verdicts", "long", "--store", store.uri, "--json"]
    )
    assert judged.exit_code == 0, judged.output
    cells = json.loads(judged.output)["cells"]
    assert [cell["num_seeds"] for cell in cells] == [1, 1, 1]
