"""Paired comparisons: exact where they can be, corrected, and refused where nothing is paired."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import permutation_test
from tests.analysis.simulate import from_accuracies
from tests.conftest import submit_tiny

from ldru_study.analysis.compare import compare, holm, sign_flip_p
from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.cli import main

GRID = (1, 2, 3, 4)


def cell(accuracies, *, task="parity_check", first=0, multiples=GRID, axes=None):
    curves = tuple(
        from_accuracies([1.0, a, a, a][: len(multiples)], multiples=multiples, seed=first + n)
        for n, a in enumerate(accuracies)
    )
    return CellCurves(task, "model", f"{task}/{axes}", curves, axes or {})


def test_the_p_is_that_of_every_assignment_of_signs():
    rng = np.random.default_rng(1)
    for size in (3, 5, 8):
        differences = rng.normal(0.3, 1, size)
        p, is_exact = sign_flip_p(differences)
        signs = np.array(list(product([1, -1], repeat=size)))
        wanted = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
        assert is_exact
        assert p == pytest.approx(wanted)
        theirs = permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert p == pytest.approx(theirs.pvalue)


def test_many_pairs_are_drawn_and_say_so():
    differences = np.random.default_rng(2).normal(0.5, 1, 30)
    p, is_exact = sign_flip_p(differences)
    assert not is_exact
    assert 0 < p < 0.05
    assert sign_flip_p(differences) == (p, is_exact)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_pairs_are_tasks_and_seeds_and_the_effect_is_chance_corrected():
    a = [cell([1.0] * 8), cell([0.9] * 6, task="even_pairs")]
    b = [cell([0.75] * 9), cell([0.9] * 6, task="even_pairs")]
    found = compare(a, b)
    first, second = found.tasks
    # 1 against half way to chance
    assert first.effect == pytest.approx(0.5)
    assert first.num_pairs == 8
    assert first.p_value == pytest.approx(2 / 2**8)
    assert first.p_holm == pytest.approx(4 / 2**8)
    assert (second.effect, second.p_value) == (0, 1)
    assert found.overall.num_pairs == 14
    assert found.overall.p_holm is None


def test_the_interval_holds_the_effect_and_needs_enough_pairs():
    rng = np.random.default_rng(3)
    a = cell(np.clip(0.9 + 0.05 * rng.normal(size=10), 0, 1))
    (paired,) = compare([a], [cell(np.full(10, 0.8))]).tasks
    assert paired.lower < paired.effect < paired.upper
    assert paired.upper - paired.lower < 0.25
    # five pairs cannot give a p below 1/16
    (few,) = compare([cell([1.0] * 5)], [cell([0.5] * 5)]).tasks
    assert few.p_value == pytest.approx(1 / 16)
    assert (few.lower, few.upper) == (None, None)


def test_intervals_cover_the_shift():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(40):
        differences = np.clip(0.1 + 0.05 * rng.standard_t(4, size=8), -0.3, 0.5)
        (paired,) = compare([cell(0.7 + differences / 2)], [cell(np.full(8, 0.7))]).tasks
        covered += paired.lower <= 0.1 <= paired.upper
    assert covered >= 34


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (cell([1.0]), cell([1.0], task="even_pairs"), "parity_check: B has no evaluated trial"),
        (cell([1.0]), cell([1.0], first=7), "no common seed and cell: A has seed 0, B has seed 7"),
        (cell([1.0]), cell([1.0], axes={"train.steps": 5}), "B has seed 0, train.steps 5"),
        (cell([1.0]), cell([1.0], multiples=(1, 1.5)), "no common test length beyond"),
    ],
)
def test_what_is_no_pair_is_refused_with_the_reason(a, b, reason):
    with pytest.raises(ValueError, match="nothing can be paired") as error:
        compare([a], [b])
    assert reason in str(error.value)


def test_other_training_lengths_are_no_pair():
    other = LengthCurve(0, 20, *map(np.array, ([20, 80], [9, 9], [9, 9], [0.5, 0.5])))
    with pytest.raises(ValueError, match="seed 0: trained up to 40 and 20 tokens"):
        compare([cell([1.0])], [CellCurves("parity_check", "model", "key", (other,))])


def test_two_cells_of_one_kind_are_not_guessed_between():
    with pytest.raises(ValueError, match="seed 0 occurs twice on one side; name a single model"):
        compare([cell([1.0]), cell([1.0])], [cell([1.0])])


def run(*arguments):
    return CliRunner().invoke(main, ["analyze", "compare", *arguments])


def test_the_command(store):
    submit_tiny(store)
    where = ("--store", store.uri)
    done = run("tiny:constant", "tiny:lstm", *where)
    assert done.exit_code == 0
    assert "parity_check" in done.stdout
    content = json.loads(run("tiny:constant", "tiny:lstm", *where, "--json").stdout)
    assert content["tasks"][0]["num_pairs"] == 1
    assert content["tasks"][0]["p_value"] == 1
    unnamed = run("tiny", "tiny:lstm", *where)
    assert unnamed.exit_code == 2
    assert "the study has several models: constant, lstm. Write 'tiny:constant'." in unnamed.stderr
    unknown = run("tiny:lsmt", "tiny:lstm", *where)
    assert unknown.exit_code == 3
    assert "no model of the study is called 'lsmt'. Did you mean 'lstm'?" in unknown.stderr
