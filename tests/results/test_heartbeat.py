"""Signs of life: fresh and from running processes, or none."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time

import pytest

from ldru_study.results.heartbeat import STALE_S, Heartbeat, beating, forget_dead, read_heartbeats


@pytest.fixture
def beat():
    return Heartbeat("t", "a", socket.gethostname(), os.getpid(), os.getpid(), 3, 9, time.time())


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_fresh_beat_of_running_processes_is_alive(beat):
    assert beat.is_alive


def test_age_decides(beat):
    assert not dataclasses.replace(beat, at=beat.at - STALE_S - 1).is_alive
    assert dataclasses.replace(beat, at=beat.at - STALE_S / 2).is_alive


@pytest.mark.parametrize("process", ["pid", "driver_pid"])
def test_a_dead_process_is_seen_at_once_on_its_own_host(beat, dead_pid, process):
    assert not dataclasses.replace(beat, **{process: dead_pid}).is_alive
    elsewhere = dataclasses.replace(beat, host="another-host", **{process: dead_pid})
    assert elsewhere.is_alive


def test_a_zombie_is_dead(beat):
    process = subprocess.Popen([sys.executable, "-c", ""])
    time.sleep(0.5)
    # not waited for: its entry is still there
    assert not dataclasses.replace(beat, pid=process.pid).is_alive
    process.wait()


def test_beats_while_it_runs_and_never_after(store):
    here = {"driver_pid": os.getpid(), "driver_host": socket.gethostname()}
    with beating(store, "t", "a", **here, steps=9) as pulse:
        pulse.step = 4
        deadline = time.monotonic() + 5
        while not read_heartbeats(store) and time.monotonic() < deadline:
            time.sleep(0.01)
        (found,) = read_heartbeats(store)
        assert (found.trial_id, found.steps) == ("t", 9)
        assert found.is_alive
    assert read_heartbeats(store) == []


def test_an_unreadable_beat_is_no_beat(store):
    store.files.write("heartbeats/a.json", b"{")
    store.files.write("heartbeats/b.json", b'{"other": 1}')
    assert read_heartbeats(store) == []


def test_dead_beats_are_forgotten(store, beat, dead_pid):
    import json

    for name, pid in (("alive", os.getpid()), ("dead", dead_pid)):
        row = dataclasses.replace(beat, attempt_id=name, pid=pid)
        store.files.write(f"heartbeats/{name}.json", json.dumps(dataclasses.asdict(row)).encode())
    forget_dead(store)
    assert [found.attempt_id for found in read_heartbeats(store)] == ["alive"]
