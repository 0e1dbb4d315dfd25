"""`submit --address http://...`: send a study to a cluster and follow it there."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

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
    study: StudySpec, store: Store, address: str, *, as_json: bool, flags: dict[str, bool]
) -> int:
    """Send a study to a cluster as a Ray job and return the exit code.

    Raises:
        UnreachableError: the cluster cannot be reached or refuses.
        SpecError: a cell cannot be evaluated.
        StoreError: the store cannot be read or written.
    """
    from ldru_study.execution.jobs import JobOrder, Jobs
    from ldru_study.execution.submit import new_record, prepare

    # first: for a cluster that is not there nothing is recorded
    jobs = Jobs(address)
    record = new_record(sys.argv[1:])
    submission = prepare(study, store, record, retry_diverged=flags["retry_diverged"])
    announce(submission)
    if submission.plan.is_complete and not flags["down_when_done"]:
        say("Nothing is left to do; the cluster is not asked.")
        return _verdicts(submission, as_json=as_json)
    job_id = f"{study.name}-{submission.submission_id}"
    jobs.send(
        JobOrder(
            spec=study.text,
            source=study.name,
            changes=study.changes,
            store=store.uri,
            submission_id=submission.submission_id,
            provenance=record,
            address=jobs.address,
            job_id=job_id,
            flags={name: flags[name] for name in _FOR_THE_DRIVER},
        )
    )
    say(f"Sent to {jobs.address} as job {job_id}.")
    if flags["no_wait"]:
        if as_json:
            print_json({"study": study.name, "job_id": job_id, "store": store.uri})
        say(f"`ldru-study status {study.name}`, `logs -f` and `stop` follow it from anywhere.")
        return 0
    return _follow(jobs, job_id, submission, as_json=as_json)


_FOR_THE_DRIVER = ("retry_diverged", "fail_fast", "down_when_done")


def _follow(jobs: Jobs, job_id: str, submission: Submission, *, as_json: bool) -> int:
    from ldru_study.cli.progress import StudyProgress
    from ldru_study.execution.follow import Follower

    name = submission.spec.name
    num_seeds = len(submission.spec.file.seeds)
    try:
        with StudyProgress(submission.plan, console(err=True), num_seeds=num_seeds) as progress:
            ended = _until_it_ends(jobs, job_id, Follower(submission.store, name, progress))
    except KeyboardInterrupt:
        say(f"The study goes on without you. `ldru-study stop {name}` stops it.")
        return INTERRUPTED
    if ended.exit_code in _OWN_CODES and ended.state != "stopped":
        if ended.exit_code == INTERRUPTED:
            say("The study was stopped. The same command continues.")
            return INTERRUPTED
        code = _verdicts(submission, as_json=as_json)
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
    """Return what `submit` ends with when its job did not end by itself, or could not begin.

    Args:
        code: of the driver's process; None without one. By its shell, a signal is 128 more.
    """
    was_killed = code is not None and (code < 0 or code > _SIGNALLED)
    return INTERRUPTED if was_killed else (code or UNREACHABLE)


def _until_it_ends(jobs: Jobs, job_id: str, follower: Follower) -> JobState:
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
