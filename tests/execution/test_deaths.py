"""Why a trial's process is gone: what Ray says of it, and what the machines say themselves."""

from __future__ import annotations

import datetime
import socket
from types import SimpleNamespace

import pytest
import ray

from ldru_study.errors import StoreError
from ldru_study.execution.deaths import cause_of_death, close_attempts, newest_error
from ldru_study.results.facts import read_facts
from ldru_study.results.schema import TABLES

UNAVAILABLE = ray.exceptions.ActorUnavailableError("Socket closed", b"\0" * 16)


@pytest.fixture
def raylet():
    """Return a socket at which a machine answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def nodes(monkeypatch, *ports, alive=True):
    found = [
        {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port, "Alive": alive}
        for port in ports
    ]
    monkeypatch.setattr(ray, "nodes", lambda: found)


def test_who_cannot_be_reached_is_lost_with_a_machine_that_is_silent(raylet, monkeypatch):
    port = raylet.getsockname()[1]
    nodes(monkeypatch, port)
    assert cause_of_death(UNAVAILABLE)[0] == "worker_died"
    # nobody listens at port 1
    nodes(monkeypatch, port, 1)
    assert cause_of_death(UNAVAILABLE) == ("node_lost", "its machine was lost")
    # one that is known to be dead died before
    nodes(monkeypatch, 1, alive=False)
    assert cause_of_death(UNAVAILABLE)[0] == "worker_died"


def test_a_store_that_cannot_be_written_is_no_bug():
    error = StoreError("/results/x: cannot be written: No space left on device.")
    raised = ray.exceptions.RayTaskError("train", "Traceback ...", error)
    assert cause_of_death(raised) == ("store", str(error))
    # as Ray raises it where it is awaited
    assert cause_of_death(raised.as_instanceof_cause()) == ("store", str(error))


def trial(**files):
    names = {"pickled_error_file": None, "error_file": None} | files
    return SimpleNamespace(**{name: path and str(path) for name, path in names.items()})


def test_the_newest_error_is_what_tune_left_beside_the_trial(tmp_path):
    pickled, text = tmp_path / "error.pkl", tmp_path / "error.txt"
    nothing = trial(pickled_error_file=pickled, error_file=text)
    assert newest_error(nothing) is newest_error(trial()) is None
    text.write_text("Failure # 1\nno room for the trial\n")
    assert cause_of_death(newest_error(nothing)) == ("bug", "no room for the trial")
    pickled.write_bytes(ray.cloudpickle.dumps(UNAVAILABLE))
    assert isinstance(newest_error(nothing), ray.exceptions.ActorUnavailableError)


def test_an_end_that_finds_no_room_keeps_no_other_from_being_written(store, monkeypatch):
    trials = ["a" * 16, "b" * 16, "c" * 16]
    for trial_id in trials:
        start = dict.fromkeys(TABLES["attempts"].names) | {"trial_id": trial_id, "event": "start"}
        start |= {"attempt_id": "1", "at": datetime.datetime.now(datetime.UTC)}
        store.commit("attempts", f"{trial_id}-1-start", [start])
    commit = store.commit

    def no_room_once(table, name, rows):
        if name.startswith(trials[0]):
            raise StoreError("no room")
        commit(table, name, rows)

    monkeypatch.setattr(store, "commit", no_room_once)
    with pytest.raises(StoreError, match="no room"):
        close_attempts(store, trials, state="interrupted", cause="x", message="y")
    assert set(read_facts(store).ended) == set(trials[1:])
