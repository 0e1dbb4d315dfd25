"""An attempt leaves exactly what it did, also when it fails or is killed."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from tests.conftest import MODELS, small_trial, small_work

from ldru_study.results.facts import read_facts
from ldru_study.results.files import FileRoot
from ldru_study.results.heartbeat import read_heartbeats
from ldru_study.results.query import Database
from ldru_study.training import attempt, evaluate, training, workers
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

    monkeypatch.setattr(workers, "evaluate", broken)
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
    assert weights_of(store, config) == whole.weights()
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


def end_of(store, config):
    return read_facts(store).ended[config.trial_id]


def hold(monkeypatch, limit, seen):
    """Let models hold at most ``limit`` strings while they train."""
    accumulated = training.Training._accumulated

    def held(self, batch, size):
        seen.append(size)
        if size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return accumulated(self, batch, size)

    monkeypatch.setattr(training.Training, "_accumulated", held)


def test_a_smaller_micro_batch_is_found_recorded_and_kept(store, monkeypatch):
    config, seen = small_trial(), []
    hold(monkeypatch, 4, seen)
    advance = training.Training.advance

    def dies_at_step_5(self):
        if self.step == 5:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(training.Training, "advance", dies_at_step_5)
    work = small_work(config, store, cpus=0.5, gpus=0.25)
    with pytest.raises(KeyboardInterrupt):
        run_attempt(work)
    assert seen == [16, 8] + 5 * [4]
    monkeypatch.setattr(training.Training, "advance", advance)
    seen.clear()
    assert run_attempt(work).state == "done"
    # the memory does not run out a second time
    assert seen == 7 * [4]
    end = end_of(store, config)
    assert (end["micro_batch_size"], end["cpus"], end["gpus"]) == (4, 0.5, 0.25)


def test_whole_batches_are_recorded_as_null(store):
    config = small_trial()
    run_attempt(small_work(config, store, micro_batch_size=16))
    rows = read_facts(store).attempts
    assert rows["micro_batch_size"].to_pylist() == [None, None]
    run_attempt(small_work(small_trial(seed=1), store, micro_batch_size=15))
    assert end_of(store, small_trial(seed=1))["micro_batch_size"] == 15


def test_memory_that_holds_no_string_ends_the_attempt(store, monkeypatch):
    hold(monkeypatch, 0, [])
    outcome = run_attempt(small_work(small_trial(), store))
    assert (outcome.state, outcome.cause) == ("failed", "out_of_memory")
    assert "Make the strings shorter or the model smaller" in outcome.message


def test_an_attempt_that_takes_too_long_is_saved_and_continued(store):
    config = small_trial(steps=20)
    seen = []
    for _ in range(19):
        outcome = run_attempt(small_work(config, store, trial_timeout_s=1e-9))
        assert (outcome.state, outcome.cause) == ("failed", "timed_out")
        seen.append(end_of(store, config)["step"])
    assert re.match(r"step 19 of 20: took \d+ s, trial_timeout_s is 1e-09\. ", outcome.message)
    assert "`submit` continues from the last checkpoint; raise trial_timeout_s" in outcome.message
    # however short, an attempt gets further
    assert seen == list(range(1, 20))
    assert run_attempt(small_work(config, store)).state == "done"
    alone = attempt.Store(store.uri + "-alone")
    run_attempt(small_work(config, alone))
    assert weights_of(store, config) == weights_of(alone, config)
    steps = [[row["step"] for row in curve(each, config)] for each in (store, alone)]
    assert steps == [[1, 2, 5, 10, 20]] * 2


def test_answers_are_kept_when_time_is_over(store):
    config = small_trial()
    for kept in ([8], [8, 16], [8, 16, 32]):
        missing = [length for length in (8, 16, 32) if length not in kept[:-1]]
        outcome = run_attempt(small_work(config, store, *missing, trial_timeout_s=1e-9))
        while not read_facts(store).trained:
            outcome = run_attempt(small_work(config, store, *missing, trial_timeout_s=1e-9))
        assert [count[1] for count in counts_of(store)] == kept
    assert outcome.state == "done"


def test_time_is_looked_at_between_batches(store, monkeypatch):
    config = small_trial()
    run_attempt(small_work(config, store))
    monkeypatch.setattr(evaluate, "_BATCH_TOKENS", 32)
    work = small_work(config, store, 32, trial_timeout_s=1e-9)
    assert run_attempt(work).cause == "timed_out"
    assert [count[1] for count in counts_of(store)] == [8, 16]


def curve(store, config):
    rows = Database(store).rows(
        "select * from metrics where trial_id = $t order by step", t=config.trial_id
    )
    return [{**row, "seconds": None, "attempt_id": None} for row in rows]


def test_rungs_are_validated_committed_and_then_reported(store):
    config, heard = small_trial(steps=20), []

    def listen(progress):
        if progress.at_rung:
            heard.append((progress, [row["step"] for row in curve(store, config)]))

    run_attempt(small_work(config, store, report_steps=(3, 10, 20)), listen)
    assert [(p.step, steps) for p, steps in heard] == [
        (3, [1, 2, 3]),
        (10, [1, 2, 3, 5, 10]),
        (20, [1, 2, 3, 5, 10, 20]),
    ]
    rows = {row["step"]: row for row in curve(store, config)}
    assert [p.validation_loss for p, _ in heard] == [
        rows[step]["validation_loss"] for step in (3, 10, 20)
    ]
    assert len(store.read("metrics")[0]) == 6
    # and they change nothing else
    alone = attempt.Store(store.uri + "-alone")
    reports = []
    run_attempt(small_work(config, alone), reports.append)
    assert weights_of(store, config) == weights_of(alone, config)
    assert {(p.validation_loss, p.at_rung) for p in reports} == {(None, False)}


@pytest.mark.parametrize("interruption", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_trial_stopped_at_a_rung_leaves_its_curve_and_continues(store, interruption):
    config, rungs = small_trial("ldru", steps=20), (3, 7, 10)

    def stop(progress):
        if progress.at_rung and progress.step == 7:
            raise interruption

    work = small_work(config, store, report_steps=rungs)
    with pytest.raises(interruption):
        run_attempt(work, stop)
    assert [row["step"] for row in curve(store, config)] == [1, 2, 3, 5, 7]
    assert not read_heartbeats(store)
    assert not {"heartbeat", "watchdog"} & {thread.name for thread in threading.enumerate()}
    saved = training.Training(config, torch.device("cpu"))
    saved.restore(store.files.read(f"checkpoints/{config.trial_id}/state.safetensors"))
    assert saved.step == 7
    heard = []
    assert run_attempt(work, heard.append).state == "done"
    # who listens now may not know the rungs that were passed before
    assert [progress.step for progress in heard if progress.at_rung] == [3, 7, 10]
    alone = attempt.Store(store.uri + "-alone")
    run_attempt(dataclasses.replace(work, store=alone.uri))
    assert weights_of(store, config) == weights_of(alone, config)
    assert curve(store, config) == curve(alone, config)


@pytest.mark.parametrize("where", ["_gradient", "measure"])
def test_a_stop_in_the_middle_loses_no_step_and_no_row(store, monkeypatch, where):
    config = small_trial("ldru", steps=20)
    method, stopped = getattr(training.Training, where), []

    def stops_once(self, *arguments):
        if self.step == 10 and not stopped:
            stopped.append(self.step)
            raise KeyboardInterrupt
        return method(self, *arguments)

    monkeypatch.setattr(training.Training, where, stops_once)
    with pytest.raises(KeyboardInterrupt):
        run_attempt(small_work(config, store))
    seen, advance = [], training.Training.advance
    monkeypatch.setattr(
        training.Training, "advance", lambda self: (seen.append(self.step), advance(self))[1]
    )
    assert run_attempt(small_work(config, store)).state == "done"
    assert seen == list(range(10, 20))
    alone = attempt.Store(store.uri + "-alone")
    run_attempt(small_work(config, alone))
    assert weights_of(store, config) == weights_of(alone, config)
    assert curve(store, config) == curve(alone, config)


def test_a_stop_when_the_weights_are_written_leaves_nothing_behind(store, monkeypatch):
    config = small_trial()
    write, state = FileRoot.write, f"checkpoints/{config.trial_id}/state.safetensors"

    def stops_after_the_weights(self, name, data, **more):
        write(self, name, data, **more)
        if name.endswith("weights.safetensors"):
            raise SystemExit

    monkeypatch.setattr(FileRoot, "write", stops_after_the_weights)
    with pytest.raises(SystemExit):
        run_attempt(small_work(config, store))
    assert store.files.exists(state)
    assert run_attempt(small_work(config, store)).state == "done"
    assert not store.files.exists(state)


def test_a_stop_while_weights_move_keeps_the_checkpoint_before(store, monkeypatch):
    config = small_trial()
    step = torch.optim.AdamW.step
    calls = []

    def stops_half_way(self, *arguments):
        calls.append(1)
        if len(calls) == 6:
            self.param_groups[0]["params"][0].data.add_(1)
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", stops_half_way)
    work = small_work(config, store, checkpoint_every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        run_attempt(work)
    assert run_attempt(work).state == "done"
    alone = attempt.Store(store.uri + "-alone")
    run_attempt(small_work(config, alone))
    assert weights_of(store, config) == weights_of(alone, config)


HANGS = """
import sys, time, torch
torch.set_num_threads(1)
from ldru_study.training import attempt, training, watchdog
from ldru_study.training.work import Work
watchdog._GRACE_S = 0.2
advance = training.Training.advance
def sleeping(self):
    if self.step == 1:
        time.sleep(600)
    return advance(self)
training.Training.advance = sleeping
attempt.run_attempt(Work.from_json(sys.argv[1]))
"""


def test_a_trial_that_hangs_is_ended_by_its_watchdog(store):
    config = small_trial()
    work = small_work(config, store)
    # one step, so that there is a checkpoint; the next step hangs
    run_attempt(dataclasses.replace(work, trial_timeout_s=1e-9))
    quick = dataclasses.replace(work, trial_timeout_s=1.0)
    done = subprocess.run([sys.executable, "-c", HANGS, quick.to_json()], check=False, timeout=120)
    assert done.returncode == 1
    rows = sorted(read_facts(store).attempts.to_pylist(), key=lambda row: row["at"])
    assert [row["event"] for row in rows] == ["start", "end"] * 2
    end = rows[-1]
    assert (end["state"], end["cause"], end["step"]) == ("failed", "timed_out", 1)
    assert end["message"].startswith("step 1 of 12: hung for ")
    assert "in sleeping" in end["traceback"]
    assert not any(beat.is_alive for beat in read_heartbeats(store))
    # the same order continues where it hung
    assert run_attempt(work).state == "done"
    alone = attempt.Store(store.uri + "-alone")
    run_attempt(small_work(config, alone))
    assert weights_of(store, config) == weights_of(alone, config)


def test_a_watchdog_that_comes_late_records_nothing(store, monkeypatch):
    exits = []
    monkeypatch.setattr(attempt.os, "_exit", exits.append)
    late = attempt._Attempt(small_work(small_trial(), store, trial_timeout_s=99.0), lambda _: None)
    assert late.run().state == "done"
    late._end_hung("a stack")
    assert exits == []
    assert len(read_facts(store).attempts) == 2
