"""Our figures beside published ones: over which lengths, what differs, and why a cell has none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from tests.conftest import submit_tiny

from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.published import beside_published, published_figures, published_rows
from ldru_study.cli import main
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.registry import find_task

MLP = {"kind": "ldru", "operator": "mlp"}


def cell(task, accuracies, model=MLP, *, lengths=(42, 100, 500), failed=None, **more):
    """Return a cell, of which each seed has one accuracy per length."""
    config = TrialConfig.model_validate({"task": task, "sampling": "paper", "model": model} | more)
    total = np.full(len(lengths), 1000)
    curves = tuple(
        LengthCurve(
            seed,
            config.train.max_length,
            np.array(lengths),
            np.round(total * each).astype(int),
            total,
            np.full(len(lengths), 0.5),
        )
        for seed, each in enumerate(accuracies)
    )
    raw = config.model_dump(mode="json")
    return CellCurves(task, "model", f"{task}/model", curves, failed=failed or {}, config=raw)


def test_the_figures_are_those_of_the_page():
    figures = published_figures()
    for task in figures:
        assert find_task(task).name == task
    operators = {
        f.model["operator"]: round(100 * f.accuracy, 6) for f in figures["modular_arithmetic"]
    }
    assert operators == {
        "elementwise_sum": 32.6,
        "linear": 60.8,
        "gated_sum": 67.1,
        "grc": 82.3,
        "mlp": 100,
    }
    best = {f.model["kind"]: f.accuracy for f in figures["modular_arithmetic_precedence"]}
    assert best == {"rnn": 1, "lstm": 1, "transformer": 0.242}
    papers = [t for t, fs in figures.items() if fs[0].title.startswith("arXiv 2605.26035")]
    assert len(set(papers) | {"modular_arithmetic"}) >= 21
    for of_task in figures.values():
        for figure in of_task:
            # every path of the settings is a field of some trial of this model
            TrialConfig.model_validate({"task": "parity_check", "model": dict(figure.model)})
            assert 0 < figure.accuracy <= 1
            assert {"sampling", "train.max_length"} <= set(figure.settings)


def test_the_mean_is_over_the_published_lengths_only():
    # 40 and 41 are before the range, 501 beyond
    accuracies = [[0, 0, 0.9, 0.8, 0.7, 0], [1, 1, 1, 1, 1, 1]]
    (one,), left_out = beside_published(
        [cell("d_4", accuracies, lengths=(40, 41, 42, 100, 500, 501))]
    )
    assert not left_out
    assert one.mean == pytest.approx(0.9)
    assert (one.lowest, one.highest) == pytest.approx((0.8, 1))
    assert (one.shortest, one.longest, one.num_lengths, one.num_published) == (42, 500, 3, 459)
    assert (one.published, one.is_bound) == (0.96, True)
    row = published_rows([one])[0]
    assert row[2:6] == ["90 % (80..100)", "2", "42..500, 3 of 459", ">= 96 %"]


def test_lengths_that_the_task_lacks_are_not_missing():
    odd = tuple(range(43, 500, 2))
    (one,), _ = beside_published([cell("modular_arithmetic", [[1] * len(odd)], lengths=odd)])
    assert one.num_lengths == one.num_published == 229
    assert published_rows([one])[0][4:6] == ["43..499, all 229", "100 %"]


def test_what_differs_is_said():
    asked = cell(
        "modular_arithmetic",
        [[0.99996]] * 2,
        MLP | {"width": 32},
        lengths=(43,),
        failed={2: "diverged"},
        sampling="balanced",
        train={"steps": 100},
    )
    (one,), _ = beside_published([asked])
    assert one.differs == (
        "sampling balanced, not paper",
        "model.width 32, not 64",
        "train.steps 100, not 1000000",
        "seeds that failed: 1",
    )


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (cell("group_s3", [[1] * 3]), "no figure of this task is on record"),
        (cell("d_4", [[1] * 3], {"kind": "lstm"}), "no figure of this model on this task"),
        (cell("d_4", [[1] * 3], train={"max_length": 60}), "trained up to length 60, the pub"),
        (cell("d_4", [[1]], lengths=(41,)), "no length from 42 to 500, over which"),
        (cell("d_4", []), "no seed has been tested yet"),
        (cell("listops_3_9", [[1] * 3]), "is no mean over lengths: it was measured on whole"),
    ],
)
def test_a_cell_without_a_figure_is_left_out_with_the_reason(asked, reason):
    found, left_out = beside_published([asked])
    assert not found
    assert reason in left_out[asked.key]


def run(*arguments):
    return CliRunner().invoke(main, ["analyze", "compare", *arguments])


def test_the_command(store):
    submit_tiny(store)
    where = ("--store", store.uri)
    done = run("tiny", "--published", "--json", *where)
    assert done.exit_code == 0
    content = json.loads(done.stdout)
    # an lstm on parity has a figure, but was trained up to 8 here
    reasons = content["left_out"]
    assert reasons["parity_check/constant"].startswith("no figure of this model")
    assert reasons["parity_check/lstm"] == "trained up to length 8, the published figure up to 40"
    assert content["figures"] == []
    both = run("tiny", "tiny:lstm", "--published", *where)
    assert both.exit_code == 2
    assert "--published compares one study. Drop 'tiny:lstm'." in both.stderr
    alone = run("tiny:lstm", *where)
    assert alone.exit_code == 2
    assert "Name a second model B, or compare with --published figures." in alone.stderr
