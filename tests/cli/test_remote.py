"""`--address http://...`: what a command ends with when its job does not end by itself."""

from __future__ import annotations

import pytest
from tests.conftest import TINY, submission_of

from ldru_study.cli import remote
from ldru_study.execution.jobs import JobState


@pytest.mark.parametrize(
    ("job", "code"),
    [
        # SIGKILL to the driver, as its shell and as Python say it
        (JobState("failed", "killed", 137, "Killed"), 130),
        (JobState("failed", "killed", -9), 130),
        # it never began, or its node is gone
        (JobState("failed", "no node", None), 6),
        (JobState("gone"), 6),
        (JobState("failed", "a bug", 1, "Traceback"), 1),
        (JobState("failed", "the store", 2, "Error: results/x: cannot be written"), 2),
        (JobState("failed", "interrupted", 130), 130),
    ],
)
def test_the_code_is_one_of_those_that_are_explained(store, capsys, job, code):
    submission = submission_of(TINY, store)
    assert remote.follow(submission, "tiny-0", lambda: job, pytest.fail) == code
    assert "The same command continues." in capsys.readouterr().err
