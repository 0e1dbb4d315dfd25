"""The commands that read: what they print, where, and with which exit code."""

from __future__ import annotations

import csv
import io
import json

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console
from tests.conftest import TINY, submit_tiny

from ldru_study.cli import group, main
from ldru_study.models.registry import build_model
from ldru_study.results.store import Store
from ldru_study.spec.model import MODEL_CONFIGS


@pytest.fixture
def tiny(tmp_path):
    """Return the URI of a store that holds three of the four trials of a study."""
    store = Store(str(tmp_path / "results"))
    submit_tiny(store)
    return store.uri


def run(*arguments, store=None):
    where = ["--store", store] if store else []
    return CliRunner().invoke(main, [*arguments, *where])


def table(text):
    """Return the rows of a printed table, split where columns are apart."""
    _, line, *rows = text.splitlines()
    assert set(line.strip()) == {"─"}
    return [[cell.strip() for cell in row.strip().split("   ") if cell.strip()] for row in rows]


def test_tables_away_from_a_terminal_have_one_line_per_row(tiny):
    done = run("status", store=tiny)
    assert done.exit_code == 0
    assert table(done.stdout) == [
        ["parity_check/constant", "2", "2 done"],
        ["parity_check/lstm", "2", "1 done, 1 waiting"],
    ]
    lines = done.stdout.splitlines()
    assert lines == [line.rstrip() for line in lines if line]
    question = "x" * 400
    wide = run("query", f"select '{question}' as question", store=tiny)
    assert table(wide.stdout) == [[question]]
    empty = run("query", "select null as nothing from range(3)", store=tiny)
    assert table(empty.stdout) == [[], [], []]


@pytest.mark.parametrize("command", [["list"], ["status"], ["analyze", "verdicts", "tiny"]])
def test_a_damaged_file_is_named_and_nothing_else_is_lost(tiny, command):
    whole = run(*command, store=tiny)
    assert (whole.exit_code, whole.stderr) == (0, "")
    store = Store(tiny)
    name = store.files.list("evaluations")[0].name
    store.files.write(name, store.files.read(name)[:-40])
    done = run(*command, store=tiny)
    assert done.exit_code == 4
    assert f"Warning: {name}: is damaged (" in done.stderr
    kept = "select count(*) as n from evaluations"
    assert json.loads(run("query", kept, "--json", store=tiny).stdout) == [{"n": 4}]
    # the trial whose answers were in it is no longer done
    states = "select count(*) as n from trials where state = 'done'"
    assert json.loads(run("query", states, "--json", store=tiny).stdout) == [{"n": 2}]


@pytest.mark.parametrize("name", ["resolved.json", "provenance.json"])
def test_a_damaged_study_leaves_the_others(tiny, name):
    store = Store(tiny)
    for file in ("resolved.json", "provenance.json"):
        data = store.files.read(f"studies/tiny/{file}")
        store.files.write(f"studies/other/{file}", data[:9] if file == name else data)
    done = run("list", "--json", store=tiny)
    assert done.exit_code == 4
    assert f"Warning: studies/other/{name}: is damaged (" in done.stderr
    submitted = {row["study"]: row["submitted"] for row in json.loads(done.stdout)}
    assert submitted.pop("tiny")
    assert submitted == ({} if name == "resolved.json" else {"other": None})


def test_a_damaged_file_is_in_the_report(tiny, tmp_path):
    store = Store(tiny)
    name = store.files.list("evaluations")[0].name
    store.files.write(name, b"no parquet")
    page = tmp_path / "page.html"
    done = run("report", "tiny", "--output", str(page), store=tiny)
    assert done.exit_code == 0
    assert "<h2>Damaged files</h2>" in page.read_text()
    assert name in page.read_text()


def test_figures_and_pages_are_written_where_asked(tiny, tmp_path):
    page, figure = tmp_path / "page.html", tmp_path / "curves.png"
    done = run("report", "tiny", "-o", str(page), "--figure", str(figure), store=tiny)
    assert (done.exit_code, done.stdout) == (0, "")
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert f"{page}: the report of tiny." in done.stderr
    refused = run("report", "tiny", "-o", str(tmp_path / "no" / "page.html"), store=tiny)
    assert refused.exit_code != 0
    assert "cannot be written: No such file or directory." in refused.stderr
    refused = run("report", "tiny", "-o", str(page), "--figure", "curves.bmp", store=tiny)
    assert "curves.bmp: '.bmp' is no figure. Use .pdf, .png, .svg." in refused.stderr


def test_query_formats_hold_the_same_rows(tiny, tmp_path):
    sql = (
        "select seed, length, num_total from evaluations where model_label = 'constant' "
        "order by all"
    )
    wanted = [
        {"seed": seed, "length": length, "num_total": 64} for seed in (0, 1) for length in (8, 16)
    ]
    assert json.loads(run("query", sql, "--json", store=tiny).stdout) == wanted
    rows = csv.DictReader(io.StringIO(run("query", sql, "--csv", store=tiny).stdout))
    assert [{key: int(value) for key, value in row.items()} for row in rows] == wanted
    path = tmp_path / "rows.parquet"
    assert run("query", sql, "--parquet", str(path), store=tiny).stderr == f"{path}: 4 rows.\n"
    assert pq.read_table(path).to_pylist() == wanted
    refused = run("query", sql, "--parquet", str(tmp_path / "no" / "x.parquet"), store=tiny)
    assert refused.exit_code == 2
    assert "cannot be written" in refused.stderr
    refused = run("query", sql, "--csv", "--json", store=tiny)
    assert refused.exit_code == 2
    assert "exclude each other. Give one." in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["status", "tidy"], 3, "tiny"),
        (["analyze", "verdicts", "tidy"], 3, "tiny"),
        (["report", "tidy"], 3, "tiny"),
        (["query", "select * from evaluation"], 2, "evaluation"),
    ],
)
def test_unknown_names_name_those_that_exist(tiny, arguments, code, message):
    done = run(*arguments, store=tiny)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stdout == ""


def test_an_empty_store_says_how_to_begin(tmp_path):
    for command in ("list", "status"):
        done = run(command, store=str(tmp_path / "none"))
        assert (done.exit_code, done.stdout) == (0, "")
        assert "no studies yet. `ldru-study submit SPEC` makes one." in done.stderr


def test_models():
    rows = json.loads(run("models", "list", "--json").stdout)
    assert [row["kind"] for row in rows] == sorted(MODEL_CONFIGS)
    for row in rows:
        # what is listed as a default is one: the model is built from it
        config = MODEL_CONFIGS[row["kind"]](kind=row["kind"], **row["fields"])
        assert build_model(config, num_symbols=2, num_classes=2, seed=0) is not None
        assert row["summary"].endswith(".")
    assert [row[0] for row in table(run("models", "list").stdout)] == sorted(MODEL_CONFIGS)


@pytest.mark.parametrize("kind", sorted(MODEL_CONFIGS))
def test_a_model_is_shown(kind):
    shown = json.loads(run("models", "show", kind, "--lengths", "40,400", "--json").stdout)
    config = MODEL_CONFIGS[kind](kind=kind)
    assert shown["kind"] == kind
    assert shown["num_parameters"] == config.num_parameters(2, 2)
    assert [row["length"] for row in shown["flops"]] == [40, 400]
    assert shown["flops"][0]["flops_per_token"] == round(config.num_flops(40, 2, 2) / 40)
    assert [row["field"] for row in shown["fields"]] == [
        name for name in MODEL_CONFIGS[kind].model_fields if name != "kind"
    ]
    # every field says what it means, every model but chance itself where it comes from
    assert all(row["meaning"] for row in shown["fields"])
    assert bool(shown["source"]) == (kind != "constant")


def test_a_model_is_shown_as_it_would_be_set():
    options = ("--set", "match_parameters=20000", "--task", "cycle_navigation")
    shown = json.loads(run("models", "show", "gru", *options, "--json").stdout)
    fields = {row["field"]: row for row in shown["fields"]}
    assert (fields["width"]["value"], fields["width"]["default"]) == (78, 256)
    assert abs(shown["num_parameters"] - 20_000) < 1_000
    text = run("models", "show", "transformer", "--set", "looped=true", "--lengths", "40").stdout
    assert "  parameters  248,898 for 2 symbols, 2 classes" in text
    assert "  FLOPs       3,256,326 per token at length 40" in text
    rows = {row[0]: row[1:] for row in table("\n".join(text.splitlines()[4:]))}
    assert rows["looped"][:3] == ["true", "false", "false, true"]


def test_a_model_that_cannot_be_shown():
    for arguments, message in (
        (("lsmt",), "model.kind: no model is called 'lsmt'. Did you mean 'lstm'?"),
        (("lstm", "--set", "widht=3"), "model.widht: no field is called 'widht'. Did you mean"),
        (("lstm", "--set", "width"), "--set width: no field=value of the model. Write --set"),
        (("lstm", "--task", "parity"), "task: no task is called 'parity'. Did you mean"),
        (("lstm", "--set", "width=3", "--set", "match_parameters=9999"), "Drop one of the two."),
        (("lstm", "--lengths", "0"), "'0' is no list of lengths such as 40,80,160."),
    ):
        failed = run("models", "show", *arguments)
        assert failed.exit_code == 2, arguments
        assert message in failed.stderr


def test_schema_is_json_schema():
    schema = json.loads(run("schema").stdout)
    assert schema["properties"]["name"]["pattern"]


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_a_narrow_terminal_shows_every_column_with_its_keys(capsys, monkeypatch, width):
    screen = Console(width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(group, "console", lambda: screen)
    columns = ["task", "model", *(f"column {n}" for n in range(6))]
    rows = [
        [f"task {m}", f"model(kind {m})", *(f"value {m} {n} of {m}" for n in range(6))]
        for m in range(3)
    ]
    group.print_table(columns, rows, keys=("task", "model"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    blocks = sum(line.strip().startswith("task ") and "column" in line for line in lines)
    assert blocks == {60: 3, 80: 2, 120: 2, 400: 1}[width]
    for row in rows:
        found = [line for line in lines if row[0] in line and row[1] in line]
        assert len(found) == blocks
        assert all(any(value in line for line in found) for value in row)


def test_a_plan_estimates_time_and_memory(tiny, tmp_path):
    spec = tmp_path / "tiny.yaml"
    spec.write_text(TINY)
    done = run("plan", str(spec), "--estimate", store=tiny)
    assert done.exit_code == 0, done.output
    constant, lstm = table(done.stdout)
    # both trials are done, so nothing is left to estimate
    assert constant[-1] == "2 done"
    assert lstm[4] == "1 done, 1 to train"
    assert lstm[-1] == "recorded"
    assert "Estimate: " in done.stderr
    assert "one trial at a time" in done.stderr
    other = run("plan", str(spec), "--estimate", "--json", store=str(tmp_path / "empty"))
    found = json.loads(other.stdout)
    assert len(found["trials"]) == 4
    assert [cell["source"] for cell in found["estimate"]["cells"]] == ["measured", "measured"]
    assert found["estimate"]["total_s"] > 0
    assert sorted(line.partition("] ")[2] for line in other.stderr.splitlines()) == [
        "parity_check/constant: measured",
        "parity_check/lstm: measured",
    ]
    without = run("plan", str(spec), "--json", store=tiny)
    assert (
        json.loads(without.stdout)
        == json.loads(run("plan", str(spec), "--json", "--estimate", store=tiny).stdout)["trials"]
    )
