"""`validate`, `plan` and `schema`: everything about a study file that needs no training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    from ldru_study.spec.plan import PlannedTrial


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
def plan(spec: Path, changes: tuple[str, ...], store_uri: str, as_json: bool) -> None:
    """Show a study's cells and trials, and what the store already holds of them.

    \b
    Example: ldru-study plan study_specs/quick.yaml --set seeds=5
    """
    from ldru_study.results.facts import read_facts
    from ldru_study.results.store import Store
    from ldru_study.spec.plan import plan_study
    from ldru_study.spec.study import load_study

    study = load_study(spec, changes)
    planned = plan_study(study, read_facts(Store(store_uri)).holdings)
    if as_json:
        print_json(
            [
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
        )
        return
    rows = []
    of_cell: dict[str, list[PlannedTrial]] = {}
    for trial in planned.trials:
        of_cell.setdefault(trial.cell.key, []).append(trial)
    for cell in study.cells:
        mine = of_cell[cell.key]
        lengths = [question.length for question in mine[0].questions]
        states = ", ".join(
            f"{sum(trial.state == state for trial in mine)} {words}"
            for state, words in _STATES.items()
            if any(trial.state == state for trial in mine)
        )
        shown = f"{lengths[0]} .. {lengths[-1]} ({len(lengths)})"
        rows.append((cell.key, len(mine), cell.config.train.steps, shown, states))
    print_table(
        ("cell", "trials", "steps", "test lengths", "state"), rows, right=("trials", "steps")
    )
    say(f"{study.name}: {len(planned.trials)} trials, {len(planned.to_run)} to run.")


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
