"""A cell has one verdict and one number, wherever they are read."""

from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import pytest
from click.testing import CliRunner
from tests.analysis.simulate import truth
from tests.conftest import TINY, submission_of

from ldru_study.analysis.export import CLAIMS, CURVES, FAILURES, VERDICTS
from ldru_study.analysis.failure import Estimate
from ldru_study.analysis.latex import typeset
from ldru_study.analysis.tables import estimate
from ldru_study.cli import main
from ldru_study.results.store import Store

MULTIPLES = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)
STUDY = TINY.replace("[1, 2], strings: 64", f"{list(MULTIPLES)}, strings: 256").replace(
    "seeds: 2", "seeds: 4"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return a store with made-up counts: the LSTM's seeds fall at 2.5x to 4x, but one holds."""
    found = Store(str(tmp_path_factory.mktemp("truth") / "results"))
    rng = np.random.default_rng(1)
    halves = {0: 2.5, 1: 3.2, 2: 4.0, 3: None}
    for trial in submission_of(STUDY, found).plan.trials:
        half = halves[trial.config.seed] if trial.config.model.kind == "lstm" else None
        rows = [
            dict.fromkeys(("loss", "seconds"), 0.0)
            | {"trial_id": trial.trial_id, "attempt_id": "1", "eval_seed": 0, "committed_at": None}
            | {"length": int(8 * m), "multiple": m, "num_total": 256, "chance": 0.5}
            | {"num_correct": int(rng.binomial(256, truth([m], half=half, beta=5)[0]))}
            for m in MULTIPLES
        ]
        found.commit("evaluations", trial.trial_id, rows)
    return found


def run(store, *arguments):
    done = CliRunner().invoke(main, [*arguments, "--store", store.uri], terminal_width=400)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def cell(store):
    """Return the LSTM's cell as `analyze verdicts --json` gives it."""
    constant, lstm = json.loads(run(store, "analyze", "verdicts", "tiny", "--json"))["cells"]
    assert (constant["verdict"], constant["half_multiple"]["lower"]) == ("holds", 16)
    assert lstm["verdict"] == "sharp"
    assert lstm["left_out"] == {"3": "holds"}
    assert lstm["half_multiple"] == lstm["joint"]["half_multiple"]
    # 256 strings without a mistake do not show 99 %
    for found, outcome in ((constant, "undecided"), (lstm, "refuted")):
        assert [claim["outcome"] for claim in found["claims"]] == [outcome, outcome]
        assert (found["claim_at_2x"], found["claim_at_3x"]) == (outcome, outcome)
    assert lstm["half_multiple"]["value"] == pytest.approx(3.2, rel=0.15)
    return lstm


@pytest.fixture(scope="module")
def number(cell):
    return estimate(Estimate(**cell["half_multiple"]))


def test_the_table_says_it(store, number):
    (row,) = [
        line for line in run(store, "analyze", "verdicts", "tiny").splitlines() if "lstm" in line
    ]
    for text in (number, "sharp, without seed 3 (holds)", "3 of 4 sharp, 1 holds"):
        assert text in row
    assert row.count("  refuted, refuted  ") == 1


def test_the_page_says_it_in_every_place(store, cell, number, tmp_path):
    run(store, "report", "tiny", "--output", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    constant, data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["cells"]
    assert data["half"] == pytest.approx(list(cell["half_multiple"].values()), rel=1e-4)
    assert data["sentence"] == (
        f"collapses, half way to chance at {number}, without seed 3 (holds)"
    )
    shown = unescape(page.split('<script type="application/json"')[0].split("</head>")[1])
    assert f"Collapses, half way to chance at {number}; seeds disagree." in shown
    (square,) = re.findall(r'<a href="#failure-curves" class="sharp".*?</a>', shown, re.DOTALL)
    assert f"<span>{number}</span>" in square
    assert "<i>3/4</i>" in square
    assert data["sentence"] in square
    claims = "ear-perfect at 2x and 3x: refuted"
    assert f"; n{claims}" in square
    assert shown.count(f"N{claims}.") == 1
    assert shown.count(">refuted, refuted</td>") == 1
    assert data["claims"][0].startswith(
        "Near-perfect (at least 99 % right) at 2x: refuted; each seed alone: "
    )
    assert constant["claims"][1] == (
        "Near-perfect (at least 99 % right) at 3x: undecided; each seed alone: 4 undecided; a "
        "seed without a mistake needs 299 strings."
    )
    levels = [estimate(Estimate(**found)) for found in cell["failure_multiples"].values()]
    # the table of every cell and the one of where cells fail; a level may be the same
    assert shown.count(f">{number}</td>") == 2 + levels.count(number)
    for found in levels:
        assert f">{found}</td>" in shown


def test_sql_says_it(store, cell):
    half = cell["half_multiple"]
    columns = "half_multiple, half_multiple_lower, half_multiple_upper"
    levels = ", ".join(f"failure_multiple_{level}" for level in (99, 90, 50))
    for view, more in (("verdicts", "true"), ("curves", "seed is null")):
        sql = f"select verdict, {columns}, {levels} from {view} where label like 'lstm%' and {more}"
        (row,) = json.loads(run(store, "query", sql, "--json"))
        assert list(row.values()) == [
            *("sharp", half["value"], half["lower"], half["upper"]),
            *(cell["failure_multiples"][level]["value"] for level in ("0.99", "0.9", "0.5")),
        ]
    sql = "select scatter, left_out, alpha, beta, rho from verdicts join curves using (cell) "
    (row,) = json.loads(run(store, "query", f"{sql} where scatter > 0 and seed is null", "--json"))
    columns = "claim_at_2x, claim_at_3x, near_perfect, num_unfinished"
    rows = json.loads(run(store, "query", f"select {columns} from verdicts", "--json"))
    assert [list(one.values()) for one in rows] == [
        [outcome, outcome, 0.99, 0] for outcome in ("undecided", "refuted")
    ]
    assert (row["scatter"], row["left_out"]) == (cell["scatter"], [3])
    assert row["rho"] == cell["joint"]["rho"]
    # the curve of the median seed is half way down at the cell's number
    at = (half["value"] / row["alpha"]) ** row["beta"]
    assert np.exp(-at) == pytest.approx(0.5)


@pytest.mark.parametrize("first", ["verdicts", "curves"])
def test_sql_and_json_say_where_every_seed_fails(store, cell, first):
    for seed, half in enumerate((2.5, 3.2, 4.0)):
        found = [cell["seeds"][seed]["failure_multiples"][level] for level in ("0.99", "0.9")]
        for level, one in zip((0.99, 0.9), found, strict=True):
            # S(m) = level for beta 5
            m = half * np.log2(1 / level) ** 0.2
            assert one["value"] == pytest.approx(m, rel=0.25)
            assert (one["lower"] or 0) <= one["value"] <= (one["upper"] or np.inf)
    held = cell["seeds"][3]["failure_multiples"]["0.9"]
    assert held == {"value": None, "lower": 16, "upper": None}
    names = ", ".join(f"failure_multiple_90{end}" for end in ("", "_lower", "_upper"))
    sql = f"select {names} from curves where label like 'lstm%' and seed is not null order by seed"
    if first == "verdicts":
        # judged for another view before, in the same query
        sql = sql.replace("from curves", "from (select count(*) from verdicts) v, curves")
    rows = json.loads(run(store, "query", sql, "--json"))
    assert [list(row.values()) for row in rows] == [
        list(one["failure_multiples"]["0.9"].values()) for one in cell["seeds"]
    ]


def test_the_paper_says_it(store, number, tmp_path):
    run(store, "export", "tiny", "--latex", str(tmp_path))
    for name in (VERDICTS, FAILURES):
        (row,) = [line for line in (tmp_path / name).read_text().splitlines() if "lstm" in line]
        assert f" & {typeset(number)} & " in row
        assert (" & refuted, refuted & " in row) == (name == VERDICTS)
    assert "seed 3" in (tmp_path / FAILURES).read_text()
    assert len(re.findall(" & sharp & ", (tmp_path / CURVES).read_text())) == 3
    claims = json.loads((tmp_path / CLAIMS).read_text())["claims"]
    assert {
        claim["text"]
        for claim in claims
        if claim["column"] == "Half way to chance" and claim["seed"] is None
    } >= {typeset(number)}
    texts = [claim["text"] for claim in claims if claim["column"] == "Near-perfect at 2x, 3x"]
    assert texts == ["undecided, undecided", "refuted, refuted"]
    assert run(store, "export", "tiny", "--latex", str(tmp_path), "--check") == ""


def test_seeds_keep_their_own_numbers(store, cell):
    sql = "select seed, half_multiple from curves where label like 'lstm%' and seed < 3"
    alone = {
        row["seed"]: row["half_multiple"] for row in json.loads(run(store, "query", sql, "--json"))
    }
    assert alone == {seed["seed"]: seed["half_multiple"]["value"] for seed in cell["seeds"][:3]}
    assert len({*alone.values(), cell["half_multiple"]["value"]}) == 4
    sql = "select seed_half_multiple_min, seed_half_multiple_max from verdicts where scatter > 0"
    (row,) = json.loads(run(store, "query", sql, "--json"))
    assert list(row.values()) == [min(alone.values()), max(alone.values())]
