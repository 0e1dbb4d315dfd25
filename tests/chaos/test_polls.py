"""The judge of `status` can tell a false answer from a true one."""

from __future__ import annotations

import datetime

import pytest
from tests.chaos.polls import Attempt, Life, Poll, attempts_of, false_answers
from tests.conftest import small_trial, small_work

from ldru_study.results.facts import read_facts
from ldru_study.training.attempt import run_attempt

RAN = Attempt(100.0, 120.0, 121.0, "interrupted", "worker_died")
FOREVER = float("inf")


def poll(state, *, at=110.0, cause=None, code=0, said="", trial="t"):
    return Poll(at, at + 0.5, code, {trial: (state, cause)}, said)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([poll("running")], None),
        ([poll("waiting", at=50.0), poll("interrupted", at=119.9)], None),
        # the moment before its first sign of life, and the one after its last
        ([poll("interrupted", at=101.0), poll("running", at=121.5)], None),
        ([poll("done", code=4)], "said to be done, and not all its rows were committed"),
        ([poll("running", at=125.0)], "said to be running, and no process worked at it"),
        ([poll("running", at=90.0)], "said to be running, and no process worked at it"),
        ([poll("interrupted")], "said to be interrupted, and an attempt ran all the while"),
        ([poll("failed", cause="bug")], "for the cause bug, and no attempt ended so"),
        ([poll("running"), poll("waiting", at=130.0)], "and was running before"),
        ([poll("running", trial="u"), poll("running")], "trial u is said to be running"),
        ([poll("running", code=2, said="Error: oh")], "status ended with 2: Error: oh"),
        ([poll("running", said="Warning: x is damaged")], "status ended with 0: Warning"),
        ([Poll(110.0, 110.5, 0, {}, "")], "status lists 0 trials of 1"),
        ([Poll(90.0, 90.5, 3, {}, "Error: no study"), poll("running")], None),
        ([poll("running"), Poll(110.0, 110.5, 3, {}, "Error: gone")], "status ended with 3"),
    ],
)
def test_what_is_false(store, answers, why):
    found = list(false_answers(answers, read_facts(store), {"t": [RAN]}, 1))
    if why is None:
        assert found == []
    else:
        assert len(found) == 1
        assert why in found[0]


def test_done_is_true_from_the_last_row_on(store):
    config = small_trial("constant")
    run_attempt(small_work(config, store))
    facts = read_facts(store)
    committed = max(row["committed_at"] for row in facts.answers.to_pylist()).timestamp()
    early, late = (poll("done", at=committed + by, trial=config.trial_id) for by in (-2.0, 1.0))
    assert list(false_answers([late], facts, {}, 1)) == []
    assert "not all its rows" in next(false_answers([early], facts, {}, 1))
    back = poll("running", at=committed + 2, trial=config.trial_id)
    assert "and was done before" in next(false_answers([late, back], facts, {}, 1))


def test_an_attempt_is_over_when_its_process_or_its_driver_is(store):
    config = small_trial("constant")
    outcome = run_attempt(small_work(config, store))
    facts = read_facts(store)
    start, end = sorted(facts.attempts.to_pylist(), key=lambda row: row["at"])
    assert (start["event"], end["attempt_id"]) == ("start", outcome.attempt_id)
    began, ended = (row["at"].timestamp() for row in (start, end))
    lives = {start["pid"]: Life(ended + 9, FOREVER)}

    def only(*arguments):
        [attempt] = attempts_of(facts, *arguments)[config.trial_id]
        return attempt.begun, attempt.over_at_least, attempt.over_at_most

    assert only(lives, []) == (began, ended, ended)
    assert only({}, []) == (began, began, ended)
    gone = {start["pid"]: Life(began, began + 1e-3)}
    assert only(gone, [])[1:] == (began, min(ended, began + 1e-3))
    # a driver that was killed before had begun nothing of it
    long_before = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert only(lives, [(long_before, long_before + 1)]) == (began, ended, ended)
    assert only(lives, [(began, began + 1e-4)])[1:] == (began, began + 1e-4)
