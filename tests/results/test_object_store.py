"""What only an object store does: to be away, to refuse, to break off; and a disk that is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tests.conftest import small_trial, small_work, submit_tiny
from tests.results.s3 import HOST, endpoint
from tests.results.test_store import evaluation

from ldru_study.errors import StoreError
from ldru_study.results import files
from ldru_study.results.facts import read_facts
from ldru_study.results.files import FileRoot, NoAccessError
from ldru_study.results.heartbeat import beating, read_heartbeats
from ldru_study.results.query import Database
from ldru_study.results.store import Store
from ldru_study.training.attempt import run_attempt


@pytest.fixture
def pauses(monkeypatch):
    """Return the pauses between tries; none is made."""
    made = []
    monkeypatch.setattr(files.time, "sleep", made.append)
    return made


SECRETS = [
    "s3://AKIAEXAMPLE:hush@bucket/folder",
    "s3://AKIAEXAMPLE:hu/sh@bucket/folder",
    "s3://AKIAEXAMPLE@bucket/folder?x=hush",
    "s3://bucket/folder?secret_key=hush",
    "s3://bucket/folder?region=x&Session_Token=hush",
    "gs://user:hush@bucket/folder",
    "abfs://container@account/folder?sas_token=hush",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_an_address_with_a_secret_is_refused_and_not_repeated(uri):
    message = (
        r"^store [a-z0-9]+://\.\.\.: the address holds credentials, and addresses are recorded"
    )
    with pytest.raises(StoreError, match=message) as refusal:
        Store(uri)
    assert "hush" not in str(refusal.value)
    assert "EXAMPLE" not in str(refusal.value)


def test_the_address_may_say_where_the_server_is(s3_port, tmp_path, monkeypatch):
    for name, value in endpoint(1).items():
        monkeypatch.setenv(name, value)
    where = f"endpoint_override={HOST}:{s3_port}&scheme=http&region=us-east-1"
    store = Store(f"s3://bucket/{tmp_path.name}?{where}")
    store.commit("evaluations", "t1-a1", [evaluation()])
    assert len(Store(store.uri).read("evaluations")[0]) == 1
    message = (
        r"cannot be opened: allow_bucket_creation: not known here\. Known: endpoint_override, "
    )
    with pytest.raises(StoreError, match=message):
        Store("s3://bucket/x?region=us-east-1&allow_bucket_creation=true")


def test_trials_run_and_are_judged_in_a_bucket(s3_uri):
    store = Store(s3_uri)
    submit_tiny(store)
    rows = Database(Store(s3_uri)).sql("select state from trials order by all").to_pylist()
    assert [row["state"] for row in rows] == ["done"] * 3 + ["waiting"]
    assert read_heartbeats(store) == []


def test_a_missing_bucket_is_no_empty_store(s3_uri, pauses):
    store = Store("s3://no-such-bucket/folder")
    message = (
        r"^store s3://no-such-bucket/folder: there is no bucket 'no-such-bucket'\. Create it, or "
        r"correct --store\.$"
    )
    for work in (
        lambda: store.read("evaluations"),
        lambda: store.files.list("checkpoints", recursive=True),
        lambda: store.files.read("studies/a/spec.yaml"),
        lambda: store.commit("evaluations", "t1-a1", [evaluation()]),
    ):
        with pytest.raises(NoAccessError, match=message):
            work()
    assert pauses == []


@pytest.mark.parametrize("status", [400, 401, 403])
def test_refusal_is_said_at_once(far_store, path, pauses, status):
    far_store.files.write("a", b"a")
    path.fail(status)
    seen = len(path.seen)
    root = far_store.files
    works = {
        "read": lambda: root.read("a"),
        "written": lambda: root.write("a", b"b"),
        "listed": lambda: root.list(""),
        "looked for": lambda: root.exists("a"),
        "deleted": lambda: root.delete("a"),
    }
    for done, work in works.items():
        message = rf"cannot be {done}: access is refused \(.*\)\. Check the credentials in the env"
        with pytest.raises(NoAccessError, match=message):
            work()
    assert len(path.seen) == seen + len(works)
    assert pauses == []
    path.mend()
    assert root.read("a") == b"a"


@pytest.mark.parametrize("fault", [500, 503, 429, "reset", "half"])
def test_what_passes_is_waited_for(far_store, path, pauses, fault):
    root = far_store.files
    root.write("folder/a", b"old")
    # the client itself tries twice
    path.fail(fault, times=5)
    root.write("folder/a", b"new" * 1000)
    path.fail(fault, times=5)
    assert root.read("folder/a") == b"new" * 1000
    path.fail(fault, times=5)
    assert [(entry.name, entry.size) for entry in root.list("folder")] == [("folder/a", 3000)]
    path.fail(fault, times=5)
    assert root.exists("folder/a")
    path.fail(fault, times=5)
    root.delete("folder/a")
    assert not root.exists("folder/a")
    # each longer than the one before, as far as chance allows
    assert len(pauses) == 10
    assert all(0.25 <= pause <= 1 for pause in pauses)


def test_a_server_that_is_away_is_waited_for(far_store, path):
    far_store.commit("evaluations", "t1-a1", [evaluation()])
    path.leave()
    back = threading.Timer(3, path.come)
    back.start()
    far_store.commit("evaluations", "t2-a1", [evaluation("t2")])
    back.join()
    assert len(far_store.read("evaluations")[0]) == 2


def test_patience_ends_with_a_message(far_store, path):
    impatient = FileRoot(far_store.uri, patience_s=1)
    path.fail(503)
    message = (
        r"/a: cannot be written: no answer in \d+ s \(.*503.*\)\. Check the network and the "
        r"endpoint, then run the same command again\.$"
    )
    with pytest.raises(NoAccessError, match=message):
        impatient.write("a", b"a")


def test_an_outage_is_no_damage(far_store, path):
    far_store.commit("evaluations", "t1-a1", [evaluation()])
    reader = Store(far_store.uri)
    reader.files.patience_s = 0
    path.fail(503, methods=("HEAD",))
    with pytest.raises(NoAccessError, match="cannot be read: no answer"):
        reader.read("evaluations")
    path.mend()
    assert len(reader.read("evaluations")[0]) == 1


@pytest.mark.parametrize("size", [1000, 12_000_000])
@pytest.mark.parametrize("fault", ["half", 500, "reset"])
def test_an_upload_that_breaks_off_leaves_the_old_file(far_store, path, fault, size):
    root = far_store.files
    root.write("a", b"old")
    path.fail(fault, methods=("PUT",))
    for name in ("a", "b"):
        with pytest.raises(NoAccessError, match="cannot be written"):
            root.write(name, b"n" * size, patience_s=0)
    path.mend()
    assert root.read("a") == b"old"
    assert not root.exists("b")


def test_ctrl_c_in_the_middle_of_an_upload_leaves_all_or_nothing(s3_uri):
    root = FileRoot(s3_uri)

    class Interrupted:
        """Opens a stream, and before anything is written somebody presses Ctrl-C."""

        def __init__(self, real):
            self.real = real

        def open_output_stream(self, name):
            stream = self.real.open_output_stream(name)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            return stream

    whole = root._fs
    root._fs = Interrupted(whole)
    # a runner in the background of a shell ignores Ctrl-C, and so do its children
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            root.write("a", b"all of it")
    finally:
        signal.signal(signal.SIGINT, before)
    root._fs = whole
    # Ctrl-C does not wait for the upload, but a process does before it ends
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    assert root.read("a") == b"all of it"


UPLOADS = """
import sys
from ldru_study.results.files import FileRoot
root = FileRoot(sys.argv[1])
for letter in b"abcdefghij":
    root.write("a", bytes([letter]) * 12_000_000)
"""


@pytest.mark.parametrize("num_requests", [1, 2, 3, 4, 6, 9])
def test_killed_in_the_middle_of_an_upload_it_leaves_all_or_nothing(far_store, path, num_requests):
    uploads = subprocess.Popen([sys.executable, "-c", UPLOADS, far_store.uri])
    while len(path.seen) < num_requests:
        assert uploads.poll() is None
        time.sleep(0.001)
    uploads.send_signal(signal.SIGKILL)
    assert uploads.wait() == -signal.SIGKILL
    if far_store.files.exists("a"):
        data = far_store.files.read("a")
        assert data == data[:1] * 12_000_000
    assert [entry.name for entry in far_store.files.list("")] in ([], ["a"])


def test_an_attempt_does_not_wait_for_its_heartbeat(far_store, path, pauses):
    about = {"driver_pid": os.getpid(), "driver_host": "", "steps": 9}
    with beating(far_store, "t", "a", **about):
        while not read_heartbeats(far_store):
            pass
        path.leave()
    assert pauses == []
    path.come()
    # what stayed behind grows old
    assert len(read_heartbeats(far_store)) == 1
    path.fail(503)
    with beating(far_store, "t", "b", **about):
        pass
    assert pauses == []
    path.mend()


def test_an_attempt_survives_an_outage(far_store, path):
    path.leave()
    back = threading.Timer(3, path.come)
    back.start()
    outcome = run_attempt(small_work(small_trial(), far_store))
    back.join()
    assert outcome.state == "done"
    assert len(read_facts(far_store).evaluations) == 2


FULL = """
import resource, signal, sys
from ldru_study.errors import StoreError
from ldru_study.results.files import FileRoot
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
root = FileRoot(sys.argv[1])
root.write("folder/small", b"s" * 5000)
for name in ("folder/large", "folder/small"):
    try:
        root.write(name, b"l" * 5001)
    except StoreError as error:
        print(error)
"""


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"{tmp_path}/folder/{name}: cannot be written: File too large. Make room or get "
        "permission, then run the same command again."
        for name in ("large", "small")
    ]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["small"]
    assert (tmp_path / "folder/small").read_bytes() == b"s" * 5000
