"""Trials of several workers under Tune: reused, retried from a checkpoint, and the same results."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import psutil
import pytest
import torch
from tests.conftest import small_work, submission_of

from ldru_study.errors import SpecError
from ldru_study.execution import tune
from ldru_study.execution.agenda import Agenda
from ldru_study.execution.brake import Brake
from ldru_study.execution.tune import RunOptions, bundles, run_trials
from ldru_study.results.facts import read_facts
from ldru_study.results.heartbeat import read_heartbeats
from ldru_study.results.store import Store
from ldru_study.spec.engine import PlainEngine
from ldru_study.spec.plan import plan_study
from ldru_study.spec.study import parse_study
from ldru_study.training.attempt import run_attempt
from ldru_study.training.checkpoint import load

STUDY = """
name: grouped
task: parity_check
model: {kind: lstm, width: 8}
grid: {train.engine: [{kind: plain}, {kind: deepspeed, zero_stage: 2, precision: bf16}]}
train: {steps: 300, max_length: 8, batch_size: 16, lengths_per_batch: 4, data_parallel: 2}
seeds: 1
evaluate: {multiples: [1, 2], strings: 64, validation_strings: 32}
resources: {cpus: 1}
checkpoint_every_s: 0.2
"""


def ranks_of_this_machine():
    """Return the processes that Ray has named after a worker of a group."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        if any("_Rank" in word for word in process.info["cmdline"] or ()):
            found.append(process.info["pid"])
    return frozenset(found)


class Heard:
    """Keeps what a listener hears, and which workers lived when a trial ended."""

    def __init__(self, brake=None):
        self.texts, self.groups, self.brake = [], [], brake

    def started(self, work):
        pass

    def progressed(self, work, progress):
        if self.brake is not None and progress.step:
            self.brake.pull("now", "stopped", "somebody asked")

    def ended(self, work, outcome):
        self.groups.append(ranks_of_this_machine())

    def said(self, text):
        self.texts.append(text)


def run(text, store, heard, **options):
    submission, brake = submission_of(text, store), heard.brake or Brake()
    agenda = Agenda(submission, brake, heard.said)
    given = RunOptions(submission.spec.file.resources, **options)
    return run_trials(agenda, store, given, brake=brake, listener=heard)


def trials_of(text):
    return [trial.config for trial in plan_study(parse_study(text, "study.yaml")).trials]


def alone(config):
    """Return the same trial with one worker."""
    train = config.train.model_copy(update={"data_parallel": 1})
    return config.model_copy(update={"train": train})


def attempts_of(store, **wanted):
    rows = sorted(read_facts(store).attempts.to_pylist(), key=lambda row: row["at"])
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def weights_of(store, config):
    data = store.files.read(f"checkpoints/{config.trial_id}/weights.safetensors")
    return load(data, config)[0]


def kill_a_rank(store, seen):
    """Kill a worker of the first trial that has left a checkpoint."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not seen:
        for beat in read_heartbeats(store):
            if store.files.exists(f"checkpoints/{beat.trial_id}/state.safetensors"):
                seen.append(max(ranks_of_this_machine()))
                os.kill(seen[0], signal.SIGKILL)
                return
        time.sleep(0.02)


def test_a_group_is_retried_reused_and_agrees_with_one_worker(store, tmp_path):
    trials, seen, heard = trials_of(STUDY), [], Heard()
    killer = threading.Thread(target=kill_a_rank, args=(store, seen))
    killer.start()
    result = run(STUDY, store, heard, retries=1)
    killer.join()
    assert len(seen) == 1
    assert set(result.done) == {config.trial_id for config in trials}
    [death] = attempts_of(store, state="interrupted")
    assert death["cause"] == "worker_died"
    assert death["message"].startswith("of 2 workers, the worker process died")
    assert any("tried again" in text for text in heard.texts)
    starts = attempts_of(store, event="start")
    assert [(row["cpus"], row["gpus"]) for row in starts] == [(2.0, 0.0)] * 3
    zero = [json.loads(row["versions"])["deepspeed"] for row in starts]
    assert {each and each["zero_optimization"]["stage"] for each in zero} == {None, 2}
    # the retried trial went on from its checkpoint, and all that followed had the same workers
    curves = store.read("metrics")[0].to_pylist()
    assert {row["step"] for row in curves if row["trial_id"] == starts[0]["trial_id"]} >= {1, 300}
    assert len(heard.groups) == 2
    assert len(set(heard.groups)) == 1
    one_worker = Store(str(tmp_path / "alone"))
    for config in trials:
        if config.train.engine.precision == "fp32":
            assert run_attempt(small_work(alone(config), one_worker)).state == "done"
            wanted = weights_of(one_worker, config)
            for name, value in weights_of(store, config).items():
                torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-4)
    assert len(read_facts(store).evaluations) == 4


def test_a_group_that_is_stopped_is_continued_by_one_worker(store):
    text = (
        STUDY.replace("steps: 300", "steps: 3000")
        .replace("{kind: plain}, ", "")
        .replace("every_s: 0.2", "every_s: 1000")
    )
    [config] = trials_of(text)
    brake = Brake()
    assert run(text, store, Heard(brake)).reason == "stopped"
    assert [row["cause"] for row in attempts_of(store, event="end")] == ["interrupted"]
    heard = []
    # DeepSpeed began in two shares; PyTorch ends it whole, in the same precision
    plain = PlainEngine(precision="bf16")
    train = alone(config).train.model_copy(update={"engine": plain})
    whole = config.model_copy(update={"train": train})
    assert whole.trial_id == config.trial_id
    assert run_attempt(small_work(whole, store), heard.append).state == "done"
    saved = {row["step"] for row in store.read("metrics")[0].to_pylist()}
    assert saved >= {1, 3000}
    assert heard[0].step > 1


def test_a_group_that_does_not_fit_is_refused(store, monkeypatch):
    # as Ray would say on a machine of two cores, in seconds
    monkeypatch.setattr(tune.ray, "init", lambda **_: None)
    monkeypatch.setattr(tune.ray, "cluster_resources", lambda: {"CPU": 2.0})
    text = STUDY.replace("cpus: 1", "cpus: 500")
    with pytest.raises(SpecError, match=r"a trial wants 1000 \(2 workers x 500\), this machine"):
        run(text, store, Heard())


def test_bundles_are_those_that_compute():
    assert bundles(1, 0.5, 0) == [{"CPU": 0.5}]
    assert bundles(3, 1, 0.5) == [{}] + 3 * [{"CPU": 1, "GPU": 0.5}]
