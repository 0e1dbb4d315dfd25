"""A study under Ray Tune: packed, retried, recorded, interrupted and continued."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

import pytest
import ray
from tests.conftest import small_work, submission_of

from ldru_study.errors import SpecError, StoreError
from ldru_study.execution import tune
from ldru_study.execution.agenda import Agenda
from ldru_study.execution.brake import Brake
from ldru_study.execution.deaths import cause_of_death
from ldru_study.execution.tune import RunOptions, run_trials
from ldru_study.results.facts import read_facts
from ldru_study.results.heartbeat import read_heartbeats
from ldru_study.results.query import Database
from ldru_study.results.store import Store
from ldru_study.spec.plan import Question, plan_study
from ldru_study.spec.study import parse_study
from ldru_study.training.attempt import run_attempt


class Heard:
    """Keeps what a listener hears."""

    def __init__(self):
        self.events = []

    def started(self, work):
        self.events.append(("started", work.config.trial_id))

    def progressed(self, work, progress):
        self.events.append(("progressed", work.config.trial_id))

    def ended(self, work, outcome):
        self.events.append(("ended", work.config.trial_id, outcome.state, outcome.cause))

    def said(self, text):
        self.events.append(("said", text))


STUDY = """
name: {name}
task: parity_check
grid: {{model: [{model}]}}
train: {{steps: {steps}, max_length: 8, batch_size: 16, lengths_per_batch: 4}}
seeds: 3
evaluate: {{multiples: [1, 2], strings: 64, validation_strings: 32}}
resources: {{cpus: 0.5}}
"""
LSTM = "{kind: lstm, width: 8}"


def study(model=LSTM, *, name="tuned", steps=12, more=""):
    return STUDY.format(model=model, name=name, steps=steps) + more


def run(text, store, *, heard=None, brake=None, **options):
    """Run a study's missing trials under Tune."""
    submission, brake = submission_of(text, store), brake or Brake()
    heard = heard or Heard()
    agenda = Agenda(submission, brake, heard.said)
    given = RunOptions(submission.spec.file.resources, **options)
    return run_trials(agenda, store, given, brake=brake, listener=heard)


def trials_of(text):
    return [trial.config for trial in plan_study(parse_study(text, "study.yaml")).trials]


def events_of(store):
    rows = read_facts(store).attempts.to_pylist()
    rows.sort(key=lambda row: (row["attempt_id"], row["at"]))
    return [(row["event"], row["state"], row["cause"]) for row in rows]


def weights_of(store, config):
    return store.files.read(f"checkpoints/{config.trial_id}/weights.safetensors")


def counts_of(store):
    rows = read_facts(store).evaluations.to_pylist()
    return [(row["trial_id"], row["length"], row["num_correct"]) for row in rows]


DIVERGES = """
overrides:
  - when: {model.kind: rnn}
    set: {train.learning_rate: 1e38, train.clip_norm: null, train.warmup: 0.0}
"""


def test_a_failing_trial_is_recorded_and_the_others_go_on(store, tmp_path):
    text = study(f"{LSTM}, {{kind: rnn, width: 8}}", more=DIVERGES)
    good, diverging = (
        [config for config in trials_of(text) if config.model.kind == kind]
        for kind in ("lstm", "rnn")
    )
    spoilt = good.pop()
    store.files.write(f"checkpoints/{spoilt.trial_id}/weights.safetensors", b"spoilt")
    heard = Heard()
    result = run(text, store, heard=heard, retries=2)
    assert set(result.done) == {config.trial_id for config in good}
    assert set(result.failed) == {config.trial_id for config in (spoilt, *diverging)}
    assert result.reason is None
    ended = read_facts(store).ended
    assert ended[diverging[0].trial_id]["cause"] == "diverged"
    assert ended[spoilt.trial_id]["cause"] == "damaged"
    assert "weights.safetensors" in ended[spoilt.trial_id]["message"]
    assert "Traceback" in ended[diverging[0].trial_id]["traceback"]
    # a failure that would repeat is not tried again
    assert sum(event == "start" for event, _, _ in events_of(store)) == 6
    for config in good:
        events = [event[0] for event in heard.events if event[1] == config.trial_id]
        assert (events[0], events[-1]) == ("started", "ended")
    # the same bits as without Ray
    alone = Store(str(tmp_path / "alone"))
    for config in good:
        run_attempt(small_work(config, alone))
        assert weights_of(store, config) == weights_of(alone, config)
    assert counts_of(store) == counts_of(alone)


def test_the_first_failure_can_end_it(store):
    text = study(f"{LSTM}, {{kind: rnn, width: 8}}", steps=600, more=DIVERGES)
    result = run(text, store, fail_fast=True)
    assert (result.reason, len(result.failed)) == ("failed", 1)
    assert result.message == "a trial failed, and --fail-fast was given"
    # whoever ran then was interrupted, and nobody is left open
    facts = read_facts(store)
    assert not facts.beats
    assert {state for event, state, _ in events_of(store) if event == "end"} >= {"failed"}
    assert set(facts.started) == set(facts.ended)


def test_a_store_that_fails_the_driver_ends_the_run_in_its_own_words(store, monkeypatch):
    def no_room(agenda, work, outcome):
        raise StoreError("results/x: cannot be written: No space left on device.")

    monkeypatch.setattr(Agenda, "ended", no_room)
    brake = Brake()
    with pytest.raises(StoreError, match=r"^results/x: cannot be written: No space left"):
        run(study(), store, brake=brake)
    assert (brake.mode, brake.reason) == ("now", "failed")
    # and whoever ran beside it was interrupted: nobody is left open
    assert not read_heartbeats(store)
    facts = read_facts(store)
    assert set(facts.started) == set(facts.ended)
    assert not ray.is_initialized()


@pytest.mark.parametrize("how", ["itself", "as text", "as text amid more", "on the way out"])
def test_no_room_for_tunes_own_files_is_no_bug(how):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if how.startswith("as text"):
        # as Tune hands it on
        text = f"Traceback (most recent call last):\n  ...\nOSError: {error}\n"
        error = ray.tune.TuneError(text + "another line\n" * how.endswith("more"))
    elif how == "on the way out":
        follows = RuntimeError("")
        follows.__context__ = error
        error = follows
    with pytest.raises(StoreError, match=r"^/tmp/x: cannot be written: .*No space left.*TMPDIR"):
        tune._tell_disk_from_bug(error, "/tmp/x")
    bug = ray.tune.TuneError("Traceback ...\nKeyError: 'No idea'")
    with pytest.raises(ray.tune.TuneError, match="KeyError"):
        tune._tell_disk_from_bug(bug, "/tmp/x")


def test_ray_is_left_when_its_last_words_find_no_room(monkeypatch):
    calls = []

    def shutdown():
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(ray, "shutdown", shutdown)
    tune._leave_ray()
    assert len(calls) == 2


def kill_worker(store, seen):
    """Kill the first worker that has left a checkpoint."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for beat in read_heartbeats(store):
            state = f"checkpoints/{beat.trial_id}/state.safetensors"
            if store.files.exists(state) and beat.pid != os.getpid():
                os.kill(beat.pid, signal.SIGKILL)
                seen.append(beat)
                return
        time.sleep(0.02)


def test_a_killed_worker_is_tried_again_from_its_checkpoint(store, tmp_path):
    text = study("{kind: ldru, width: 8, lone_node: carry, dropout: 0.1}", steps=1500)
    text = text.replace("seeds: 3", "seeds: 1") + "checkpoint_every_s: 0.3\n"
    [config] = trials_of(text)
    seen, heard = [], Heard()
    killer = threading.Thread(target=kill_worker, args=(store, seen))
    killer.start()
    result = run(text, store, heard=heard, retries=2)
    killer.join()
    assert len(seen) == 1
    assert result.done == (config.trial_id,)
    assert events_of(store) == [
        ("start", None, None),
        ("end", "interrupted", "worker_died"),
        ("start", None, None),
        ("end", "done", None),
    ]
    assert any(event[0] == "said" and "tried again" in event[1] for event in heard.events)
    alone = Store(str(tmp_path / "alone"))
    run_attempt(small_work(config, alone))
    assert weights_of(store, config) == weights_of(alone, config)
    assert counts_of(store) == counts_of(alone)


def test_a_worker_that_the_machine_had_no_memory_for_comes_back_smaller(store, monkeypatch):
    text = study("{kind: ldru, width: 8, lone_node: carry}", steps=1500)
    text = text.replace("seeds: 3", "seeds: 1") + "checkpoint_every_s: 0.3\n"
    monkeypatch.setattr(tune, "cause_of_death", lambda error: ("out_of_memory", "no memory"))
    seen = []
    killer = threading.Thread(target=kill_worker, args=(store, seen))
    killer.start()
    result = run(text, store, retries=1)
    killer.join()
    assert len(seen) == len(result.done) == 1
    rows = read_facts(store).attempts.to_pylist()
    starts = [row for row in rows if row["event"] == "start"]
    assert sorted(row["micro_batch_size"] or 0 for row in starts) == [0, 8]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (None, "worker_died"),
        (ray.exceptions.ActorDiedError(), "worker_died"),
        (ray.exceptions.RayError("The actor died because its node has died."), "node_lost"),
        (
            ray.exceptions.OutOfMemoryError(
                "Task was killed due to the node running low on memory"
            ),
            "out_of_memory",
        ),
        (ValueError("oops"), "bug"),
    ],
)
def test_causes_of_death(error, cause):
    assert cause_of_death(error)[0] == cause


def test_a_drain_lets_running_trials_end_and_starts_no_other(store):
    brake, heard = Brake(), Heard()
    started = heard.started

    def drain(work):
        started(work)
        brake.pull("drain", "stopped", "somebody asked")

    heard.started = drain
    text = study(steps=400).replace("cpus: 0.5", "cpus: 2")
    result = run(text, store, heard=heard, brake=brake)
    assert (result.reason, result.message, len(result.done)) == ("stopped", "somebody asked", 1)
    assert events_of(store) == [("start", None, None), ("end", "done", None)]


def test_a_stop_at_once_saves_what_runs(store, tmp_path):
    brake, heard = Brake(), Heard()
    progressed = heard.progressed

    def stop(work, progress):
        progressed(work, progress)
        brake.pull("now", "stopped", "somebody asked")

    heard.progressed = stop
    text = study(steps=3000).replace("cpus: 0.5", "cpus: 2").replace("seeds: 3", "seeds: 1")
    text += "checkpoint_every_s: 1000\n"
    result = run(text, store, heard=heard, brake=brake)
    [config] = trials_of(text)
    assert (result.reason, result.done) == ("stopped", ())
    assert events_of(store) == [("start", None, None), ("end", "interrupted", "interrupted")]
    assert read_facts(store).state_of(config.trial_id, [Question(8, 64, 0)])[0] == "interrupted"


def test_early_stopping_leaves_curves_and_a_winner(store):
    more = """
search:
  trials: 6
  early_stopping: {kind: asha, min_steps: 10, reduction_factor: 2}
  space: {train.learning_rate: {kind: log_uniform, low: 1e-4, high: 1e-1}}
"""
    text = study(steps=80, more=more).replace("seeds: 3", "seeds: 1")
    result = run(text, store, retries=0)
    assert result.reason is None
    assert result.pruned
    assert len(result.pruned) + len(result.done) == 7
    database = Database(store)
    rows = database.rows("select state, suggestion, trial_id from trials")
    assert {row["trial_id"] for row in rows if row["state"] == "pruned"} == set(result.pruned)
    # a stopped trial keeps the curve up to where it was stopped
    curves = database.rows("select trial_id, max(step) as last from metrics group by trial_id")
    for row in curves:
        assert row["last"] == 80 or row["trial_id"] in result.pruned
    assert not database.facts.beats
    assert submission_of(text, store).plan.is_complete


def test_more_than_the_machine_has_is_refused_before_anything_runs(store):
    text = study().replace("cpus: 0.5", "cpus: 1000")
    message = r"resources.cpus: a trial wants 1000, this machine has \d+. Lower it"
    with pytest.raises(SpecError, match=message):
        run(text, store)
    assert len(read_facts(store).attempts) == 0


def test_the_standard_librarys_platform_in_a_ray_worker():
    import platform

    @ray.remote
    def where():
        import platform as seen

        from ldru_study.training import work

        return seen.__file__, seen.machine(), work.__name__

    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=1)
    try:
        assert ray.get(where.remote()) == (
            platform.__file__,
            platform.machine(),
            "ldru_study.training.work",
        )
    finally:
        ray.shutdown()
