"""`refine`: find each failure more closely, from saved weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ldru_study.cli.analysis import study_name
from ldru_study.cli.destination import destination, destination_options
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
    from rich.console import Console

    from ldru_study.analysis.bisection import Bisection
    from ldru_study.execution.jobs import Jobs, JobState
    from ldru_study.execution.refine import NextLength, Refining, Rows
    from ldru_study.execution.submit import Submission
    from ldru_study.execution.tune import RunResult
    from ldru_study.spec.plan import PlannedTrial
    from ldru_study.training.work import Outcome, Progress, Work


@click.command()
@click.argument("study")
@store_option
@json_option
@destination_options
@click.option(
    "--ratio",
    type=click.FloatRange(min=1, min_open=True),
    default=1.05,
    show_default=True,
    help="Ask until the longest length that holds and the shortest that fails are this near.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be asked, and run nothing anywhere.")
def refine(
    study: str,
    store_uri: str,
    as_json: bool,
    address: str | None,
    ratio: float,
    **flags: bool,
) -> None:
    """Bisect the failure of every trial between two tested lengths, without any training.

    STUDY is a study's name or its YAML file. The saved weights answer the same number of strings
    at each new length; from then on verdicts use these lengths too. Trials without a sure failure
    have nothing to bisect. The same command continues after an interruption, and a smaller ratio
    later goes on from there.

    Exits with 4 when an evaluation failed, with 6 when the cluster cannot be reached, with 130 when
    it was interrupted.

    \b
    Example: ldru-study refine quick --ratio 1.05
    Example: ldru-study refine length-sweep --address http://127.0.0.1:8265 \\
               --store s3://bucket/studies --no-wait
    """
    from ldru_study.execution.refine import prepare_refinement
    from ldru_study.execution.submit import new_record
    from ldru_study.results.store import Store

    where, runs = destination(address, flags), not flags["dry_run"]
    store, name, jobs = Store(store_uri), study_name(study), None
    if where == "job" and runs:
        from ldru_study.execution.jobs import Jobs

        # first: for a cluster that is not there nothing is recorded
        jobs = Jobs(str(address))
    record = new_record(sys.argv[1:])
    submission, trials, without = prepare_refinement(store, name, record, is_recorded=runs)
    aim = Aim(submission, trials, ratio)
    before = aim.found()
    aim.announce(before, len(without))
    if not runs:
        aim.print(before, before, as_json=as_json)
    elif jobs is None:
        sys.exit(refine_here(aim, before, as_json=as_json, address=where))
    else:
        sys.exit(_refine_remotely(aim, before, jobs, record, as_json=as_json, flags=flags))


@dataclass
class Aim:
    """The trials of a study and the ratio to which their failures are bisected."""

    submission: Submission
    trials: list[Refining]
    ratio: float

    def found(self) -> list[Bisection | None]:
        """Return where each trial fails by what it has answered."""
        return [
            bisection_of(self.submission, one.trial, one.rows, self.ratio) for one in self.trials
        ]

    def announce(self, before: Sequence[Bisection | None], num_without: int) -> None:
        """Say how much there is to do, and how many trials have no weights."""
        most = sum(found.num_left(self.ratio) for found in before if found)
        num_open = sum(found is not None and found.next_length is not None for found in before)
        say(
            f"{self.submission.spec.name}: {num_open} of {len(self.trials)} trials to bisect, "
            f"about {most} evaluations."
        )
        if num_without:
            say(f"  {num_without} trials have no weights yet. `ldru-study submit` trains them.")

    def print(
        self,
        before: Sequence[Bisection | None],
        after: Sequence[Bisection | None],
        *,
        as_json: bool,
    ) -> None:
        """Print a row per trial."""
        rows = [
            {
                "cell": one.trial.cell.key,
                "seed": one.trial.config.seed,
                "num_evaluated": one.num_asked,
                "before": _ends(first),
                "after": _ends(last),
                "ratio": None if last is None else round(last.ratio, 4),
                "num_left": 0 if last is None else last.num_left(self.ratio),
            }
            for one, first, last in zip(self.trials, before, after, strict=True)
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


def refine_here(
    aim: Aim,
    before: Sequence[Bisection | None],
    *,
    as_json: bool,
    address: str | None,
    job: tuple[str, str] = ("", ""),
) -> int:
    """Bisect in this process, print what came of it and return the exit code."""
    result = _run(aim, address, job) if _is_open(before) else None
    aim.print(before, aim.found(), as_json=as_json)
    if result is not None and result.reason in ("interrupted", "stopped"):
        say(f"{result.reason.capitalize()}. The same command continues.")
        return INTERRUPTED
    if result is not None and result.reason == "failed":
        say(f"Stopped: {result.message}. The same command continues.")
        return FAILED
    return FAILED if result is not None and result.failed else 0


def _refine_remotely(
    aim: Aim,
    before: Sequence[Bisection | None],
    jobs: Jobs,
    record: dict[str, Any],
    *,
    as_json: bool,
    flags: Mapping[str, bool],
) -> int:
    """Send a refinement to a cluster as a Ray job and return the exit code."""
    from ldru_study.cli import remote
    from ldru_study.execution.follow import LogFollower
    from ldru_study.execution.refine import prepare_refinement

    submission = aim.submission
    store, name = submission.store, submission.spec.name
    if not _is_open(before) and not flags["down_when_done"]:
        say(remote.NOTHING_LEFT)
        aim.print(before, before, as_json=as_json)
        return 0
    job_id = remote.send(jobs, submission, record, flags, ratio=aim.ratio)
    if flags["no_wait"]:
        return remote.leave(submission, job_id, as_json=as_json)

    def watch() -> JobState:
        shown = _Lines(console(err=True))
        follower = LogFollower(store, name, shown, submission.submission_id)
        return remote.until_it_ends(jobs, job_id, follower)

    def conclude() -> int:
        _, trials, _ = prepare_refinement(store, name, record, is_recorded=False)
        known = {one.trial.trial_id: one for one in trials}
        # asked about by somebody else or not: trials with weights keep them
        for one in aim.trials:
            now = known.get(one.trial.trial_id)
            if now is not None:
                one.num_asked = now.num_answered - one.num_answered
                one.rows = now.rows
        if gone := sum(one.trial.trial_id not in known for one in aim.trials):
            say(
                f"{name}: the study has changed since: it was submitted again without {gone} of "
                "these trials, which are shown as they were before."
            )
        aim.print(before, aim.found(), as_json=as_json)
        return 0

    return remote.follow(submission, job_id, watch, conclude)


def _is_open(found: Sequence[Bisection | None]) -> bool:
    return any(one is not None and one.next_length is not None for one in found)


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


def _run(aim: Aim, address: str | None, job: tuple[str, str]) -> RunResult:
    from ldru_study.cli.run import drive
    from ldru_study.execution.refine import Refinement
    from ldru_study.execution.tune import RunOptions

    def next_length(trial: PlannedTrial, rows: Rows) -> int | None:
        found = bisection_of(aim.submission, trial, rows, aim.ratio)
        return found.next_length if found else None

    chooser: NextLength = next_length
    file = aim.submission.spec.file
    # a run that trains nothing costs no budget
    return drive(
        aim.submission,
        _Lines,
        lambda brake, _: Refinement(aim.submission, aim.trials, chooser, brake),
        RunOptions(file.resources, file.retries, address=address),
        job=job,
    )


class _Lines(AbstractContextManager["_Lines"]):
    """Says of every evaluation that it is done, on a screen or in the study's log."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen

    def __exit__(self, *_: object) -> None:
        """Leave nothing to undo: there is no live display."""

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
        self.screen.print(text, markup=False, soft_wrap=True)


def _ends(found: Bisection | None) -> list[int] | None:
    return None if found is None else [found.holds_at, found.fails_at]


def _shown(ends: Any) -> str:
    return "no failure to bisect" if ends is None else f"{ends[0]} to {ends[1]} tokens"
