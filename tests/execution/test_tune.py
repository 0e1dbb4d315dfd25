"""A study under Ray Tune: packed, retried, recorded, interrupted and continued."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time

import pytest
from tests.conftest import small_trial, small_work

from ldru_study.errors import SpecError
from ldru_study.execution.tune import run_trials
from ldru_study.results.facts import read_facts
from ldru_study.results.heartbeat import read_heartbeats
from ldru_study.results.store import Store
from ldru_study.spec.study import ResourcesConfig
from ldru_study.training.attempt import run_attempt

HALF = ResourcesConfig(cpus=0.5)


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


def weights_of(store, config):
    return store.files.read(f"checkpoints/{config.trial_id}/weights.safetensors")


def counts_of(store):
    rows = read_facts(store).evaluations.to_pylist()
    return [(row["trial_id"], row["length"], row["num_correct"]) for row in rows]


def driven(config, store, **more):
    return small_work(config, store, driver_pid=os.getpid(), **more)


def test_a_failing_trial_is_recorded_and_the_others_go_on(store, tmp_path):
    good = [small_trial(seed=seed) for seed in range(3)]
    diverges = small_trial(learning_rate=1e38, clip_norm=None, warmup=0)
    spoilt = small_trial("rnn")
    store.files.write(f"checkpoints/{spoilt.trial_id}/weights.safetensors", b"spoilt")
    heard = Heard()
    works = [driven(config, store) for config in (diverges, spoilt, *good)]
    result = run_trials(works, HALF, retries=2, listener=heard)
    assert set(result.done) == {config.trial_id for config in good}
    assert set(result.failed) == {diverges.trial_id, spoilt.trial_id}
    ended = read_facts(store).ended
    assert ended[diverges.trial_id]["cause"] == "diverged"
    assert ended[spoilt.trial_id]["cause"] == "damaged"
    assert "weights.safetensors" in ended[spoilt.trial_id]["message"]
    assert "Traceback" in ended[diverges.trial_id]["traceback"]
    # a failure that would repeat is not tried again
    starts = [row for row in read_facts(store).attempts.to_pylist() if row["event"] == "start"]
    assert len(starts) == 5
    for config in good:
        events = [event[0] for event in heard.events if event[1] == config.trial_id]
        assert (events[0], events[-1]) == ("started", "ended")
    # the same bits as without Ray
    alone = Store(str(tmp_path / "alone"))
    for config in good:
        run_attempt(small_work(config, alone))
        assert weights_of(store, config) == weights_of(alone, config)
    assert counts_of(store) == counts_of(alone)


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
    config = small_trial("ldru", steps=1500)
    work = dataclasses.replace(driven(config, store), checkpoint_every_s=0.3)
    seen = []
    killer = threading.Thread(target=kill_worker, args=(store, seen))
    killer.start()
    result = run_trials([work], ResourcesConfig(), retries=2, listener=Heard())
    killer.join()
    assert len(seen) == 1
    assert result.done == (config.trial_id,)
    rows = sorted(
        read_facts(store).attempts.to_pylist(), key=lambda row: (row["attempt_id"], row["at"])
    )
    told = [(row["event"], row["state"], row["cause"]) for row in rows]
    assert told == [
        ("start", None, None),
        ("end", "interrupted", "worker_died"),
        ("start", None, None),
        ("end", "done", None),
    ]
    alone = Store(str(tmp_path / "alone"))
    run_attempt(small_work(config, alone))
    assert weights_of(store, config) == weights_of(alone, config)
    assert counts_of(store) == counts_of(alone)


def test_more_than_the_machine_has_is_refused_before_anything_runs(store):
    work = driven(small_trial(), store)
    message = r"resources.cpus: a trial wants 1000, this machine has \d+. Lower it"
    with pytest.raises(SpecError, match=message):
        run_trials([work], ResourcesConfig(cpus=1000), retries=0, listener=Heard())
    assert len(read_facts(store).attempts) == 0


def test_the_standard_librarys_platform_in_a_ray_worker():
    import platform

    import ray

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
