"""SQL over a store: the rows that studies ask for, and no way out of it."""

from __future__ import annotations

import pytest
from tests.conftest import submit_tiny

from ldru_study.results.query import Database, QueryError, to_records


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    from ldru_study.results.store import Store

    store = Store(str(tmp_path_factory.mktemp("query") / "results"))
    submit_tiny(store)
    return Database(store)


def test_trials_have_states(database):
    rows = database.sql("select cell, seed, state, model.kind as kind from trials").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("parity_check/constant", 0, "done", "constant"),
        ("parity_check/constant", 1, "done", "constant"),
        ("parity_check/lstm", 0, "done", "lstm"),
        ("parity_check/lstm", 1, "waiting", "lstm"),
    ]


def test_evaluations_are_those_that_the_study_asks_for(database):
    found = database.sql("select seed, length from evaluations where model_label = 'constant'")
    assert found.to_pylist() == [
        {"seed": seed, "length": length} for seed in (0, 1) for length in (8, 16)
    ]
    assert to_records(
        database.sql("select bool_and(accuracy = num_correct / num_total) as same from evaluations")
    ) == [{"same": True}]


def test_train_settings_are_columns(database):
    assert database.sql("select distinct train.max_length as n from trials").to_pylist() == [
        {"n": 8}
    ]


def test_metrics_and_attempts(database):
    assert database.sql("select count(*) as n from metrics").to_pylist() == [{"n": 6}]
    events = database.sql("select event, count(*) as n from attempts group by event order by event")
    assert [tuple(row.values()) for row in events.to_pylist()] == [("end", 3), ("start", 3)]


ESCAPES = [
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from read_parquet('*.parquet')",
    "copy trials to 'out.csv'",
    "attach 'other.db'",
    "install httpfs",
    "load httpfs",
    "drop table trials",
    "insert into trials select * from trials",
    "create table x as select 1",
    "set enable_external_access = true",
    "reset enable_external_access",
    "pragma enable_profiling",
    "call pragma_version()",
    "export database 'folder'",
    "select * from glob('*')",
    "select getenv('HOME')",
    "select * from database",
    "select 1; select 2",
    "select 1; drop table trials",
    "",
    "selec 1",
]


@pytest.mark.parametrize("sql", ESCAPES)
def test_no_way_out(database, sql, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryError, match=r"^query: "):
        database.sql(sql)
    assert list(tmp_path.iterdir()) == []
    # and nothing inside has changed
    assert database.sql("select count(*) as n from trials").to_pylist() == [{"n": 4}]


def test_a_misspelt_table_is_suggested(database):
    message = (
        r"^query: no table is called 'trails'. Did you mean 'trials'\? "
        r"Tables: attempts, evaluations, metrics, trials.$"
    )
    with pytest.raises(QueryError, match=message):
        database.sql("select * from trails")


def test_describe_works(database):
    columns = [row["column_name"] for row in database.sql("describe evaluations").to_pylist()]
    assert columns[:4] == ["study", "cell", "task", "model_label"]


def test_an_empty_store_has_all_tables(store):
    database = Database(store)
    for table in ("trials", "evaluations", "metrics", "attempts"):
        assert database.sql(f"select * from {table}").to_pylist() == []
