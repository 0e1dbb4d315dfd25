"""The page: everything is on it, nothing in it can act, and it needs no network."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from tests.analysis.simulate import MULTIPLES, curve, from_accuracies, numbered

from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.collect import Failure, StudyCounts
from ldru_study.analysis.counts import CellCurves
from ldru_study.analysis.page import Extras, ScalingLine, page_data
from ldru_study.analysis.plots import failure_figure
from ldru_study.analysis.report import Origin, render_report
from ldru_study.analysis.sentences import answer, headline, limits
from ldru_study.analysis.tables import COLUMNS, accuracies, bound, render, share, verdict_rows
from ldru_study.analysis.verdict import VerdictSettings
from ldru_study.results.search_table import SearchRow

# also the two texts after which a script would end only at the second </script>
HOSTILE = '<!--<script></script><script>alert(1)</script> & "quoted" <b>{{ 7 * 7 }}'


def cells():
    rng = np.random.default_rng(0)
    holds = numbered(*(curve(total=512) for _ in range(3)))
    sharp = numbered(*(curve(rng, half=4, beta=6) for _ in range(3)))
    chance = numbered(from_accuracies([0.5] * len(MULTIPLES)))
    return (
        CellCurves("parity_check", "ldru(mlp)", "parity_check/ldru(mlp)", holds, {}, {}),
        CellCurves("parity_check", HOSTILE, "parity_check/hostile", sharp, {}, {}),
        CellCurves("tomita_5", "lstm", "tomita_5/lstm", chance, {}, {1: "out_of_memory"}),
        CellCurves("tomita_5", "rnn", "tomita_5/rnn", (), {}, {0: "diverged"}),
    )


@pytest.fixture(scope="module")
def study():
    return StudyCounts(
        name="pages",
        question=f"Does it hold? {HOSTILE}",
        cells=cells(),
        settings=VerdictSettings(),
        states={"done": 7, "failed": 2},
        failures=(
            Failure("tomita_5/lstm", 1, "out_of_memory", f"no room {HOSTILE}", f"Trace {HOSTILE}"),
            Failure("tomita_5/rnn", 0, "diverged", "the loss is nan at step 3", "Trace 2"),
        ),
        damage=(f"evaluations/x.parquet: is damaged ({HOSTILE})",),
    )


def extras():
    curve = {"seed": 0, "step": [1, 10], "loss": [0.7, 0.1], "accuracy": [0.5, 1.0]}
    rows = [
        SearchRow(
            "tomita_5/lstm", n, "done", {"model.width": HOSTILE}, [0.1 * n, 9.0], n == 1, n == 1
        )
        for n in (1, 2)
    ]
    shortcut = np.full(len(MULTIPLES), 0.75)
    return Extras(
        training={"parity_check/ldru(mlp)": [curve]},
        objectives=("validation_loss", "train_seconds"),
        searches=rows,
        shortcuts={"parity_check/hostile": shortcut},
        samplings=("balanced",),
    )


SUBMISSION = {
    "at": "2026-01-01T00:00:00+00:00",
    "revision": "abc",
    "command": ["submit", f"my study{HOSTILE}.yaml"],
    "diff": "-" * 30_000 + HOSTILE,
    "versions": {"python": "3.11.7"},
    "hardware": {"host": HOSTILE},
}


@pytest.fixture(scope="module")
def verdicts(study):
    return judge_cells(study.cells, study.settings)


@pytest.fixture(scope="module")
def page(study, verdicts):
    origin = Origin(f"name: pages # {HOSTILE}", [SUBMISSION], "2026-01-01 00:00 UTC")
    return render_report(study, verdicts, origin, extras())


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.scripts = [], [], []
        self._in = None

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        (self.scripts if self._in in ("script", "style") else self.text).append(data)


@pytest.fixture(scope="module")
def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_names_from_outside_are_text(read, page):
    text = "".join(read.text).replace("\N{NO-BREAK SPACE}", " ")
    # question, answer, table of verdicts, tables, search, failure, traceback, damage, spec, host
    assert text.count(HOSTILE) >= 9
    assert f"submit 'my study{HOSTILE}.yaml'".replace("alert(1)", "alert(1)") in text
    # every script of the page is one of its own: theme, plotly, data, script
    assert len([tag for tag, _ in read.tags if tag == "script"]) == 4
    assert "<script>alert" not in page
    assert "<!--<script" not in page


def test_every_cell_seed_failure_and_damage_is_on_it(read, study, verdicts):
    text = "".join(read.text).replace("\N{NO-BREAK SPACE}", " ")
    for row in verdict_rows(verdicts):
        for value in render(row):
            assert value in text
    for failure in study.failures:
        assert f"{failure.cause}. {failure.message}" in text
        assert failure.traceback in text
    assert study.damage[0] in text
    assert "7 done, 2 failed" in re.sub(r"\s+", " ", text)
    assert "2026-01-01 00:00 UTC" in text
    # heads of four tables; every model, cell, setting and seed has a row
    seeds = [seed for cell in study.cells for seed in cell.curves]
    bodies = [tag for tag, _ in read.tags if tag == "tr"]
    assert len(bodies) == 4 + 4 + len(study.cells) + 2 + len(seeds)
    for words in limits(verdicts, ["balanced"]).items():
        for part in words:
            assert part in text
    assert f"... {30_000 + len(HOSTILE) - 20_000} more characters" in text


def test_it_needs_no_network(read):
    for tag, attributes in read.tags:
        for name in ("src", "href"):
            assert not str(attributes.get(name, "")).startswith(("http", "//")), tag
    policies = [a["content"] for tag, a in read.tags if a.get("http-equiv")]
    assert policies[0].startswith("default-src 'none'; ")


def test_the_charts_are_drawn_from_the_counts(page, study, verdicts):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data = json.loads(found[1])
    assert data["tasks"] == ["parity_check", "tomita_5"]
    assert [series["label"] for series in data["series"]] == ["ldru(mlp)", HOSTILE, "lstm", "rnn"]
    for drawn, verdict in zip(data["cells"], verdicts, strict=True):
        assert data["series"][drawn["series"]]["label"] == verdict.cell.label
        assert data["tasks"][drawn["task"]] == verdict.cell.task
        for seed, curve_ in zip(drawn["seeds"], verdict.cell.curves, strict=True):
            assert seed["k"] == curve_.num_correct.tolist()
            assert seed["n"] == curve_.num_total.tolist()
            assert seed["length"] == curve_.lengths.tolist()
    sharp = data["cells"][1]
    assert sharp["line"]["what"] == "joint fit of all seeds (weibull)"
    middle = np.interp(4.0, sharp["line"]["x"], sharp["line"]["y"])
    assert middle == pytest.approx(0.75, abs=0.03)
    assert sharp["shortcut"]["y"] == [0.75] * len(MULTIPLES)
    # what was never fitted has an isotonic line
    assert data["cells"][2]["line"]["what"].startswith("isotonic line")
    assert data["cells"][0]["training"][0]["loss"] == [0.7, 0.1]
    assert [one["winner"] for one in data["search"]["cells"]["tomita_5/lstm"]] == [True, False]
    assert data["scaling"] == []


def with_length(length, half):
    rng = np.random.default_rng(length)
    seeds = numbered(*(curve(rng, half=half, beta=6) for _ in range(2)))
    model = ("parity_check", "rnn", f"parity_check/rnn/{length}")
    return CellCurves(*model, seeds, {"train.max_length": str(length), "train.schedule": "cosine"})


def test_numbers_that_vary_make_a_scaling_panel():
    cells = [with_length(20, 4), with_length(40, None)]
    line = ScalingLine(
        "train.max_length", "parity_check", "rnn, train.schedule cosine", "x^1", [20, 40], [80, 160]
    )
    other = dataclasses.replace(line, axis="model.width")
    (panel,) = page_data(judge_cells(cells), Extras(scaling=[line, other]))["scaling"]
    assert [(one["x"], one["y"]) for one in panel["lines"]] == [([20, 40], [80, 160])]
    assert panel["axis"] == "train.max_length"
    assert {point["label"] for point in panel["points"]} == {"rnn, train.schedule cosine"}
    failed, held = panel["points"][:2], panel["points"][2:]
    for point in failed:
        assert point["x"] == 20
        assert point["low"] < point["y"] < point["high"]
        assert point["y"] == pytest.approx(160, rel=0.1)
    # beyond the longest length, 100 times 40
    assert [(p["x"], p["y"], p["low"], p["high"]) for p in held] == [(40, None, 4000, None)] * 2


def test_a_model_gets_one_sentence(verdicts):
    holds, sharp, chance, missing = verdicts
    assert answer([holds]) == "holds as far as tested (100x)."
    assert re.fullmatch(
        r"collapses, half way to chance at [34]\.\d+x\.\.[34]\.?\d*x\.", answer([sharp])
    )
    assert answer([chance]) == "never learned."
    assert answer([missing]) == "no result on its task."
    both = answer([holds, chance])
    assert both == "holds on parity_check as far as tested (100x); never learned: tomita_5."
    assert headline(holds) == "> 100x"
    assert headline(chance) == headline(missing) == ""


def test_what_it_cannot_say_is_counted(verdicts):
    found = limits(verdicts, ["balanced"])
    assert "In 1 of 4 cells some seed shows no failure." in found["Beyond the longest length"]
    assert "If none of 1 fails, still up to 95 % of all" in found["Seeds"]
    assert "all of 512 are right, the error rate may still be 0.58 %" in found["Strings"]
    assert found["Failed trials"].startswith("2 trials failed")
    oracle = [dataclasses.replace(verdicts[0].cell, chosen_by="oracle")]
    assert "flattered" in limits(judge_cells(oracle), ["balanced"])["Settings"]


def test_the_figure_has_a_panel_per_task_and_a_line_per_seed(study):
    figure = failure_figure(study.cells)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["parity_check", "tomita_5"]


def test_an_imperfect_accuracy_is_never_rounded_to_perfect():
    assert accuracies((0.99999, 1.0)) == "99.9..100 %"
    assert accuracies((1.0, 1.0)) == "100 %"
    assert accuracies(None) == "-"
    assert share(0.6316) == "63 %"


def test_columns_and_cells_agree(study):
    rows = verdict_rows(judge_cells(study.cells, study.settings))
    assert {len(render(row)) for row in rows} == {len(COLUMNS)}
    by_model = {row.model: row for row in rows}
    assert bound(by_model["ldru(mlp)"]) == "error < 0.58 % per length, < 63 % of seeds fail"
    assert "(+1 failed)" in render(by_model["lstm"])[2]
    assert bound(by_model["rnn"]) == "-"
