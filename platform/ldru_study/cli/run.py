"""Run a prepared study, or an agenda of its own, to its end, showing and logging how far it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import IO, TYPE_CHECKING, cast

from ldru_study.cli.group import console

if TYPE_CHECKING:
    from rich.console import Console

    from ldru_study.execution.brake import Brake
    from ldru_study.execution.budget import Budget
    from ldru_study.execution.submit import Submission
    from ldru_study.execution.tune import Listener, OrderBook, RunOptions, RunResult
    from ldru_study.training.work import Outcome, Progress, Work


def run_submission(
    submission: Submission,
    *,
    fail_fast: bool = False,
    address: str | None = None,
    job: tuple[str, str] = ("", ""),
) -> RunResult:
    """Run what is missing of a study.

    Args:
        submission: the planned study.
        fail_fast: stop at the first trial that fails.
        address: ``auto`` for the cluster that this process is part of, None for this machine.
        job: see `drive`.

    Raises:
        SpecError: one trial asks for more than this machine has.
        StoreError: the store cannot be written.
    """
    from ldru_study.cli.progress import StudyProgress
    from ldru_study.execution.agenda import Agenda
    from ldru_study.execution.budget import Budget

    # only now: a finished study needs neither Ray nor torch
    from ldru_study.execution.tune import RunOptions

    file = submission.spec.file
    num_seeds = len(file.seeds)
    return drive(
        submission,
        lambda screen: StudyProgress(submission.plan, screen, num_seeds=num_seeds),
        lambda brake, said: Agenda(submission, brake, said),
        RunOptions(file.resources, file.retries, fail_fast, address),
        budget=Budget(submission),
        job=job,
    )


def drive(
    submission: Submission,
    shown_on: Callable[[Console], AbstractContextManager[Listener]],
    agenda_of: Callable[[Brake, Callable[[str], None]], OrderBook],
    options: RunOptions,
    *,
    budget: Budget | None = None,
    job: tuple[str, str] = ("", ""),
) -> RunResult:
    """Run an agenda as a driver that can be watched and stopped through the store.

    Args:
        submission: whose trials they are.
        shown_on: makes who tells a screen, and the study's log, what happens.
        agenda_of: makes the agenda, with the brake that ends it and how it says something.
        options: how it is run.
        budget: pulls the brake when it is spent; None costs none.
        job: address and id of the Ray job that this process is.

    Raises:
        SpecError: one trial asks for more than this machine has.
        StoreError: the store cannot be written.
    """
    from rich.console import Console

    from ldru_study.execution.brake import Brake
    from ldru_study.execution.driver import Driver
    from ldru_study.execution.tune import run_trials
    from ldru_study.results.drivers import new_record

    store, brake = submission.store, Brake()
    job_address, job_id = job
    record = new_record(
        submission.spec.name, submission.submission_id, address=job_address, job_id=job_id
    )
    with Driver(store, record, brake, budget.spent if budget else lambda: None) as driver:
        # the log has the lines that a run without a terminal shows
        log = Console(file=cast(IO[str], driver.log), width=10_000, highlight=False)
        with shown_on(console(err=True)) as shown, shown_on(log) as logged:
            listeners = Listeners(shown, logged, *([budget] if budget else []))
            driver.say = listeners.said
            agenda = agenda_of(brake, listeners.said)
            result = run_trials(agenda, store, options, brake=brake, listener=listeners)
        if result.message:
            driver.log.write(f"The run ended: {result.message}.\n")
    return result


class Listeners:
    """Tells several listeners the same; none that cannot print ends the study.

    A terminal may be closed, and a disk have no room for a log, while the store is well.
    """

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners

    def started(self, work: Work) -> None:
        """An attempt began."""
        for listener in self.listeners:
            with suppress(OSError):
                listener.started(work)

    def progressed(self, work: Work, progress: Progress) -> None:
        """A trial is further on."""
        for listener in self.listeners:
            with suppress(OSError):
                listener.progressed(work, progress)

    def ended(self, work: Work, outcome: Outcome) -> None:
        """A trial is over, well or not."""
        for listener in self.listeners:
            with suppress(OSError):
                listener.ended(work, outcome)

    def said(self, text: str) -> None:
        """Something else is worth knowing."""
        for listener in self.listeners:
            with suppress(OSError):
                listener.said(text)
