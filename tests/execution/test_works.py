"""The orders that a study becomes."""

from __future__ import annotations

from tests.conftest import TINY, submission_of

from ldru_study.execution.submit import work_of


def test_an_order_says_what_the_study_says_of_a_trial(store):
    text = TINY + "resources: {cpus: 0.5, gpus: 0.25}\ntrial_timeout_s: 90\ncheckpoint_every_s: 3\n"
    submission = submission_of(text, store)
    works = [work_of(submission, trial) for trial in submission.plan.to_run]
    assert len(works) == 4
    for work in works:
        assert (work.cpus, work.gpus, work.device) == (0.5, 0.25, "cuda")
        assert (work.trial_timeout_s, work.checkpoint_every_s) == (90, 3)
        assert work.cell in ("parity_check/constant", "parity_check/lstm")
