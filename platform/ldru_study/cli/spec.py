"""`validate`, `plan` and `schema`: everything about a study file that needs no training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldru_study.cli.group import (
    json_option,
    print_json,
    print_table,
    say,
    spec_argument,
    store_option,
)

if TYPE_CHECKING:
    from ldru_study.spec.plan import CellPlan, StudyPlan
    from ldru_study.training.estimate import CellEstimate, Estimate


@click.command()
@spec_argument
@json_option
def validate(spec: Path, changes: tuple[str, ...], as_json: bool) -> None:
    """Find every mistake in a study file at once.

    \b
    Example: ldru-study validate study_specs/quick.yaml
    """
    from ldru_study.spec.plan import expected_plan, plan_study
    from ldru_study.spec.study import load_study

    study = load_study(spec, changes)
    plan = plan_study(study)
    expected = expected_plan(study, plan)
    counts = {"study": study.name, "cells": len(study.cells), "trials": len(expected.trials)}
    if as_json:
        print_json(counts)
    else:
        say(f"{spec}: valid. {counts['cells']} cells, {counts['trials']} trials.")


@click.command()
@spec_argument
@store_option
@json_option
@click.option(
    "--estimate",
    "is_estimated",
    is_flag=True,
    help="Estimate time and memory on this machine, by a few steps of every kind of trial that "
    "the store has no times of; takes seconds for each.",
)
def plan(
    spec: Path, changes: tuple[str, ...], store_uri: str, as_json: bool, is_estimated: bool
) -> None:
    """Show a study's cells and trials, and what the store already holds of them.

    \b
    Example: ldru-study plan study_specs/quick.yaml --set seeds=5 --estimate
    """
    from ldru_study.results.facts import read_facts
    from ldru_study.results.searches import holdings_for
    from ldru_study.results.store import Store
    from ldru_study.spec.plan import expected_plan, plan_study
    from ldru_study.spec.study import load_study

    study = load_study(spec, changes)
    store = Store(store_uri)
    facts = read_facts(store)
    planned = plan_study(study, holdings_for(store, facts, study))
    expected = expected_plan(study, planned)
    estimate = None
    if is_estimated:
        # only now: without it a plan needs no torch
        from ldru_study.training.estimate import estimate_plan

        estimate = estimate_plan(study, expected, facts, say)
    if as_json:
        trials = _trials(planned)
        print_json({"trials": trials, "estimate": asdict(estimate)} if estimate else trials)
        return
    _print_cells(planned, expected, estimate)
    say(f"{study.name}: {len(expected.trials)} trials, {len(expected.to_run)} to run.")
    if estimate:
        _say_total(estimate)


def _trials(planned: StudyPlan) -> list[dict[str, Any]]:
    return [
        {
            "cell": trial.cell.key,
            "trial_id": trial.trial_id,
            "seed": trial.config.seed,
            "suggestion": trial.suggestion,
            "state": trial.state,
            "lengths": [question.length for question in trial.questions],
            "missing": [question.length for question in trial.missing],
            "config": trial.config.model_dump(mode="json"),
        }
        for trial in planned.trials
    ]


def _print_cells(planned: StudyPlan, expected: StudyPlan, estimate: Estimate | None) -> None:
    columns = ["cell", "trials", "steps", "test lengths", "state"]
    known = {}
    if estimate:
        columns += ["time per trial", "memory per trial", "source"]
        known = {cell.cell: cell for cell in estimate.cells}
    rows = []
    for cell, whole in zip(planned.cells, expected.cells, strict=True):
        key, lengths = cell.cell.key, [question.length for question in cell.questions]
        shown = f"{lengths[0]} .. {lengths[-1]} ({len(lengths)})"
        steps = cell.cell.config.train.steps
        row = [key, len(whole.trials), steps, shown, _state_of(cell)]
        if estimate:
            row += _cost(known[key]) if key in known else ["", "", ""]
        rows.append(row)
    print_table(columns, rows, right=("trials", "steps", "time per trial", "memory per trial"))


def _state_of(cell: CellPlan) -> str:
    search = cell.search
    words = []
    if search is not None:
        done = sum(one.is_over for one in search.suggestions)
        oracle = " (oracle)" if search.is_oracle else ""
        words.append(f"{done} of {search.num_trials} settings searched{oracle}")
    judged = [trial for trial in cell.trials if trial.suggestion is None]
    for state, text in _STATES.items():
        if count := sum(trial.state == state for trial in judged):
            words.append(f"{count} {text}")
    return ", ".join(words)


def _cost(cell: CellEstimate) -> list[str]:
    from ldru_study.cli.progress import duration

    return [
        "" if cell.trial_s is None else duration(cell.trial_s),
        "" if cell.memory_mib is None else f"{cell.memory_mib:.0f} MiB",
        cell.source,
    ]


def _say_total(estimate: Estimate) -> None:
    from ldru_study.cli.progress import duration

    unknown = sum(cell.total_s is None for cell in estimate.cells)
    more = f", and {unknown} cells of unknown length" if unknown else ""
    memory = ""
    if estimate.memory_mib is not None:
        memory = f", {estimate.memory_mib / 1024:.1f} GiB of memory in all"
    packing = (
        f"{estimate.at_once} trials at once" if estimate.at_once > 1 else "one trial at a time"
    )
    say(
        f"Estimate: {duration(estimate.total_s)}{more} on this machine, {packing}{memory}.\n"
        "  measured: from a few steps, validations and strings, longer strings extrapolated;\n"
        "  recorded: the median of trials of the same cell on this machine. Ray's start and end\n"
        "  come on top, and other work on this machine makes it longer."
    )


_STATES = {
    "done": "done",
    "evaluate": "to evaluate",
    "train": "to train",
    "running": "running elsewhere",
    "diverged": "diverged",
}


@click.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors.

    \b
    Example: ldru-study schema > study.schema.json
    Then, first line of a study:  # yaml-language-server: $schema=study.schema.json
    """
    from ldru_study.spec.schema import json_schema

    print_json(json_schema())
