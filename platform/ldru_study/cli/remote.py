"""`--address http://...`: send a study, or its refinement, to a cluster and follow it there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ldru_study.cli.analysis import print_verdicts
from ldru_study.cli.group import BUDGET, FAILED, INTERRUPTED, UNREACHABLE, console, print_json, say
from ldru_study.cli.submit import announce
from ldru_study.errors import StoreError

if TYPE_CHECKING:
    from ldru_study.execution.follow import Follower
    from ldru_study.execution.jobs import Jobs, JobState
    from ldru_study.execution.submit import Submission
    from ldru_study.results.store import Store
    from ldru_study.spec.study import StudySpec

_POLL_S = 1.0
_ASK_S = 3.0
_SIGNALLED = 128
# the job has ended well or badly, and said so in its own words
_OWN_CODES = (0, FAILED, BUDGET, INTERRUPTED)


def submit_remotely(
    study: StudySpec, store: Store, address: str, *, as_json: bool, flags: Mapping[str, bool]
) -> int:
    """Send a study to a cluster as a Ray job and return the exit code.

    Raises:
        UnreachableError: the cluster cannot be reached or refuses.
        SpecError: a cell cannot be evaluated.
        StoreError: the store cannot be read or written.
    """
    from ldru_study.cli.progress import StudyProgress
    from ldru_study.execution.follow import TrialFollower
    from ldru_study.execution.jobs import Jobs
    from ldru_study.execution.submit import new_record, prepare

    # first: for a cluster that is not there nothing is recorded
    jobs = Jobs(address)
    record = new_record(sys.argv[1:])
    submission = prepare(study, store, record, retry_diverged=flags["retry_diverged"])
    announce(submission)
    if submission.plan.is_complete and not flags["down_when_done"]:
        say(NOTHING_LEFT)
        return _verdicts(submission, as_json=as_json)
    job_id = send(jobs, submission, record, flags)
    if flags["no_wait"]:
        return leave(submission, job_id, as_json=as_json)

    def watch() -> JobState:
        num_seeds = len(study.file.seeds)
        with StudyProgress(submission.plan, console(err=True), num_seeds=num_seeds) as progress:
            return until_it_ends(jobs, job_id, TrialFollower(store, study.name, progress))

    return follow(submission, job_id, watch, lambda: _verdicts(submission, as_json=as_json))


NOTHING_LEFT = "Nothing is left to do; the cluster is not asked."
_FOR_THE_DRIVER = ("retry_diverged", "fail_fast", "down_when_done")


def send(
    jobs: Jobs,
    submission: Submission,
    record: dict[str, Any],
    flags: Mapping[str, bool],
    *,
    ratio: float | None = None,
) -> str:
    """Start a job that runs a submission, or refines its study to a ratio, and return its id.

    Raises:
        UnreachableError: the cluster does not take it.
    """
    from ldru_study.execution.jobs import JobOrder

    study = submission.spec
    job_id = f"{study.name}-{submission.submission_id}"
    jobs.send(
        JobOrder(
            spec=study.text,
            source=study.name,
            changes=study.changes,
            store=submission.store.uri,
            submission_id=submission.submission_id,
            provenance=record,
            address=jobs.address,
            job_id=job_id,
            flags={name: flags[name] for name in _FOR_THE_DRIVER if name in flags},
            ratio=ratio,
        )
    )
    say(f"Sent to {jobs.address} as job {job_id}.")
    return job_id


def leave(submission: Submission, job_id: str, *, as_json: bool) -> int:
    """Say how a job that is not waited for can be followed, and return the exit code."""
    name = submission.spec.name
    if as_json:
        print_json({"study": name, "job_id": job_id, "store": submission.store.uri})
    say(f"`ldru-study status {name}`, `logs -f` and `stop` follow it from anywhere.")
    return 0


def follow(
    submission: Submission,
    job_id: str,
    watch: Callable[[], JobState],
    conclude: Callable[[], int],
) -> int:
    """Wait until a job is over and return the exit code.

    Args:
        submission: what the job runs.
        job_id: of the job.
        watch: shows what happens and returns how the job ended.
        conclude: prints what came of it and returns the exit code of that.

    Raises:
        UnreachableError: neither the cluster nor the driver gives a sign of life.
    """
    name = submission.spec.name
    try:
        ended = watch()
    except KeyboardInterrupt:
        say(f"The study goes on without you. `ldru-study stop {name}` stops it.")
        return INTERRUPTED
    if ended.exit_code in _OWN_CODES and ended.state != "stopped":
        if ended.exit_code == INTERRUPTED:
            say("The study was stopped. The same command continues.")
            return INTERRUPTED
        code = conclude()
        if ended.exit_code == BUDGET:
            say("Stopped: the budget is spent. Raise it, and the same command continues.")
        return ended.exit_code or code
    say(f"Job {job_id} {ended.state}: {ended.message}")
    if ended.log:
        say("Its last lines:\n" + "\n".join(f"  {line}" for line in ended.log.splitlines()))
    if "No module named" in ended.log:
        say(
            "The head's `python` lacks a package. Start Ray there from the environment that "
            "constraints.txt makes, so that this one is first on its PATH."
        )
    say("The same command continues.")
    return _exit_code(ended.exit_code)


def _exit_code(code: int | None) -> int:
    """Return what a command ends with when its job did not end by itself, or could not begin.

    Args:
        code: of the driver's process; None without one. By its shell, a signal is 128 more.
    """
    was_killed = code is not None and (code < 0 or code > _SIGNALLED)
    return INTERRUPTED if was_killed else (code or UNREACHABLE)


def until_it_ends(jobs: Jobs, job_id: str, follower: Follower) -> JobState:
    """Tell what happens until the job is over, and return how it ended.

    Raises:
        UnreachableError: neither the cluster nor the driver gives a sign of life.
    """
    from ldru_study.execution.jobs import UnreachableError

    last_asked, is_away = time.monotonic(), False
    while True:
        try:
            follower.poll()
        except StoreError as error:
            follower.listener.said(f"{error}")
        if time.monotonic() - last_asked >= _ASK_S:
            last_asked = time.monotonic()
            try:
                state = jobs.state(job_id)
                is_away = False
            except UnreachableError as error:
                if not is_away:
                    follower.listener.said(f"{error} Until then this goes by the store.")
                is_away = True
                if not follower.is_driven():
                    raise
                continue
            if state.is_over:
                follower.poll()
                return state
        time.sleep(_POLL_S)


def _verdicts(submission: Submission, *, as_json: bool) -> int:
    is_whole = print_verdicts(submission.store, submission.spec.name, as_json=as_json)
    return 0 if is_whole else FAILED
