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
    from ldru_study.spec.plan import StudyPlan
    from ldru_study.spec.study import StudySpec
    from ldru_study.training.estimate import CellEstimate, Estimate


@click.command()
@spec_argument
@json_option
def validate(spec: Path, changes: tuple[str, ...], as_json: bool) -> None:
    """Find every mistake in a study file at once.

    \b
    Example: ldru-study validate study_specs/quick.yaml
    """
    from ldru_study.spec.plan import plan_study
    from ldru_study.spec.study import load_study

    study = load_study(spec, changes)
    plan = plan_study(study)
    counts = {"study": study.name, "cells": len(study.cells), "trials": len(plan.trials)}
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
    from ldru_study.results.store import Store
    from ldru_study.spec.plan import plan_study
    from ldru_study.spec.study import load_study

    study = load_study(spec, changes)
    facts = read_facts(Store(store_uri))
    planned = plan_study(study, facts.holdings)
    estimate = None
    if is_estimated:
        # only now: without it a plan needs no torch
        from ldru_study.training.estimate import estimate_plan

        estimate = estimate_plan(study, planned, facts, say)
    if as_json:
        trials = _trials(planned)
        print_json({"trials": trials, "estimate": asdict(estimate)} if estimate else trials)
        return
    _print_cells(study, planned, estimate)
    say(f"{study.name}: {len(planned.trials)} trials, {len(planned.to_run)} to run.")
    if estimate:
        _say_total(estimate)


def _trials(planned: StudyPlan) -> list[dict[str, Any]]:
    return [
        {
            "cell": trial.cell.key,
            "trial_id": trial.trial_id,
            "seed": trial.config.seed,
            "state": trial.state,
            "lengths": [question.length for question in trial.questions],
            "missing": [question.length for question in trial.missing],
            "config": trial.config.model_dump(mode="json"),
        }
        for trial in planned.trials
    ]


def _print_cells(study: StudySpec, planned: StudyPlan, estimate: Estimate | None) -> None:
    columns = ["cell", "trials", "steps", "test lengths", "state"]
    known = {}
    if estimate:
        columns += ["time per trial", "memory per trial", "source"]
        known = {cell.cell: cell for cell in estimate.cells}
    rows = []
    for cell in study.cells:
        mine = [trial for trial in planned.trials if trial.cell is cell]
        lengths = [question.length for question in mine[0].questions]
        states = ", ".join(
            f"{sum(trial.state == state for trial in mine)} {words}"
            for state, words in _STATES.items()
            if any(trial.state == state for trial in mine)
        )
        shown = f"{lengths[0]} .. {lengths[-1]} ({len(lengths)})"
        row = [cell.key, len(mine), cell.config.train.steps, shown, states]
        if estimate:
            row += _cost(known[cell.key]) if cell.key in known else ["", "", ""]
        rows.append(row)
    print_table(columns, rows, right=("trials", "steps", "time per trial", "memory per trial"))


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
