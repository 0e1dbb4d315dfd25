"""The page: everything is on it, nothing in it can act, and it needs no network."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from tests.analysis.simulate import MULTIPLES, curve, from_accuracies, numbered

from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.collect import Failure, StudyCounts
from ldru_study.analysis.counts import CellCurves
from ldru_study.analysis.plots import failure_figure
from ldru_study.analysis.report import Origin, render_report
from ldru_study.analysis.tables import COLUMNS, accuracies, bound, render, share, verdict_rows
from ldru_study.analysis.verdict import VerdictSettings

HOSTILE = "</script><script>alert('x')</script> & \"quoted\" <b>"


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


@pytest.fixture(scope="module")
def page(study):
    origin = Origin(f"name: pages # {HOSTILE}", [], "2026-01-01 00:00 UTC")
    return render_report(study, judge_cells(study.cells, study.settings), origin)


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
    text = "".join(read.text)
    # the question, the model's label in several places, the failure, its traceback, the damage
    assert text.count(HOSTILE) >= 6
    # every script of the page is one of its own
    assert page.count("<script") == len([tag for tag, _ in read.tags if tag == "script"])
    assert "<script>alert" not in page


def test_every_cell_seed_failure_and_damage_is_on_it(read, study):
    text = "".join(read.text).replace("\N{NO-BREAK SPACE}", " ")
    for row in verdict_rows(judge_cells(study.cells, study.settings)):
        for value in render(row):
            assert value in text
    for failure in study.failures:
        assert f"{failure.cause}. {failure.message}" in text
        assert failure.traceback in text
    assert study.damage[0] in text
    assert "7 done, 2 failed" in re.sub(r"\s+", " ", text)
    assert "2026-01-01 00:00 UTC" in text
    seeds = [seed for cell in study.cells for seed in cell.curves]
    bodies = [tag for tag, _ in read.tags if tag == "tr"]
    # two heads, a row for each cell and each seed
    assert len(bodies) >= 2 + len(study.cells) + len(seeds)


def test_it_needs_no_network(read):
    for tag, attributes in read.tags:
        for name in ("src", "href"):
            assert not str(attributes.get(name, "")).startswith(("http", "//")), tag


def test_the_curves_are_the_counts(page, study):
    found = re.search(r"^const panels = (.*);$", page, flags=re.MULTILINE)
    assert found
    panels = json.loads(found[1])
    assert [panel["task"] for panel in panels] == ["parity_check", "tomita_5"]
    drawn = [
        trace
        for trace in panels[0]["figure"]["data"]
        if "markers" in trace.get("mode", "") and trace.get("hovertext")
    ]
    wanted = [curve for cell in study.cells[:2] for curve in cell.curves]
    assert len(drawn) == len(wanted)
    for trace, curve_ in zip(drawn, wanted, strict=True):
        # plotly packs arrays
        shown = np.frombuffer(base64.b64decode(trace["y"]["bdata"]), trace["y"]["dtype"])
        np.testing.assert_allclose(shown, curve_.accuracy)


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
