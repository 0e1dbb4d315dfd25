"""`submit`: run what is missing of a study, here or on a cluster, then say what holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ldru_study.cli.analysis import print_verdicts
from ldru_study.cli.destination import destination, destination_options
from ldru_study.cli.group import (
    BUDGET,
    FAILED,
    INTERRUPTED,
    json_option,
    say,
    spec_argument,
    store_option,
)

if TYPE_CHECKING:
    from ldru_study.execution.submit import Submission
    from ldru_study.execution.tune import RunResult


@click.command()
@spec_argument
@store_option
@json_option
@destination_options
@click.option("--fail-fast", is_flag=True, help="Stop at the first trial that fails.")
@click.option(
    "--retry-diverged",
    is_flag=True,
    help="Train trials again whose training ended in NaN; it would end so again unless the code "
    "has changed.",
)
def submit(
    spec: Path,
    changes: tuple[str, ...],
    store_uri: str,
    as_json: bool,
    address: str | None,
    **flags: bool,
) -> None:
    """Run what is missing of a study, then print a verdict for every cell.

    What the store holds already is never done again: the same command continues after any
    interruption, evaluates new multiples on saved weights, and trains only new seeds.

    Exits with 4 when a trial failed, with 5 when the budget is spent, with 6 when the cluster
    cannot be reached, with 130 when it was interrupted.

    \b
    Example: ldru-study submit study_specs/quick.yaml --set seeds=5
    Example: ldru-study submit study_specs/length_sweep.yaml --address http://127.0.0.1:8265 \\
               --store s3://bucket/studies --no-wait
    """
    from ldru_study.execution.submit import new_record, prepare
    from ldru_study.results.store import Store
    from ldru_study.spec.study import load_study

    where = destination(address, flags)
    study = load_study(spec, changes)
    store = Store(store_uri)
    if where == "job":
        from ldru_study.cli.remote import submit_remotely

        sys.exit(submit_remotely(study, store, str(address), as_json=as_json, flags=flags))
    record = new_record(sys.argv[1:])
    submission = prepare(study, store, record, retry_diverged=flags["retry_diverged"])
    sys.exit(run_here(submission, as_json=as_json, fail_fast=flags["fail_fast"], address=where))


def run_here(
    submission: Submission,
    *,
    as_json: bool,
    fail_fast: bool,
    address: str | None,
    job: tuple[str, str] = ("", ""),
) -> int:
    """Run a submission in this process, print what came of it and return the exit code."""
    announce(submission)
    result = None
    if not submission.plan.is_complete:
        from ldru_study.cli.run import run_submission

        result = run_submission(submission, fail_fast=fail_fast, address=address, job=job)
    return conclude(submission, result, as_json=as_json)


def announce(submission: Submission) -> None:
    """Say what a submission is about to do."""
    plan, name = submission.plan, submission.spec.name
    to_train, to_evaluate = (len(plan.in_state(state)) for state in ("train", "evaluate"))
    say(
        f"{name}: {len(plan.trials)} trials in {len(submission.spec.cells)} cells; "
        f"{to_train} to train, {to_evaluate} to evaluate. Store: {submission.store.uri}"
    )
    if searches := plan.open_searches:
        left = sum(search.num_trials - len(search.suggestions) for search in searches)
        say(f"  {len(searches)} cells are searched first, with {left} more settings.")
    if diverged := len(plan.in_state("diverged")):
        say(f"  {diverged} diverged before and are left alone; --retry-diverged tries again.")
    if running := len(plan.in_state("running")):
        say(f"  {running} run under another submit and are left to it.")


def conclude(submission: Submission, result: RunResult | None, *, as_json: bool) -> int:
    """Print the verdicts of a run that was not interrupted, and return the exit code."""
    reason = result.reason if result else None
    if result is not None and reason in ("interrupted", "stopped"):
        left = submission.remaining()
        searching = ", and searches go on" if left.open_searches else ""
        say(
            f"{reason.capitalize()} with {len(left.to_run)} trials left{searching}. "
            "The same command continues."
        )
        return INTERRUPTED
    is_whole = print_verdicts(submission.store, submission.spec.name, as_json=as_json)
    if result is not None and reason == "budget":
        say(f"Stopped: {result.message}. Raise it, and the same command continues.")
        return BUDGET
    if result is not None and reason == "failed":
        say(f"Stopped: {result.message}. The same command continues.")
        return FAILED
    if result is not None and (unfinished := submission.remaining().open_searches):
        say(f"{len(unfinished)} searches are not over: a machine failed them, or another submit")
        say("  runs their trials. The same command goes on with them.")
        return FAILED
    return 0 if is_whole else FAILED
