"""`submit`: run what is missing of a study, then say what holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ldru_study.cli.analysis import print_verdicts
from ldru_study.cli.group import (
    FAILED,
    INTERRUPTED,
    console,
    json_option,
    say,
    spec_argument,
    store_option,
)

if TYPE_CHECKING:
    from ldru_study.execution.submit import Submission


@click.command()
@spec_argument
@store_option
@json_option
@click.option(
    "--retry-diverged",
    is_flag=True,
    help="Train trials again whose training ended in NaN; it would end so again unless the code "
    "has changed.",
)
def submit(
    spec: Path, changes: tuple[str, ...], store_uri: str, as_json: bool, retry_diverged: bool
) -> None:
    """Run what is missing of a study, then print a verdict for every cell.

    What the store holds already is never done again: the same command continues after any
    interruption, evaluates new multiples on saved weights, and trains only new seeds.

    Exits with 4 when a trial failed, with 130 when it was interrupted.

    \b
    Example: ldru-study submit study_specs/quick.yaml --set seeds=5
    """
    from ldru_study.execution.submit import prepare
    from ldru_study.results.store import Store
    from ldru_study.spec.study import load_study

    study = load_study(spec, changes)
    store = Store(store_uri)
    submission = prepare(study, store, sys.argv[1:], retry_diverged=retry_diverged)
    _announce(submission)
    if submission.plan.to_run and not _run(submission):
        left = len(submission.remaining().to_run)
        say(f"Interrupted with {left} trials left. The same command continues.")
        sys.exit(INTERRUPTED)
    is_whole = print_verdicts(store, study.name, as_json=as_json)
    sys.exit(0 if is_whole else FAILED)


def _announce(submission: Submission) -> None:
    plan, name = submission.plan, submission.spec.name
    to_train, to_evaluate = (len(plan.in_state(state)) for state in ("train", "evaluate"))
    say(
        f"{name}: {len(plan.trials)} trials in {len(submission.spec.cells)} cells; "
        f"{to_train} to train, {to_evaluate} to evaluate. Store: {submission.store.uri}"
    )
    if diverged := len(plan.in_state("diverged")):
        say(f"  {diverged} diverged before and are left alone; --retry-diverged tries again.")
    if running := len(plan.in_state("running")):
        say(f"  {running} run under another submit and are left to it.")


def _run(submission: Submission) -> bool:
    """Run the missing trials; False when the user interrupted."""
    from ldru_study.cli.progress import StudyProgress
    from ldru_study.execution.submit import works_of

    # only now: a finished study needs neither Ray nor torch
    from ldru_study.execution.tune import run_trials

    file, works = submission.spec.file, works_of(submission)
    with StudyProgress(submission.plan, console(err=True)) as progress:
        result = run_trials(works, file.resources, retries=file.retries, listener=progress)
    return len(result.done) + len(result.failed) == len(works)
