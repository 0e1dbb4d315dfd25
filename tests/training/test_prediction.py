"""Predictions: kept by shape and machine, and compared once with the first steps."""

from __future__ import annotations

import dataclasses

import pytest
from tests.conftest import small_trial, small_work

from ldru_study.results.facts import read_facts
from ldru_study.training import prediction as predicting
from ldru_study.training.attempt import run_attempt
from ldru_study.training.prediction import (
    FirstSteps,
    Prediction,
    keep_prediction,
    kept_predictions,
    shape_of,
)
from ldru_study.training.work import Work

HOST = predicting.socket.gethostname()


def predicted(step_s=1.0, memory_mib=100.0, host=HOST):
    return Prediction(((10, step_s), (20, 2 * step_s)), memory_mib, host)


def told(first_steps, seconds, *, num_steps=30, length=10, memory_mib=0.0):
    found = [first_steps.take_in(1, seconds, length, memory_mib) for _ in range(num_steps)]
    return [text for text in found if text is not None]


def test_what_agrees_is_not_told():
    for seconds in (0.7, 1.0, 1.4):
        assert told(FirstSteps(predicted()), seconds) == []
    # longer strings were predicted to take longer
    assert told(FirstSteps(predicted()), 2.0, length=20) == []


@pytest.mark.parametrize("seconds", [0.5, 1.6])
def test_what_is_off_by_more_than_half_is_told_once(seconds):
    first_steps = FirstSteps(predicted())
    [text] = told(first_steps, seconds)
    assert text == (
        f"unlike `plan --estimate` said: a step takes {seconds:g} s, predicted were 1 s"
    )
    assert not first_steps.are_open


def test_more_memory_than_predicted_is_told_and_less_is_not():
    [text] = told(FirstSteps(predicted()), 1.0, memory_mib=200.0)
    assert text.endswith("said: it holds 200 MiB, predicted were 100 MiB")
    for memory_mib in (None, 0.0, 149.0, 163.0):
        assert told(FirstSteps(predicted()), 1.0, memory_mib=memory_mib) == []


def test_slow_first_steps_are_no_wrong_prediction():
    first_steps = FirstSteps(predicted())
    assert told(first_steps, 9.0, num_steps=3) == []
    assert told(first_steps, 1.0) == []


def test_one_step_is_enough_where_it_takes_long():
    first_steps = FirstSteps(predicted(step_s=10.0))
    [text] = told(first_steps, 40.0, num_steps=1)
    assert "a step takes 40 s, predicted were 10 s" in text


def test_other_machines_predict_nothing_here():
    for prediction in (None, predicted(host="elsewhere")):
        assert not FirstSteps(prediction).are_open
        assert told(FirstSteps(prediction), 99.0) == []


def test_predictions_are_kept_by_shape_and_machine(store):
    one, other = small_trial(), small_trial("rnn")
    assert kept_predictions(store) == {}
    keep_prediction(store, one, predicted(1.0))
    keep_prediction(store, one, predicted(2.0))
    keep_prediction(store, other, predicted(3.0, host="elsewhere"))
    store.files.write("predictions/damaged.json", b"{")
    assert kept_predictions(store) == {shape_of(one): predicted(2.0)}
    # a seed has no cost of its own, a precision has
    assert shape_of(small_trial(seed=1)) == shape_of(one)
    assert shape_of(small_trial(engine={"precision": "bf16"})) != shape_of(one)


def test_an_attempt_says_how_it_differs_and_keeps_it(store):
    config, heard = small_trial(steps=20), []
    work = small_work(config, store, prediction=predicted(step_s=1000.0))
    assert Work.from_json(work.to_json()) == work
    assert run_attempt(work, heard.append).state == "done"
    [note] = [progress.note for progress in heard if progress.note]
    assert note.startswith("unlike `plan --estimate` said: a step takes ")
    assert read_facts(store).ended[config.trial_id]["message"] == note
    quiet = dataclasses.replace(work, config=small_trial(steps=20, seed=1), prediction=None)
    heard.clear()
    assert run_attempt(quiet, heard.append).state == "done"
    assert not any(progress.note for progress in heard)
