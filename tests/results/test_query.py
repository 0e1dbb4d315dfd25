"""SQL over a store: the rows that studies ask for, and no way out of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import duckdb
import pyarrow as pa
import pytest
from tests.conftest import submit_tiny

from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.collect import collect
from ldru_study.analysis.views import CURVES, VERDICTS, open_database
from ldru_study.errors import NotFoundError
from ldru_study.results.files import FileRoot
from ldru_study.results.query import Database, to_flat, to_records
from ldru_study.results.rows import newest, only_newest
from ldru_study.results.sql import QueryError
from ldru_study.results.store import Store
from ldru_study.spec.model import ConstantConfig, LstmConfig
from ldru_study.spec.model_size import size_of


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("query") / "results"))
    submit_tiny(store)
    return open_database(store)


def test_trials_have_states(database):
    rows = database.sql("select cell, seed, state, model.kind as kind from trials").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("parity_check/constant", 0, "done", "constant"),
        ("parity_check/constant", 1, "done", "constant"),
        ("parity_check/lstm", 0, "done", "lstm"),
        ("parity_check/lstm", 1, "waiting", "lstm"),
    ]


def test_evaluations_are_those_that_the_study_asks_for(database):
    found = database.sql(
        "select seed, length from evaluations where model_label = 'constant' order by all"
    )
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


def test_trials_have_sizes(database):
    rows = database.sql("select model, num_parameters, flops_per_token from trials").to_pylist()
    for row in rows:
        made = {
            "constant": ConstantConfig(kind="constant"),
            "lstm": LstmConfig(kind="lstm", width=4),
        }
        config = made[row["model"]["kind"]]
        assert row["num_parameters"] == config.num_parameters(2, 2)
        assert row["flops_per_token"] == round(config.num_flops(8, 2, 2) / 8)


def test_what_another_version_built_has_no_size(database, store):
    other = json.loads(database.facts.store.files.read("studies/tiny/resolved.json"))
    known, unknown = other["cells"]
    unknown["config"]["model"] = {"kind": "elman", "width": 4}
    store.save_study("other", {"resolved.json": json.dumps(other).encode()})
    rows = Database(store, ["other"]).sql(
        "select cell, num_parameters is null as lacks, flops_per_token from trials where seed = 0"
    )
    assert [(row["cell"], row["lacks"]) for row in rows.to_pylist()] == [
        (known["cell"], False),
        (unknown["cell"], True),
    ]
    assert rows["flops_per_token"].to_pylist() == [0, None]


@pytest.mark.parametrize(
    "change",
    [
        {"task": None},
        {"task": "no_task"},
        {"train": None},
        {"train": {"max_length": None}},
        {"train": {"max_length": 0}},
        {"model": None},
        {"model": {"kind": "rnn", "width": "wide"}},
    ],
)
def test_what_is_no_configuration_of_ours_has_no_size(change):
    config = {"task": "parity_check", "train": {"max_length": 8}, "model": {"kind": "constant"}}
    assert size_of(config) is not None
    assert size_of(config | change) is None


def test_metrics_and_attempts(database):
    assert database.sql("select count(*) as n from metrics").to_pylist() == [{"n": 6}]
    events = database.sql("select event, count(*) as n from attempts group by event order by event")
    assert [tuple(row.values()) for row in events.to_pylist()] == [("end", 3), ("start", 3)]


ESCAPES = [
    # files, here and elsewhere
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from read_parquet('*.parquet')",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/etc/passwd')",
    "select * from read_json('/etc/passwd')",
    "select * from sniff_csv('/etc/passwd')",
    "select * from parquet_metadata('x.parquet')",
    "select * from glob('*')",
    "select * from 'https://example.com/x.csv'",
    "select * from read_csv('https://example.com/x.csv')",
    "copy trials to 'out.csv'",
    "copy (select 1) to 'out.parquet' (format parquet)",
    "explain analyze copy (select 1) to 'out.csv'",
    "export database 'folder'",
    "attach 'other.db'",
    "attach ':memory:' as other",
    "install httpfs",
    "load httpfs",
    # what is in memory
    "drop table trials",
    "insert into trials select * from trials",
    "create table x as select 1",
    "create view trials as select 1",
    "create macro f() as 1",
    "explain analyze drop view trials",
    "explain analyze create table x as select 1",
    "/* x */ explain analyze drop view trials",
    "with x as (delete from trials returning *) select * from x",
    "prepare x as drop view trials",
    "begin",
    "use memory",
    # settings
    "set enable_external_access = true",
    "reset enable_external_access",
    "set lock_configuration = false",
    "set temp_directory = '.'",
    "set variable x = 1",
    "pragma enable_profiling",
    "call pragma_version()",
    "select * from enable_logging()",
    "select * from enable_profiling()",
    # the process around it
    "select getenv('HOME')",
    "select * from database",
    "select * from duckdb_secrets()",
    "select * from duckdb_settings()",
    "select * from arrow_scan(1, 2, 3)",
    "select * from pandas_scan(1)",
    "select * from python_map_function((select 1))",
    # a query in a text would be seen too late
    "select * from query('select 1')",
    "select * from json_execute_serialized_sql('{}')",
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
        r"^query: no table is called 'trails'. Did you mean 'trials'\? Tables: attempts, curves, "
        r"evaluations, metrics, refinements, suggestions, trials, verdicts.$"
    )
    with pytest.raises(QueryError, match=message):
        database.sql("select * from trails")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "select acuracy from evaluations",
            "no column is called 'acuracy'. Did you mean 'accuracy'",
        ),
        ("select e.lenght from evaluations e", "'lenght'. Did you mean 'length'"),
        (
            "select half_multipl from curves join trials using (cell)",
            r"Did you mean 'half_multiple'\? Columns of curves: study, cell, .*Columns of trials: ",
        ),
        ("select train.max_lenght from trials", "max_lenght.*max_length"),
        ("select summ(seed) from trials", 'Did you mean "sum"'),
        ("select t.seed from trials", "no table is called 't'"),
        ("select seed from trials group by", "syntax error at or near"),
        ("select 'x'::int from trials", "Could not convert string 'x'"),
    ],
)
def test_what_is_misspelt_is_named_and_a_name_suggested(database, sql, message):
    with pytest.raises(QueryError, match=rf"(?s)^query: .*{message}"):
        database.sql(sql)


def test_describe_works(database):
    columns = [row["column_name"] for row in database.sql("describe evaluations").to_pylist()]
    assert columns[:4] == ["study", "cell", "task", "model_label"]


def test_an_empty_store_has_all_tables(store):
    database = Database(store)
    for table in database.views:
        assert database.sql(f"select * from {table}").to_pylist() == []


def test_curves_and_verdicts_are_what_the_analysis_says(database):
    counts = collect(database.facts.store, "tiny")
    judged = judge_cells(counts.cells, counts.settings)
    seeds = database.sql("select * from curves where seed is not null").to_pylist()
    assert [row["verdict"] for row in seeds] == [s.kind for v in judged for s in v.seeds]
    together = database.sql("from CURVES where seed is null").to_pylist()
    assert [row["verdict"] for row in together] == [v.joint.kind for v in judged]
    rows = database.sql('select * from "Verdicts"').to_pylist()
    assert [row["verdict"] for row in rows] == [verdict.joint.kind for verdict in judged]
    assert [row["summary"] for row in rows] == [verdict.summary for verdict in judged]
    assert [row["num_seeds"] for row in rows] == [2, 1]
    assert [row["num_unfinished"] for row in rows] == [0, 1]
    for row, verdict in zip(rows, judged, strict=True):
        assert (row["holds_share_lower"], row["holds_share_upper"]) == verdict.holds_share
        assert row["claim_at_2x"] == verdict.claims[0].outcome
        assert row["claim_at_3x"] is None
        assert (row["num_strings_min"], row["num_strings_max"]) == (64, 64)


def test_what_no_query_names_is_not_computed(store):
    asked = []

    def derived(database):
        asked.append(database)
        return pa.table({"x": [1]})

    database = Database(store, derived={"curves": derived})
    database.sql("select 'curves', count(*) as curves from trials")
    assert asked == []
    for sql in ("select * from curves", "describe curves", "with c as (from curves) from c, c d"):
        database.sql(sql)
    assert asked == [database]


def test_a_database_can_be_of_one_study(database):
    store = database.facts.store
    data = {name: store.files.read(f"studies/tiny/{name}") for name in ("resolved.json",)}
    part = json.loads(data["resolved.json"])
    part["cells"] = part["cells"][:1]
    store.save_study("part", {"resolved.json": json.dumps(part).encode()})
    for studies, sizes in ((["part"], (2, 4, 4)), (["tiny"], (4, 6, 6)), (None, (6, 10, 6))):
        found = Database(store, studies)
        assert sizes == tuple(
            found.sql(f"select count(*) as n from {table}")["n"][0].as_py()
            for table in ("trials", "evaluations", "metrics")
        )
    with pytest.raises(NotFoundError, match=r"no study is called 'tidy'\. Did you mean 'tiny'"):
        Database(store, ["tidy"])


def test_of_one_study_no_file_of_another_is_read(database, monkeypatch):
    files = database.facts.store.files
    part = json.loads(files.read("studies/tiny/resolved.json"))
    part["cells"] = part["cells"][1:]
    Store(files.uri).save_study("last", {"resolved.json": json.dumps(part).encode()})
    seen = []
    real = FileRoot.read

    def read(self, name):
        seen.append(name)
        return real(self, name)

    monkeypatch.setattr(FileRoot, "read", read)
    found = open_database(Store(files.uri), ["last"])
    assert len(found.sql("select * from verdicts")) == 1
    trials = {name.split("/")[1][:16] for name in seen if not name.startswith("studies/")}
    # the second was never begun
    assert trials == set(part["cells"][0]["trial_ids"][:1])


def test_the_newest_attempt_counts_once(store):
    rows = pa.table(
        {
            "trial_id": ["a", "b", "a", "a", "b", "c"],
            "attempt_id": ["1", "1", "2", "2", "1", "9"],
            "length": [8, 8, 8, 16, 16, 8],
        }
    )
    kept = only_newest(rows, ["length"]).to_pylist()
    assert kept == [row for number, row in enumerate(rows.to_pylist()) if number != 0]
    assert newest(rows, ["length"]).to_pylist() == sorted(
        kept, key=lambda row: [*row.values()][::2]
    )
    # trials that nobody tried twice are left as they are
    assert only_newest(rows.slice(1, 1), ["length"]).to_pylist() == rows.slice(1, 1).to_pylist()
    assert only_newest(rows.slice(0, 0), ["length"]).num_rows == 0


ENDLESS = (
    "select count(*) from range(1000000000) a, range(1000000000) b where a.range % 7 = b.range"
)


def test_ctrl_c_ends_a_query(store, tmp_path):
    script = f"""
from ldru_study.analysis.views import open_database
from ldru_study.results.store import Store
database = open_database(Store({store.uri!r}))
print("begins", flush=True)
try:
    database.sql({ENDLESS!r})
except KeyboardInterrupt:
    print(database.sql("select 1 as n").to_pylist())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout.readline() == "begins\n"
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120)[0] == "[{'n': 1}]\n"


def test_there_is_no_place_for_temporary_files(database):
    rows = database.sql("select current_setting('temp_directory') as place").to_pylist()
    assert rows == [{"place": ""}]


def test_results_become_json_whatever_they_are():
    table = duckdb.sql(
        "select 'nan'::double as a, 'inf'::double as b, 1.5::decimal(9, 2) as c, "
        "date '2026-01-02' as d, {'x': [1, 2]} as e, null as f, true as g, 'x'::blob as h"
    ).to_arrow_table()
    (row,) = to_records(table)
    assert json.loads(json.dumps(row, allow_nan=False)) == {
        **{"a": None, "b": None, "c": "1.50", "d": "2026-01-02", "e": {"x": [1, 2]}},
        **{"f": None, "g": True, "h": "b'x'"},
    }
    assert to_flat(table)["e"].to_pylist() == ['{"x": [1, 2]}']


def test_views_have_the_columns_that_they_say(store):
    database = open_database(store)
    for name, schema in (("curves", CURVES), ("verdicts", VERDICTS)):
        assert database.sql(f"select * from {name}").column_names == schema.names
