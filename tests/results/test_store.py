"""The store: written once, all or nothing, and what is damaged is named and harms nothing else."""

from __future__ import annotations

import datetime
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ldru_study.errors import NotFoundError, StoreError
from ldru_study.results.facts import read_facts
from ldru_study.results.files import FileRoot
from ldru_study.results.rows import newest
from ldru_study.results.schema import EVALUATIONS, SCHEMA_VERSION, versioned
from ldru_study.results.store import Store, new_attempt_id

NOW = datetime.datetime.now(datetime.UTC)


def evaluation(trial_id="t1", attempt_id="a1", length=8, num_correct=5):
    return {
        "trial_id": trial_id,
        "attempt_id": attempt_id,
        "length": length,
        "multiple": length / 8,
        "num_correct": num_correct,
        "num_total": 10,
        "chance": 0.5,
        "loss": 0.7,
        "eval_seed": 0,
        "seconds": 0.1,
        "committed_at": NOW,
    }


def test_rows_come_back_as_they_went(store):
    rows = [evaluation(length=length) for length in (8, 16)]
    store.commit("evaluations", "t1-a1", rows)
    found, damage = store.read("evaluations")
    assert found.to_pylist() == rows
    assert damage == []
    assert found.schema.equals(EVALUATIONS)


def test_the_newest_attempt_counts(store):
    store.commit("evaluations", "t1-a1", [evaluation(num_correct=1), evaluation(length=16)])
    store.commit("evaluations", "t1-a2", [evaluation(attempt_id="a2", num_correct=2)])
    store.commit("evaluations", "t2-a0", [evaluation("t2", "a0", num_correct=3)])
    rows = read_facts(store).evaluations.to_pylist()
    assert [(r["trial_id"], r["length"], r["num_correct"]) for r in rows] == [
        ("t1", 8, 2),
        ("t1", 16, 5),
        ("t2", 8, 3),
    ]


def test_newest_of_nothing(store):
    assert len(newest(store.read("evaluations")[0], ("length",))) == 0


def write_raw(store, name, table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.files.write(name, sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("t2-a1.parquet", lambda good: good[: len(good) // 2], "is damaged ("),
        ("t2-a1.parquet", lambda good: b"", "is damaged ("),
        ("t2-a1.parquet", lambda good: b"not parquet at all", "is damaged ("),
        ("notes.txt", lambda good: b"hello", "is no Parquet file of this store. Move it elsewhere"),
    ],
)
def test_a_damaged_file_is_named_and_harms_nothing_else(store, name, spoil, reason):
    store.commit("evaluations", "t1-a1", [evaluation()])
    good = store.files.read("evaluations/t1-a1.parquet")
    store.files.write(f"evaluations/{name}", spoil(good))
    found, damage = store.read("evaluations")
    assert len(found) == 1
    assert [item.name for item in damage] == [f"evaluations/{name}"]
    assert damage[0].reason.startswith(reason)
    assert str(read_facts(store).damage[0]).startswith(f"evaluations/{name}: {reason}")


def test_every_flipped_page_is_damage_or_the_same_rows(local_store):
    local_store.commit("evaluations", "t1-a1", [evaluation(length=n) for n in range(8, 40)])
    good = local_store.files.read("evaluations/t1-a1.parquet")
    rows = local_store.read("evaluations")[0].to_pylist()
    for at in range(0, len(good), 97):
        spoilt = bytearray(good)
        spoilt[at] ^= 0xFF
        local_store.files.write("evaluations/t1-a1.parquet", bytes(spoilt))
        found, damage = local_store.read("evaluations")
        assert damage or found.to_pylist() == rows, at


def test_foreign_and_newer_files_are_refused(store):
    write_raw(store, "evaluations/foreign.parquet", pa.table({"a": [1]}))
    newer = EVALUATIONS.with_metadata(
        {b"ldru_study.schema_version": str(SCHEMA_VERSION + 1).encode()}
    )
    write_raw(store, "evaluations/newer.parquet", newer.empty_table())
    reasons = {item.name: item.reason for item in store.read("evaluations")[1]}
    assert reasons == {
        "evaluations/foreign.parquet": "was not written by ldru-study. Move it elsewhere.",
        "evaluations/newer.parquet": (
            f"has schema version {SCHEMA_VERSION + 1}, newer than {SCHEMA_VERSION}. Upgrade."
        ),
    }


def test_a_file_from_an_older_version_lacks_columns_and_reads_null(store):
    older = pa.Table.from_pylist([evaluation()], schema=versioned(EVALUATIONS))
    write_raw(store, "evaluations/t1-a1.parquet", older.drop_columns(["loss"]))
    found, damage = store.read("evaluations")
    assert not damage
    assert found["loss"].to_pylist() == [None]


def test_unfinished_files_are_invisible(local_store, tmp_path):
    local_store.commit("evaluations", "t1-a1", [evaluation()])
    (tmp_path / "results/evaluations/.t1-a2.parquet.abcd.tmp").write_bytes(b"half")
    found, damage = local_store.read("evaluations")
    assert (len(found), damage) == (1, [])


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "evaluations").write_text("a file where a folder must be")
    store = Store(str(tmp_path))
    with pytest.raises(StoreError, match=r"evaluations/t1-a1.parquet: cannot be written: .*again"):
        store.commit("evaluations", "t1-a1", [evaluation()])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluations"]


def test_a_crash_before_the_rename_leaves_the_old_file(local_store, monkeypatch):
    local_store.files.write("studies/a/spec.yaml", b"old")

    def power_cut(*_):
        raise OSError(5, "power cut")

    monkeypatch.setattr("os.replace", power_cut)
    with pytest.raises(StoreError, match="power cut"):
        local_store.files.write("studies/a/spec.yaml", b"new")
    assert local_store.files.read("studies/a/spec.yaml") == b"old"
    assert [entry.name for entry in local_store.files.list("studies", recursive=True)] == [
        "studies/a/spec.yaml"
    ]


def test_studies_are_listed_and_near_names_suggested(store):
    for name in ("alpha", "beta"):
        store.save_study(name, {"resolved.json": b"{}", "spec.yaml": b"name: x"})
    assert store.studies() == ["alpha", "beta"]
    assert store.spec_text("beta") == "name: x"
    message = r"no study is called 'alhpa'. Did you mean 'alpha'\? It holds: alpha, beta."
    with pytest.raises(NotFoundError, match=message):
        store.study("alhpa")


def test_a_damaged_study_file_says_so(store):
    store.save_study("alpha", {"resolved.json": b"{"})
    with pytest.raises(StoreError, match=r"studies/alpha/resolved\.json: is damaged"):
        store.study("alpha")


def test_a_study_in_the_form_of_another_version_says_so(store):
    store.save_study("alpha", {"resolved.json": b'{"trials": []}'})
    with pytest.raises(StoreError, match=r"alpha/resolved\.json: has no 'cells'.*Submit the study"):
        store.study("alpha")


def test_all_checkpoints_are_listed_only_when_a_weight_is_asked_for(store, monkeypatch):
    store.files.write("checkpoints/t1/weights.safetensors", b"weights")
    store.files.write("checkpoints/t2/state.safetensors", b"not yet")
    listed = []
    real = FileRoot.list

    def watched(self, folder, **more):
        listed.append(folder)
        return real(self, folder, **more)

    monkeypatch.setattr(FileRoot, "list", watched)
    holdings = read_facts(store).holdings
    assert "checkpoints" not in listed
    assert [name in holdings.trained for name in ("t1", "t2", "t1")] == [True, False, True]
    assert listed.count("checkpoints") == 1


def test_an_unknown_filesystem_is_refused():
    with pytest.raises(StoreError, match="store 'wibble://x': cannot be opened"):
        FileRoot("wibble://x")


@pytest.mark.parametrize("folder", ["with space", "per%cent", "ünï", "a#b", "q?x", "[brackets]"])
def test_any_folder_name_works(tmp_path, folder):
    store = Store(str(tmp_path / folder))
    store.commit("evaluations", "t1-a1", [evaluation()])
    assert len(store.read("evaluations")[0]) == 1
    assert (tmp_path / folder / "evaluations" / "t1-a1.parquet").exists()
    # workers open the store by its address
    assert len(Store(store.uri).read("evaluations")[0]) == 1


def test_attempt_ids_sort_by_time():
    ids = []
    for _ in range(5):
        ids.append(new_attempt_id())
        time.sleep(0.001)
    assert ids == sorted(ids)
    assert len({new_attempt_id() for _ in range(1000)}) == 1000
