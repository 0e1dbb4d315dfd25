"""`refine`: find each failure more closely, from saved weights."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import click

from ldru_study.cli.analysis import study_name
from ldru_study.cli.group import (
    FAILED,
    INTERRUPTED,
    console,
    json_option,
    print_json,
    print_table,
    say,
    store_option,
)

if TYPE_CHECKING:
    from typing import IO

    from ldru_study.analysis.bisection import Bisection
    from ldru_study.execution.refine import NextLength, Refining, Rows
    from ldru_study.execution.submit import Submission
    from ldru_study.execution.tune import RunResult
    from ldru_study.spec.plan import PlannedTrial
    from ldru_study.training.work import Outcome, Progress, Work


@click.command()
@click.argument("study")
@store_option
@json_option
@click.option(
    "--ratio",
    type=click.FloatRange(min=1, min_open=True),
    default=1.05,
    show_default=True,
    help="Ask until the longest length that holds and the shortest that fails are this near.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be asked, and run nothing.")
def refine(study: str, store_uri: str, as_json: bool, ratio: float, dry_run: bool) -> None:
    """Bisect the failure of every trial between two tested lengths, without any training.

    STUDY is a study's name or its YAML file. The saved weights answer the same number of strings
    at each new length; from then on verdicts use these lengths too. Trials without a sure failure
    have nothing to bisect. The same command continues after an interruption, and a smaller ratio
    later goes on from there. Exits with 4 when an evaluation failed.

    \b
    Example: ldru-study refine quick --ratio 1.05
    """
    from ldru_study.execution.refine import prepare_refinement
    from ldru_study.execution.submit import new_record
    from ldru_study.results.store import Store

    store, name = Store(store_uri), study_name(study)
    record = new_record(sys.argv[1:])
    submission, trials, without = prepare_refinement(store, name, record, is_recorded=not dry_run)
    before = [bisection_of(submission, one.trial, one.rows, ratio) for one in trials]
    most = sum(found.num_left(ratio) for found in before if found)
    open_ones = sum(found is not None and found.next_length is not None for found in before)
    say(f"{name}: {open_ones} of {len(trials)} trials to bisect, about {most} evaluations.")
    if without:
        say(f"  {len(without)} trials have no weights yet. `ldru-study submit` trains them.")
    result = None
    if open_ones and not dry_run:
        result = _run(submission, trials, ratio)
    after = [bisection_of(submission, one.trial, one.rows, ratio) for one in trials]
    _print(trials, before, after, ratio, as_json=as_json)
    if result is not None and result.reason in ("interrupted", "stopped"):
        say(f"{result.reason.capitalize()}. The same command continues.")
        sys.exit(INTERRUPTED)
    sys.exit(FAILED if result is not None and result.failed else 0)


def bisection_of(
    submission: Submission, trial: PlannedTrial, rows: Rows, ratio: float
) -> Bisection | None:
    """Say where a trial fails by its rows, and which length would tell it better."""
    import numpy as np

    from ldru_study.analysis.bisection import bisect_failure
    from ldru_study.analysis.counts import LengthCurve
    from ldru_study.tasks.registry import find_task
    from ldru_study.tasks.sampling import BalancedSampler

    if not rows:
        return None
    counts = ("length", "num_correct", "num_total")
    length, num_correct, num_total = (np.array([row[name] for row in rows]) for name in counts)
    chance = np.array([row["chance"] for row in rows], dtype=float)
    config = trial.config
    return bisect_failure(
        LengthCurve(config.seed, config.train.max_length, length, num_correct, num_total, chance),
        level=submission.spec.file.analysis.learned_level,
        ratio=ratio,
        nearest_covered=BalancedSampler(find_task(config.task).automaton).nearest_covered,
    )


def _run(submission: Submission, trials: list[Refining], ratio: float) -> RunResult:
    from rich.console import Console

    from ldru_study.execution.brake import Brake
    from ldru_study.execution.driver import Driver
    from ldru_study.execution.refine import Refinement
    from ldru_study.execution.tune import RunOptions, run_trials
    from ldru_study.results.drivers import new_record

    def next_length(trial: PlannedTrial, rows: Rows) -> int | None:
        found = bisection_of(submission, trial, rows, ratio)
        return found.next_length if found else None

    chooser: NextLength = next_length
    file, store, brake = submission.spec.file, submission.store, Brake()
    record = new_record(submission.spec.name, submission.submission_id)
    options = RunOptions(file.resources, file.retries)
    # a run that trains nothing costs no budget
    with Driver(store, record, brake, lambda: None) as driver:
        log = Console(file=cast("IO[str]", driver.log), width=10_000, highlight=False)
        listener = _Lines(console(err=True), log)
        driver.say = listener.said
        agenda = Refinement(submission, trials, chooser, brake)
        return run_trials(agenda, store, options, brake=brake, listener=listener)


class _Lines:
    """Says of every evaluation that it is done, on stderr and in the study's log."""

    def __init__(self, *consoles: Any) -> None:
        self.consoles = consoles

    def started(self, work: Work) -> None:
        """Say nothing: it takes seconds."""

    def progressed(self, work: Work, progress: Progress) -> None:
        """Say nothing: nothing is trained."""

    def ended(self, work: Work, outcome: Outcome) -> None:
        """Say which length was answered, or why not."""
        who = f"{work.cell} seed {work.config.seed}, {work.questions[0].length} tokens"
        how = "done" if outcome.state == "done" else f"{outcome.cause}: {outcome.message}"
        self.said(f"{who}: {how}")

    def said(self, text: str) -> None:
        """Print a line."""
        for one in self.consoles:
            one.print(text, markup=False, soft_wrap=True)


def _print(
    trials: list[Refining],
    before: list[Bisection | None],
    after: list[Bisection | None],
    ratio: float,
    *,
    as_json: bool,
) -> None:
    rows = [
        {
            "cell": one.trial.cell.key,
            "seed": one.trial.config.seed,
            "num_evaluated": one.num_asked,
            "before": _ends(first),
            "after": _ends(last),
            "ratio": None if last is None else round(last.ratio, 4),
            "num_left": 0 if last is None else last.num_left(ratio),
        }
        for one, first, last in zip(trials, before, after, strict=True)
    ]
    if as_json:
        print_json(rows)
        return
    columns = ("cell", "seed", "held and failed before", "now", "ratio", "evaluated", "left")
    print_table(
        columns,
        [
            (
                row["cell"],
                row["seed"],
                _shown(row["before"]),
                _shown(row["after"]),
                row["ratio"],
                row["num_evaluated"],
                row["num_left"],
            )
            for row in rows
        ],
        right=("seed", "ratio", "evaluated", "left"),
    )


def _ends(found: Bisection | None) -> list[int] | None:
    return None if found is None else [found.holds_at, found.fails_at]


def _shown(ends: Any) -> str:
    return "no failure to bisect" if ends is None else f"{ends[0]} to {ends[1]} tokens"
