"""Merging files: every row is there exactly once before, while and after it is done or dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pyarrow as pa
import pytest
from click.testing import CliRunner
from tests.results.test_store import NOW, evaluation, write_raw

from ldru_study.cli import main
from ldru_study.errors import StoreError
from ldru_study.results.compaction import Limits, compact
from ldru_study.results.facts import read_facts
from ldru_study.results.files import FileRoot
from ldru_study.results.schema import (
    ATTEMPTS,
    EVALUATIONS,
    SCHEMA_VERSION,
    TABLES,
    owner_of,
    versioned,
)
from ldru_study.results.store import Store

NOW_OLD_ENOUGH = Limits(min_age_s=-60)


def attempt_row(event, state=None, *, at=NOW, trial_id="t1"):
    row = dict.fromkeys(ATTEMPTS.names)
    return row | {
        "trial_id": trial_id,
        "attempt_id": "a1",
        "event": event,
        "state": state,
        "at": at,
    }


def fill(store, num_trials=20):
    for number in range(num_trials):
        name = f"t{number:02d}"
        rows = [evaluation(name, length=length) for length in (8, 16)]
        store.commit("evaluations", f"{name}-a1", rows)
        for event in ("start", "end"):
            store.commit("attempts", f"{name}-a1-{event}", [attempt_row(event, trial_id=name)])


def names(store, table="evaluations"):
    return [entry.name.partition("/")[2] for entry in store.files.list(table)]


def rows_of(store, table="evaluations"):
    """Return the rows as anybody sees them who opens the store now."""
    found, _ = Store(store.uri).read(table)
    return sorted(found.to_pylist(), key=lambda row: json.dumps(row, default=str))


def merge(store, limits=NOW_OLD_ENOUGH, table="evaluations"):
    return next(done for done in compact(store, limits) if done.table == table)


def test_many_files_become_one_with_the_same_rows(store):
    fill(store)
    before = {table: rows_of(store, table) for table in TABLES}
    done = {table.table: table for table in compact(store, NOW_OLD_ENOUGH)}
    assert {table: rows_of(store, table) for table in TABLES} == before
    assert [len(names(store, table)) for table in TABLES] == [1, 1, 0, 0, 0]
    about = done["evaluations"]
    assert (about.num_files, about.num_merged, about.num_rows) == (20, 20, 40)
    assert about.written == [f"evaluations/{names(store)[0]}"]
    assert store.read("evaluations")[1] == []


def test_the_second_time_there_is_nothing_to_do(store):
    fill(store)
    compact(store, NOW_OLD_ENOUGH)
    before = [store.files.list(table) for table in TABLES]
    assert all(not done.num_merged for done in compact(store, NOW_OLD_ENOUGH))
    assert [store.files.list(table) for table in TABLES] == before


def test_what_comes_later_is_merged_with_what_was_merged(store):
    fill(store, 3)
    compact(store, NOW_OLD_ENOUGH)
    store.commit("evaluations", "x-a1", [evaluation("x")])
    compact(store, NOW_OLD_ENOUGH)
    assert len(names(store)) == 1
    assert len(rows_of(store)) == 7


def test_young_files_are_left_alone(local_store, tmp_path):
    fill(local_store)
    for number in range(5):
        path = tmp_path / f"results/evaluations/t{number:02d}-a1.parquet"
        os.utime(path, (time.time() - 700, time.time() - 700))
    done = merge(local_store, Limits())
    assert (done.num_young, done.num_merged) == (15, 5)
    assert len(names(local_store)) == 16


def test_no_file_grows_beyond_the_limit_and_large_ones_are_left(store):
    fill(store)
    rows = rows_of(store)
    size = store.files.list("evaluations")[0].size
    most = 3 * Store(store.uri).read("evaluations")[0].nbytes // 20
    done = merge(store, Limits(min_age_s=-60, large_bytes=size + 1, most_bytes=most))
    assert 5 <= len(done.written) <= 7
    assert rows_of(store) == rows
    # each is large enough by now
    large = Limits(min_age_s=-60, large_bytes=size)
    assert merge(store, large).num_merged == 0
    assert rows_of(store) == rows


def test_what_cannot_be_read_whole_is_left_and_named(store):
    fill(store, 3)
    later = versioned(EVALUATIONS.append(pa.field("colour", pa.string())))
    rows = pa.Table.from_pylist([evaluation("later") | {"colour": "red"}], schema=later)
    write_raw(store, "evaluations/later.parquet", rows)
    newer = EVALUATIONS.with_metadata(
        {b"ldru_study.schema_version": str(SCHEMA_VERSION + 1).encode()}
    )
    write_raw(store, "evaluations/newer.parquet", newer.empty_table())
    write_raw(store, "evaluations/foreign.parquet", pa.table({"a": [1]}))
    store.files.write("evaluations/damaged.parquet", b"PAR1")
    store.files.write("evaluations/notes.txt", b"hello")
    left = {name: store.files.read(f"evaluations/{name}") for name in names(store)[:2]}
    done = merge(store)
    assert {item.name.partition("/")[2] for item in done.left_out} == {
        "damaged.parquet",
        "foreign.parquet",
        "later.parquet",
        "newer.parquet",
        "notes.txt",
    }
    assert "has columns of a later version (colour). Upgrade." in str(done.left_out)
    assert done.num_merged == 3
    assert len(names(store)) == 6
    assert {name: store.files.read(f"evaluations/{name}") for name in left} == left


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("moment", "is_large"),
    [("write", False), *((n, is_large) for n in (0, 1, 7, 19) for is_large in (False, True))],
)
def test_killed_at_any_moment_it_leaves_every_row_once(store, monkeypatch, moment, is_large):
    for number in range(20):
        name = f"t{number:02d}"
        rows = [evaluation(name, length=length) for length in (8, 16)]
        store.commit("evaluations", f"{name}-a1", rows)
    rows = rows_of(store)
    deleted = []

    def delete(self, name):
        if len(deleted) == moment:
            raise KilledError
        deleted.append(name)
        real_delete(self, name)

    def write(self, name, data):
        raise KilledError

    real_delete = FileRoot.delete
    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(FileRoot, "write", write)
        else:
            patch.setattr(FileRoot, "delete", delete)
            # one after the other, as many as there were before the end
            patch.setattr(FileRoot, "num_readers", 1)
        with pytest.raises(KilledError):
            compact(store, NOW_OLD_ENOUGH)
    assert rows_of(store) == rows
    assert store.read("evaluations")[0].num_rows == len(rows)
    # where the merged file counts as large it stays, and the others go
    biggest = max(entry.size for entry in store.files.list("evaluations"))
    limits = Limits(min_age_s=-60, large_bytes=biggest) if is_large else NOW_OLD_ENOUGH
    compact(store, limits)
    assert rows_of(store) == rows
    assert len(names(store)) <= 2


def test_what_is_written_anew_meanwhile_is_not_deleted(store, monkeypatch):
    fill(store, 2)
    later = NOW.replace(year=NOW.year + 1)
    real_write = FileRoot.write

    def write(self, name, data):
        real_write(self, name, data)
        if name.startswith("attempts/merged-"):
            monkeypatch.setattr(FileRoot, "write", real_write)
            corrected = attempt_row("end", "done", at=later, trial_id="t00")
            Store(store.uri).commit("attempts", "t00-a1-end", [corrected])

    monkeypatch.setattr(FileRoot, "write", write)
    merge(store, table="attempts")
    assert "t00-a1-end.parquet" in names(store, "attempts")
    for _ in range(2):
        # the later row of a key counts, wherever it lies
        assert read_facts(Store(store.uri)).ended["t00"]["state"] == "done"
        assert len(rows_of(store, "attempts")) == 4
        compact(store, NOW_OLD_ENOUGH)
    assert len(names(store, "attempts")) == 1


def test_a_correction_of_a_row_in_a_large_file_is_kept(store):
    for event in ("start", "end"):
        store.commit("attempts", f"t1-a1-{event}", [attempt_row(event, "interrupted")])
    merge(store, table="attempts")
    large = store.files.list("attempts")[0].size
    later = NOW.replace(year=NOW.year + 1)
    store.commit("attempts", "t1-a1-end", [attempt_row("end", "done", at=later)])
    store.commit("attempts", "t2-a1-start", [attempt_row("start", trial_id="t2")])
    merge(store, Limits(min_age_s=-60, large_bytes=large), table="attempts")
    assert read_facts(Store(store.uri)).ended["t1"]["state"] == "done"
    assert len(rows_of(store, "attempts")) == 3


# readers


@pytest.fixture
def reads(monkeypatch):
    """Return the names of all files that are read from now on."""
    seen = []
    real = FileRoot.read

    def read(self, name):
        seen.append(name.partition("/")[2])
        return real(self, name)

    monkeypatch.setattr(FileRoot, "read", read)
    return seen


def test_what_has_not_changed_is_not_read_again(store, reads):
    fill(store, 3)
    first, _ = store.read("evaluations")
    assert len(reads) == 3
    reads.clear()
    assert store.read("evaluations")[0] is first
    assert reads == []
    store.commit("evaluations", "t07-a1", [evaluation("t07")])
    store.commit("evaluations", "t01-a1", [evaluation("t01", num_correct=9)])
    store.files.delete("evaluations/t02-a1.parquet")
    rows = store.read("evaluations")[0].to_pylist()
    assert reads == ["t01-a1.parquet", "t07-a1.parquet"]
    assert sorted((r["trial_id"], r["length"], r["num_correct"]) for r in rows) == [
        ("t00", 8, 5),
        ("t00", 16, 5),
        ("t01", 8, 9),
        ("t07", 8, 5),
    ]


def test_a_damaged_file_is_read_again_until_it_is_mended(store):
    fill(store, 2)
    good = store.files.read("evaluations/t01-a1.parquet")
    store.files.write("evaluations/t01-a1.parquet", good[:50])
    for _ in range(2):
        rows, damage = store.read("evaluations")
        assert (len(rows), [item.name for item in damage]) == (2, ["evaluations/t01-a1.parquet"])
    store.files.write("evaluations/t01-a1.parquet", good)
    rows, damage = store.read("evaluations")
    assert (len(rows), damage) == (4, [])


def test_a_file_that_goes_between_list_and_read_is_looked_for_elsewhere(store, monkeypatch):
    fill(store)
    rows = rows_of(store)
    real = FileRoot.read

    def read(self, name):
        if not name.startswith("evaluations/merged-"):
            monkeypatch.setattr(FileRoot, "read", real)
            compact(Store(store.uri), NOW_OLD_ENOUGH)
        return real(self, name)

    monkeypatch.setattr(FileRoot, "read", read)
    assert len(store.read("evaluations")[0]) == len(rows)
    assert len(names(store)) == 1
    assert rows_of(store) == rows


def test_a_listing_that_misses_a_row_on_the_move_is_done_again(store, monkeypatch):
    fill(store)
    real = FileRoot.list

    def list_files(self, folder, **more):
        """Come too late for the old files and too early for the new one."""
        monkeypatch.setattr(FileRoot, "list", real)
        compact(Store(store.uri), NOW_OLD_ENOUGH)
        return []

    monkeypatch.setattr(FileRoot, "list", list_files)
    assert len(store.read("evaluations")[0]) == 40


def test_files_that_are_gone_are_not_made_up_for_by_one_more_torn_listing(store, monkeypatch):
    fill(store)
    real = FileRoot.list
    listed = []

    def list_files(self, folder, **more):
        listed.append(folder)
        if len(listed) == 1:
            before = real(self, folder, **more)
            with monkeypatch.context() as patch:
                patch.setattr(FileRoot, "list", real)
                compact(Store(store.uri), NOW_OLD_ENOUGH)
            return before
        return [] if len(listed) == 2 else real(self, folder, **more)

    monkeypatch.setattr(FileRoot, "list", list_files)
    assert len(store.read("evaluations")[0]) == 40


def test_a_table_that_cannot_be_listed_is_an_error(tmp_path):
    (tmp_path / "evaluations").write_text("a file where a folder must be")
    with pytest.raises(StoreError, match="evaluations: cannot be listed"):
        Store(str(tmp_path)).read("evaluations")


# readers of a part

OWNER, OTHER = "00000000000000aa", "00000000000000bb"


def test_the_rows_of_some_are_read_from_no_file_of_others(store, reads):
    for trial_id in (OWNER, OTHER):
        store.commit("evaluations", f"{trial_id}-a1", [evaluation(trial_id)])
    # a name that says nothing of whose rows are in it
    store.commit("evaluations", "mixed", [evaluation(OWNER, length=16), evaluation(OTHER)])
    rows, damage = store.read("evaluations", [OWNER])
    assert sorted((row["trial_id"], row["length"]) for row in rows.to_pylist()) == [
        (OWNER, 8),
        (OWNER, 16),
    ]
    assert damage == []
    assert sorted(reads) == [f"{OWNER}-a1.parquet", "mixed.parquet"]


@pytest.mark.parametrize(
    ("table", "file", "owner"),
    [
        ("attempts", f"{OWNER}-20260101T000000000000-ab12cd-end.parquet", OWNER),
        ("metrics", f"metrics/{OWNER}-20260101T000000000000-ab12cd-100.parquet", OWNER),
        ("evaluations", f"{OWNER}.parquet", OWNER),
        ("evaluations", f"{OWNER}0-a1.parquet", None),
        ("evaluations", f"merged-{OWNER}{OTHER}.parquet", None),
        ("suggestions", f"{OWNER}-000012.parquet", OWNER),
        ("refinements", f"{OTHER}-{OWNER}-80-512-0.parquet", OWNER),
        ("refinements", f"{OTHER}-80-512-0.parquet", None),
        ("refinements", f"merged-{OWNER}{OTHER}.parquet", None),
    ],
)
def test_a_name_says_whose_rows_are_in_a_file_or_nothing(table, file, owner):
    assert owner_of(table, file) == owner


def test_a_large_file_is_read_no_further_than_its_ids(store, reads, monkeypatch):
    monkeypatch.setattr("ldru_study.results.table._SMALL_BYTES", 0)
    for name in ("others", "mixed"):
        rows = [evaluation(OTHER, length=length) for length in (8, 16)]
        rows += [evaluation(OWNER)] if name == "mixed" else []
        store.commit("evaluations", name, rows)
    rows, _ = store.read("evaluations", {OWNER})
    assert [row["trial_id"] for row in rows.to_pylist()] == [OWNER]
    assert reads == ["mixed.parquet"]


@pytest.mark.parametrize("is_warm", [False, True])
def test_damage_is_named_to_whom_it_may_concern(store, is_warm, monkeypatch):
    monkeypatch.setattr("ldru_study.results.table._SMALL_BYTES", 0)
    store.commit("evaluations", "good", [evaluation(OWNER), evaluation(OTHER)])
    if is_warm:
        store.read("evaluations")
    for name in (f"{OWNER}-a1", f"{OTHER}-a1", "merged-1"):
        store.files.write(f"evaluations/{name}.parquet", b"no parquet")
    rows, damage = store.read("evaluations", [OWNER])
    assert [row["trial_id"] for row in rows.to_pylist()] == [OWNER]
    assert [one.name.partition("/")[2] for one in damage] == [
        f"{OWNER}-a1.parquet",
        "merged-1.parquet",
    ]
    assert len(store.read("evaluations")[1]) == 3


def test_the_rows_of_some_are_seen_once_while_files_are_merged(store, monkeypatch):
    monkeypatch.setattr("ldru_study.results.table._SMALL_BYTES", 0)
    trial_ids = [f"{number:016x}" for number in range(6)]
    for trial_id in trial_ids:
        store.commit("evaluations", f"{trial_id}-a1", [evaluation(trial_id)])
    real = FileRoot.open

    def open_file(self, name):
        monkeypatch.setattr(FileRoot, "open", real)
        compact(Store(store.uri), NOW_OLD_ENOUGH)
        return real(self, name)

    monkeypatch.setattr(FileRoot, "open", open_file)
    rows, damage = store.read("evaluations", trial_ids[:3])
    assert sorted(rows["trial_id"].to_pylist()) == trial_ids[:3]
    assert damage == []
    assert len(names(store)) == 1


WRITER = """
import os, sys, time
from tests.results.test_store import evaluation
from ldru_study.results.store import Store
uri, me, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store(uri)
for number in range(count):
    name = f"{me}-{number:04d}"
    rows = [evaluation(name, length=length) for length in (8, 16)]
    store.commit("evaluations", f"{name}-a1", rows)
    # from here on every reader must see it
    with open(f"{sys.argv[4]}.tmp", "w") as told:
        told.write(str(number + 1))
    os.replace(f"{sys.argv[4]}.tmp", sys.argv[4])
    time.sleep(0.01)
"""
COMPACTOR = """
import os, sys
from ldru_study.results.compaction import Limits, compact
from ldru_study.results.store import Store
store = Store(sys.argv[1])
while not os.path.exists(sys.argv[2]):
    compact(store, Limits(min_age_s=2.0, large_bytes=20_000, most_bytes=100_000))
"""


@pytest.mark.slow
def test_writers_readers_and_two_compactions_that_die_all_at_once(store, tmp_path):
    # a request to the server takes as long as ten files in a folder
    count = 400 if store.uri.startswith("/") else 60
    stop = tmp_path / "stop"
    told = {me: tmp_path / f"{me}.count" for me in ("x", "y")}

    def start(script, *arguments):
        command = [sys.executable, "-c", script, store.uri, *map(str, arguments)]
        return subprocess.Popen(command, cwd=os.getcwd())

    def committed():
        return {me: int(path.read_text()) if path.exists() else 0 for me, path in told.items()}

    def check(reader, known):
        rows = reader.read("evaluations")[0].to_pylist()
        seen = Counter((row["trial_id"], row["length"]) for row in rows)
        assert max(seen.values(), default=1) == 1
        for me, number in known.items():
            for n in range(number):
                assert seen[f"{me}-{n:04d}", 8] == seen[f"{me}-{n:04d}", 16] == 1, (me, n)

    draw = random.Random(7)
    writers = [start(WRITER, me, count, path) for me, path in told.items()]
    compactors = [start(COMPACTOR, stop) for _ in range(2)]
    kill_at = draw.randint(1, 9)
    num_kills = num_reads = 0
    try:
        while any(writer.poll() is None for writer in writers) or num_kills < 5:
            for reader in (store, Store(store.uri)):
                check(reader, committed())
                num_reads += 1
            if num_reads >= kill_at:
                victim = draw.randrange(2)
                compactors[victim].send_signal(signal.SIGKILL)
                assert compactors[victim].wait() == -signal.SIGKILL
                compactors[victim] = start(COMPACTOR, stop)
                num_kills += 1
                kill_at = num_reads + draw.randint(10, 60)
        stop.touch()
        assert [process.wait() for process in (*writers, *compactors)] == [0] * 4
    finally:
        for process in (*writers, *compactors):
            process.kill()
            process.wait()
    assert committed() == dict.fromkeys(told, count)
    check(Store(store.uri), committed())
    # and it did something
    assert len(names(store)) < count
    compact(store, NOW_OLD_ENOUGH)
    check(Store(store.uri), committed())


def test_the_command_says_what_it_did(local_store, tmp_path):
    fill(local_store, 4)
    command = ["store", "compact", "--store", local_store.uri, "--json"]
    done = CliRunner().invoke(main, command)
    about = {row["table"]: row for row in json.loads(done.stdout)}
    assert done.exit_code == 0
    assert (about["attempts"]["num_young"], about["attempts"]["num_merged"]) == (8, 0)
    for path in (tmp_path / "results").rglob("*.parquet"):
        os.utime(path, (time.time() - 700, time.time() - 700))
    local_store.files.write("evaluations/damaged.parquet", b"PAR1")
    os.utime(tmp_path / "results/evaluations/damaged.parquet", (1, 1))
    done = CliRunner().invoke(main, command[:-1])
    assert done.exit_code == 4
    assert "Warning: evaluations/damaged.parquet: is damaged (" in done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["table", "files", "merged", "into", "rows", "too", "new"]
    assert ["attempts", "8", "8", "1", "8", "0"] in lines
    assert ["evaluations", "5", "4", "1", "8", "0"] in lines
