"""The page: everything is on it, nothing in it can act, and it needs no network."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from tests.analysis.simulate import MULTIPLES, N, curve, from_accuracies, numbered

from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.collect import Failure, StudyCounts
from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.drawing import how_chance_is_known, how_drawn
from ldru_study.analysis.page import Extras, page_data
from ldru_study.analysis.plots import failure_figure
from ldru_study.analysis.report import Origin, render_report, shortcuts_of
from ldru_study.analysis.scaling_table import law_lines
from ldru_study.analysis.sentences import (
    answer,
    cell_sentence,
    claim_lines,
    headline,
    limits,
    near_perfect_answer,
)
from ldru_study.analysis.series import scale_cells, scale_varying
from ldru_study.analysis.tables import (
    COLUMNS,
    accuracies,
    bound,
    claim_words,
    estimate,
    render,
    share,
    verdict_rows,
)
from ldru_study.analysis.verdict import VerdictSettings
from ldru_study.results.search_table import SearchRow
from ldru_study.tasks.registry import task_names
from ldru_study.tasks.samplers import sampler_of, samplings_of

# also the two texts after which a script would end only at the second </script>
HOSTILE = '<!--<script></script><script>alert(1)</script> & "quoted" <b>{{ 7 * 7 }}'

DRAWS = [("parity_check", "balanced"), ("tomita_5", "balanced")]


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
        name=f"pages{HOSTILE}",
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
        draws=DRAWS,
    )


SUBMISSION = {
    "at": "2026-01-01T00:00:00+00:00",
    "revision": "abc" * 13,
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
    # as the page's title, above the question and in the command that scales
    assert text.count(f"pages{HOSTILE}") >= 2
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
    # heads of five tables; every model, cell, setting and seed has a row, one cell fails
    seeds = [seed for cell in study.cells for seed in cell.curves]
    bodies = [tag for tag, _ in read.tags if tag == "tr"]
    assert len(bodies) == 5 + 4 + len(study.cells) + 1 + 2 + len(seeds)
    for words in limits(verdicts, DRAWS).items():
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
    assert sharp["line"]["what"] == "joint fit of all seeds: its median seed (weibull)"
    middle = np.interp(4.0, sharp["line"]["x"], sharp["line"]["y"])
    assert middle == pytest.approx(0.75, abs=0.03)
    assert sharp["shortcut"]["y"] == [0.75] * len(MULTIPLES)
    # what was never fitted has an isotonic line
    assert data["cells"][2]["line"]["what"].startswith("isotonic line")
    assert data["cells"][0]["training"][0]["loss"] == [0.7, 0.1]
    assert [one["winner"] for one in data["search"]["cells"]["tomita_5/lstm"]] == [True, False]
    assert data["scaling"] == []


def with_length(length, *halves):
    """Return a cell trained up to ``length`` whose seeds are half way to chance at these."""
    rng = np.random.default_rng(length)
    drawn = [curve(rng, half=half, beta=6) for half in halves]
    seeds = tuple(
        LengthCurve(s, length, c.lengths * length // N, c.num_correct, c.num_total, c.chance)
        for s, c in enumerate(drawn)
    )
    return CellCurves(
        *("parity_check", "rnn", f"parity_check/rnn/{length}"),
        seeds,
        {"train.max_length": str(length), "train.schedule": "cosine"},
        config={"model": {"kind": "rnn", "width": 8}, "train": {"max_length": length}},
    )


def scaling_panel(cells):
    verdicts = judge_cells(cells)
    found = scale_varying(verdicts)
    # what `analyze scaling` says, which judges the seeds itself
    assert {x: scale_cells(cells, x) for x in found} == found
    return found, page_data(verdicts, Extras(scaling=found))["scaling"]


def test_a_field_that_varies_makes_a_scaling_panel():
    cells = [with_length(20, 4, 4), with_length(40, None, None)]
    found, (panel,) = scaling_panel(cells)
    assert panel["axis"] == "train.max_length"
    (series,) = panel["series"]
    assert (series["task"], series["label"]) == ("parity_check", "rnn, train.schedule cosine")
    failed, held = series["points"][:2], series["points"][2:]
    for point in failed:
        assert point["x"] == 20
        assert 20 <= point["low"] < point["high"] <= 160
    # beyond the longest length, 100 times 40
    assert [(p["seed"], p["x"], p["low"], p["high"]) for p in held] == [
        (0, 40, 4000, None),
        (1, 40, 4000, None),
    ]
    assert [one["x"] for one in series["medians"]] == [20, 40]
    assert series["medians"][1]["what"] == "median of 2 runs: > 4000 tokens"
    # two values carry no law, and the page says so in the words of the command
    assert series["lines"] == []
    assert series["laws"] == law_lines(found["train.max_length"][0], "train.max_length")
    assert series["laws"][0].endswith("no regression: x has 2 values, a slope needs 3.")


def test_a_law_that_the_runs_carry_is_drawn():
    # one seed that nobody saw fail forbids the power law, not the regression
    cells = [with_length(16, 2, 4, 6, 9), with_length(32, 3, 5, 8, None), with_length(64, 2, 4, 6)]
    found, (panel,) = scaling_panel(cells)
    (series,) = panel["series"]
    (line,) = series["lines"]
    assert line["what"] == series["laws"][0]
    assert "no power law with a floor: 1 of 11 failure lengths are censored" in series["laws"][1]
    assert (line["x"][0], line["x"][-1]) == (16, 64)
    regression = found["train.max_length"][0].scaling.regression
    assert line["y"][-1] == pytest.approx(regression.scale * 64**regression.exponent, rel=1e-3)
    # half of the runs fail before the line: it is their median, in tokens
    for median in series["medians"]:
        at = np.interp(median["x"], line["x"], line["y"])
        assert median["low"] / 1.3 < at < median["high"] * 1.3


def test_what_does_not_vary_has_no_panel():
    assert scaling_panel([with_length(20, 4)]) == ({}, [])
    # a field that differs between models of two kinds says nothing about the field
    wider = {"model": {"kind": "lstm", "width": 64}, "train": {"max_length": 20}}
    other = dataclasses.replace(with_length(20, 6), model="lstm", key="other", config=wider)
    assert scaling_panel([with_length(20, 4), other]) == ({}, [])


def test_a_seed_of_another_kind_is_named_wherever_the_cell_is():
    rng = np.random.default_rng(3)
    seeds = numbered(*(curve(rng, half=4, beta=6) for _ in range(4)), curve(rng))
    (verdict,) = judge_cells([CellCurves("parity_check", "rnn", "parity_check/rnn", seeds)])
    assert (verdict.kind, verdict.num_agreeing, verdict.summary) == (
        "sharp",
        4,
        "4 of 5 sharp, 1 holds",
    )
    number = estimate(verdict.joint.half_multiple)
    (row,) = verdict_rows([verdict])
    assert render(row)[2:4] == ["sharp, without seed 4 (holds)", "4 of 5 sharp, 1 holds"]
    assert answer([verdict]) == f"collapses, half way to chance at {number}; seeds disagree."
    assert cell_sentence(verdict) == (
        f"collapses, half way to chance at {number}, without seed 4 (holds)"
    )
    (cell,) = page_data([verdict], Extras())["cells"]
    assert cell["line"]["what"] == "joint fit of 4 of 5 seeds: its median seed (weibull)"


def test_a_model_gets_one_sentence(verdicts):
    holds, sharp, chance, missing = verdicts
    assert answer([holds]) == "holds as far as tested (100x)."
    number = estimate(sharp.joint.half_multiple)
    assert re.fullmatch(r"[34]\.?\d*x \([34]\.?\d*x to [34]\.?\d*x\)", number)
    assert answer([sharp]) == f"collapses, half way to chance at {number}."
    assert answer([sharp, holds]) == (
        f"holds on parity_check as far as tested (100x); collapses, half way to chance at {number} "
        "on parity_check."
    )
    assert answer([chance]) == "never learned."
    assert answer([missing]) == "no result on its task."
    both = answer([holds, chance])
    assert both == "holds on parity_check as far as tested (100x); never learned: tomita_5."
    assert headline(holds) == "> 100x"
    assert headline(chance) == headline(missing) == ""


def test_a_model_gets_one_sentence_on_the_claim(verdicts):
    holds, sharp, chance, missing = verdicts
    assert near_perfect_answer([holds]) == "near-perfect at 2x and 3x: supported."
    assert near_perfect_answer([missing]) == "near-perfect at 2x and 3x: untested."
    assert near_perfect_answer([holds, holds]) == (
        "near-perfect at 2x and 3x: supported in both tasks."
    )
    assert near_perfect_answer([holds, sharp, chance, missing]) == (
        "near-perfect at 2x: supported in 1 of 4 tasks, refuted in 1, undecided in 1, "
        "untested in 1; at 3x: supported in 1 of 4 tasks, refuted in 2, untested in 1."
    )
    seeds = (
        from_accuracies([1, 0.99, 0.5], multiples=(1, 3, 9)),
        from_accuracies([1, 1], multiples=(1, 2)),
    )
    (undecided,) = judge_cells([CellCurves("d_2", "ldru(mlp)", "d_2", numbered(*seeds))])
    assert near_perfect_answer([holds, undecided]) == (
        "near-perfect at 2x and 3x: supported in 1 of 2 tasks, undecided in 1."
    )
    assert render(verdict_rows([undecided])[0])[7] == "undecided, undecided"
    assert claim_lines(undecided)[0] == (
        "Near-perfect (at least 99 % right) at 2x: undecided; "
        "each seed alone: 1 supported, 1 undecided."
    )


def test_a_claim_is_preliminary_while_seeds_are_to_come(verdicts):
    holds, sharp, _, missing = (
        dataclasses.replace(one, cell=dataclasses.replace(one.cell, num_unfinished=2))
        for one in verdicts
    )
    assert near_perfect_answer([holds]) == "near-perfect at 2x and 3x: supported (so far)."
    # what one seed has refuted no other can support
    assert near_perfect_answer([sharp]) == (
        "near-perfect at 2x: undecided (so far); at 3x: refuted."
    )
    assert near_perfect_answer([missing]) == "near-perfect at 2x and 3x: untested (so far)."
    assert claim_lines(holds)[0] == (
        "Near-perfect (at least 99 % right) at 2x: supported so far; each seed alone: 3 supported; "
        "2 seeds to come."
    )
    words = [render(row)[7] for row in verdict_rows([holds, sharp, missing])]
    assert words == ["supported, supported (so far)", "undecided, refuted (so far)", "-"]
    assert claim_words(("supported", None), 0) == "supported, -"


def test_what_it_cannot_say_is_counted(verdicts):
    found = limits(verdicts, DRAWS)
    assert "In 1 of 4 cells some seed shows no failure." in found["Beyond the longest length"]
    assert "If none of 1 fails, still up to 95 % of all" in found["Seeds"]
    assert "all of 512 are right, the error rate may still be 0.58 %" in found["Strings"]
    assert found["Failed trials"].startswith("2 trials failed")
    oracle = [dataclasses.replace(verdicts[0].cell, chosen_by="oracle")]
    assert "flattered" in limits(judge_cells(oracle), DRAWS)["Settings"]


def test_it_says_how_the_strings_were_drawn(verdicts):
    assert "Sampling" not in limits(verdicts, [])
    even = "every class equally often, uniformly among its strings of that length"
    assert f"the study says (balanced: {even}). Accuracy" in limits(verdicts, DRAWS)["Sampling"]
    several = limits(verdicts, [*DRAWS, ("tomita_5", "hard"), ("d_4", "paper")])["Sampling"]
    assert f"(balanced: {even}; hard: every class equally often, those of a task" in several
    assert "; paper: half of them accepted, where a string of that length is, the" in several


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("parity_check", "uniformly among all strings of that length"),
        ("d_4", "half of them accepted"),
        ("tomita_5", "by random walks"),
        ("listops_3_9", "random expression trees"),
    ],
)
def test_paper_sampling_is_said_as_the_task_is_drawn(task, words):
    assert how_drawn([(task, "paper")]).startswith("paper: ")
    assert words in how_drawn([(task, "paper")])
    assert "uniformly among its strings" not in how_drawn([(task, "paper")])


def test_no_way_of_drawing_is_without_words():
    every = [(name, one) for name in task_names() for one in samplings_of(name)]
    for draw in every:
        # classes are even where the words say so
        words = how_drawn([draw])
        sampler = sampler_of(*draw)
        shares = sampler.label_shares(sampler.nearest_covered(12))
        assert ("equally often" in words) <= (len({*shares[shares > 0].round(9)}) == 1), draw
    assert " on listops_3_14, listops_3_9, listops_5_14, listops_5_9: random" in how_drawn(every)


def test_chance_is_said_to_be_estimated_where_it_is():
    computed = "computed exactly"
    assert how_chance_is_known(DRAWS) == computed
    found = how_chance_is_known([*DRAWS, ("listops_3_9", "paper")])
    where = "beyond 128 tokens, and at rare lengths, under paper sampling of listops_3_9, which"
    assert found.startswith(f"{computed}; {where}")
    assert found.endswith("estimated from strings that are drawn for it")
    assert how_chance_is_known([("listops_3_9", "balanced")]) == computed


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
    assert "(+1 failed)" in render(by_model["lstm"])[3]
    assert bound(by_model["rnn"]) == "-"


def test_shortcuts_are_those_of_the_task():
    lengths = np.array([40, 400, 200_000])
    curve = LengthCurve(0, 40, lengths, np.full(3, 90), np.full(3, 100), np.full(3, 0.5))

    def cell(task, key, is_known=True):
        config = {"task": task, "sampling": "balanced"} if is_known else {}
        return CellCurves(task, "m", key, (curve,), config=config)

    found = shortcuts_of(
        [
            cell("d_12", "known"),
            cell("d_12", "unknown", is_known=False),
            cell("listops_3_9", "irregular"),
        ]
    )
    assert set(found) == {"known", "irregular"}
    # the figure of README's own example; what is longer than can be told stays open
    assert found["known"][:2] == pytest.approx([1.0, 0.948], abs=1e-3)
    assert np.isnan(found["known"][2])
    assert np.isnan(found["irregular"][1:]).all()
