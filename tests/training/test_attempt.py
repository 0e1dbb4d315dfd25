"""An attempt leaves exactly what it did, also when it fails or is killed."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from tests.conftest import MODELS, small_trial, small_work

from ldru_study.results.facts import read_facts
from ldru_study.results.heartbeat import read_heartbeats
from ldru_study.training import attempt, evaluate, training
from ldru_study.training.attempt import is_measured, run_attempt
from ldru_study.training.work import Work


def weights_of(store, config):
    return store.files.read(f"checkpoints/{config.trial_id}/weights.safetensors")


def counts_of(store):
    rows = read_facts(store).evaluations.to_pylist()
    return [(row["trial_id"], row["length"], row["num_correct"], row["num_total"]) for row in rows]


def test_a_trial_leaves_rows_weights_and_an_end(store):
    config = small_trial()
    heard = []
    outcome = run_attempt(small_work(config, store), heard.append)
    assert (outcome.state, outcome.cause) == ("done", None)
    facts = read_facts(store)
    assert [row["length"] for row in facts.evaluations.to_pylist()] == [8, 16]
    assert [row["event"] for row in facts.attempts.sort_by("event").to_pylist()] == ["end", "start"]
    assert facts.trained == {config.trial_id}
    metrics, damage = store.read("metrics")
    assert metrics["step"].to_pylist() == [1, 2, 5, 10, 12]
    assert not damage
    assert heard[-1].step == heard[-1].steps == 12
    # nothing of the way is left behind
    assert not store.files.exists(f"checkpoints/{config.trial_id}/state.safetensors")
    assert not read_heartbeats(store)


def test_new_lengths_are_answered_with_the_same_weights(store, monkeypatch):
    config = small_trial()
    run_attempt(small_work(config, store))
    weights = weights_of(store, config)

    def no_training(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(training.Training, "advance", no_training)
    assert run_attempt(small_work(config, store, 32)).state == "done"
    assert weights_of(store, config) == weights
    assert [count[1] for count in counts_of(store)] == [8, 16, 32]


def test_the_same_answer_twice_counts_once(store):
    config = small_trial()
    run_attempt(small_work(config, store))
    once = counts_of(store)
    run_attempt(small_work(config, store))
    assert counts_of(store) == once
    rows, _ = store.read("evaluations")
    assert len(rows) == 2 * len(once)


def test_divergence_is_recorded_with_cause_and_traceback(store):
    config = small_trial(learning_rate=1e38, clip_norm=None, warmup=0)
    outcome = run_attempt(small_work(config, store))
    assert (outcome.state, outcome.cause) == ("failed", "diverged")
    end = read_facts(store).ended[config.trial_id]
    assert end["cause"] == "diverged"
    assert "Lower train.learning_rate" in end["message"]
    assert "DivergedError" in end["traceback"]
    assert not read_facts(store).trained


def test_a_bug_is_recorded_and_not_raised(store, monkeypatch):
    def broken(*_):
        raise KeyError("oops")

    monkeypatch.setattr(attempt, "evaluate", broken)
    outcome = run_attempt(small_work(small_trial(), store))
    assert (outcome.state, outcome.cause) == ("failed", "bug")
    end = read_facts(store).ended[small_trial().trial_id]
    assert "in broken" in end["traceback"]


def test_lengths_that_fitted_are_kept_when_a_longer_one_does_not(store, monkeypatch):
    score = evaluate.score

    def small_memory(model, batch):
        if batch.tokens.shape[1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(model, batch)

    monkeypatch.setattr(evaluate, "score", small_memory)
    outcome = run_attempt(small_work(small_trial(), store, 8, 16, 100))
    assert (outcome.state, outcome.cause) == ("failed", "out_of_memory")
    assert [count[1] for count in counts_of(store)] == [8, 16]


def test_an_attempt_goes_on_from_the_last_checkpoint(store, monkeypatch):
    config = small_trial("ldru", steps=20)
    whole = training.Training(config, torch.device("cpu"))
    while not whole.is_finished:
        whole.advance()
    advance = training.Training.advance

    def dies_at_step_11(self):
        if self.step == 11:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(training.Training, "advance", dies_at_step_11)
    # a checkpoint after every step
    work = small_work(config, store, checkpoint_every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        run_attempt(work)
    seen = []
    monkeypatch.setattr(
        training.Training, "advance", lambda self: (seen.append(self.step), advance(self))[1]
    )
    assert run_attempt(work).state == "done"
    assert seen == list(range(11, 20))
    assert weights_of(store, config) == training.dump_weights(whole.model, config)
    # and the training curve is whole
    steps = store.read("metrics")[0]["step"].to_pylist()
    assert steps == [1, 2, 5, 10, 20]


def test_a_damaged_checkpoint_costs_time_and_nothing_else(store, tmp_path):
    config = small_trial()
    store.files.write(f"checkpoints/{config.trial_id}/state.safetensors", b"spoilt")
    assert run_attempt(small_work(config, store)).state == "done"
    alone = attempt.Store(str(tmp_path / "alone"))
    run_attempt(small_work(config, alone))
    assert weights_of(store, config) == weights_of(alone, config)


def test_damaged_weights_are_named_and_left_alone(store):
    config = small_trial()
    name = f"checkpoints/{config.trial_id}/weights.safetensors"
    store.files.write(name, b"spoilt")
    outcome = run_attempt(small_work(config, store))
    assert (outcome.state, outcome.cause) == ("failed", "damaged")
    assert outcome.message.startswith(f"{name}: it is damaged (")
    assert outcome.message.endswith("Delete it; `submit` then trains the trial again.")
    assert store.files.read(name) == b"spoilt"


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from ldru_study.training.attempt import run_attempt
from ldru_study.training.work import Work
run_attempt(Work.from_json(sys.argv[1]))
"""


@pytest.mark.parametrize("model", ["ldru", "lstm"])
def test_sigkill_changes_no_bit(store, tmp_path, model):
    config = small_trial(model, steps=300)
    reference = dataclasses.replace(small_work(config, store), store=str(tmp_path / "reference"))
    run_attempt(reference)
    work = small_work(config, store, checkpoint_every_s=0.05)
    killed = subprocess.Popen([sys.executable, "-c", SCRIPT, work.to_json()])
    state = tmp_path / "results" / "checkpoints" / config.trial_id / "state.safetensors"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert read_facts(store).state_of(config.trial_id, work.questions) == ("interrupted", None)
    assert run_attempt(work).state == "done"
    uninterrupted = attempt.Store(reference.store)
    assert weights_of(store, config) == weights_of(uninterrupted, config)
    assert counts_of(store) == counts_of(uninterrupted)


def test_a_work_order_survives_the_wire(store):
    work = small_work(small_trial("transformer"), store, device="cuda", driver_pid=7)
    assert Work.from_json(work.to_json()) == work


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_runs(store, model):
    assert run_attempt(small_work(small_trial(model, steps=2), store)).state == "done"


def test_measured_steps():
    steps = [step for step in range(1, 401) if is_measured(step, 365)]
    assert steps == [1, 2, 5, 10, 20, 50, 100, 200, 365]
