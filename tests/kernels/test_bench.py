"""The benchmark: nothing timed on red, a row for every contender, the rows on the page."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch

from ldru_kernels import bench, bench_report, contenders, peers
from ldru_kernels.contenders import Case

KERNELS = Path(__file__).parents[2] / "kernels"
RESULTS = sorted((KERNELS / "results").glob("*.json"))


@pytest.fixture
def quick(monkeypatch):
    """Let a case take milliseconds, on the torch backend alone."""
    monkeypatch.setattr(bench, "_ROUNDS", 2)
    monkeypatch.setattr(bench, "_TURN_MS", 0.1)
    monkeypatch.setattr(contenders, "_LONGEST_COMPILED", 0)
    for module in (bench, contenders):
        monkeypatch.setattr(module, "backends", lambda device: ["torch"])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("case", "names"),
    [
        (Case("tree_reduce", "ieee", 8, 2, 5), {"torch", "eager", "jax.jit"}),
        (
            Case("prefix_scan", "ieee", 8, 2, 5),
            {"torch", "torch associative_scan", "jax associative_scan"},
        ),
        (
            Case("training_step", "ieee", 8, 4, 9, 2),
            {"equal subtrees once", "packed", "eager"},
        ),
        (Case("evaluation", "ieee", 8, 4, 9, 3), {"equal subtrees once", "packed", "eager"}),
    ],
)
def test_every_contender_has_a_row(case, names):
    floors = bench.floors_of(case, {"copy": 1e9, "torch.float32": 1e9})
    rows = list(bench.measure(case, "cpu", floors, time.monotonic() + 60))
    assert {row["contender"] for row in rows} == names
    for row in rows:
        if row["contender"].startswith("jax"):
            # not among the requirements
            assert ("median_ms" in row) or "No module named 'jax'" in row["failed"]
            continue
        low, high = row["quartiles_ms"]
        assert 0 < low <= row["median_ms"] <= high
        for floor, least in floors.items():
            assert math.isclose(row[f"of_{floor}"], least / row["median_ms"])


@pytest.mark.usefixtures("quick")
def test_who_comes_after_the_deadline_is_named():
    rows = list(bench.measure(Case("tree_reduce", "ieee", 8, 2, 5), "cpu", {}, 0))
    assert [row["failed"] for row in rows] == ["no time was left"] * 3


@pytest.mark.usefixtures("quick")
def test_a_red_gate_times_nothing(monkeypatch, tmp_path, capsys):
    assert bench.gate("cpu") == []

    def wrong(leaves, weights, **options):
        return peers.level_by_level(leaves, weights) * 1.001

    wrong.__name__ = "tree_reduce"
    monkeypatch.setattr(bench, "tree_reduce", wrong)
    out = tmp_path / "rows.json"
    assert bench.main(["--suite", "small", "--json", str(out), "--device", "cpu"]) == 1
    assert not out.exists()
    printed = capsys.readouterr()
    assert "wrong, so nothing is timed:\n  tree_reduce torch, tensor 0" in printed.err
    assert printed.out == ""


@pytest.mark.usefixtures("quick")
def test_rows_become_a_file_a_table_and_a_figure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "ceilings", lambda device: {"copy": 1e9, "torch.float32": 1e9})
    small = [Case("tree_reduce", "ieee", 8, 2, tokens) for tokens in (5, 9)]
    monkeypatch.setattr(bench, "cases", lambda suite, device: small)
    out, page, drawn = (tmp_path / name for name in ("rows.json", "page.md", "figure.svg"))
    assert bench.main(["--suite", "peers", "--json", str(out), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "tree_reduce: B = 2, T = 9, E = 8, ieee" in printed
    assert "% of matmul" in printed
    page.write_text(f"before\n{bench_report.BEGIN}\nold\n{bench_report.END}\nafter\n")
    bench_report.main([str(out), "--readme", str(page), "--figure", str(drawn)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| E = 8, B = 2, T = 9 | " in text
    assert "old" not in text
    assert "eager" in drawn.read_text()


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match=r"has no '<!-- measured: begin -->' before a '<!-- meas"):
        bench_report.replaced("a page", "a table")


def test_the_choice_gets_its_table_from_rows():
    about = {"op": "tree_reduce", "precision": "bf16", "width": 64, "merges": 100}
    rows = [
        about | {"contender": "torch", "median_ms": 2.0},
        about | {"contender": "triton", "median_ms": 1.0},
        about | {"contender": "eager", "median_ms": 3.0},
        # of one alone nothing can be chosen
        about | {"contender": "torch", "median_ms": 2.0, "width": 32},
    ]
    assert bench.table_of(rows, "a GPU") == [
        {
            "device": "a GPU",
            "operands": "bf16",
            "width": 64,
            "merges": 100,
            "torch_ms": 2.0,
            "triton_ms": 1.0,
        }
    ]


def test_the_page_shows_the_rows_as_they_were_measured():
    page = (KERNELS / "README.md").read_text()
    results = [json.loads(path.read_text()) for path in RESULTS]
    assert results
    assert bench_report.replaced(page, bench_report.markdown(results)) == page


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("suite", contenders.SUITES)
def test_the_first_case_of_a_suite_is_one_of_the_bars(suite, device):
    found = contenders.cases(suite, device)
    assert len(set(found)) == len(found)
    if (suite, device) == ("small", "cuda"):
        assert found[0] == Case("tree_reduce", "bf16", 64, 256, 40)
    if (suite, device) == ("long", "cuda"):
        assert found[0] == Case("tree_reduce", "bf16", 64, 1, 2**20)


def test_eager_peers_compute_the_same_as_the_ops():
    weights = peers.random_weights(8, torch.float64, torch.device("cpu"))
    leaves = torch.randn(3, 13, 8, dtype=torch.float64)
    lengths = torch.tensor([13, 1, 6])
    wanted = contenders.tree_reduce(leaves, weights)
    torch.testing.assert_close(peers.level_by_level(leaves, weights), wanted)
    torch.testing.assert_close(
        peers.padded_and_masked(leaves, weights, lengths),
        contenders.tree_reduce(leaves, weights, lengths=lengths),
    )
