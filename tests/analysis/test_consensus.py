"""Cells are judged by all of their seeds at once: kinds, half multiples, intervals that cover."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from tests.analysis.population import (
    KINDS,
    VARIANTS,
    Variant,
    draw_cell,
    know_all_but_thresholds,
    score,
)
from tests.analysis.simulate import MULTIPLES, curve, from_accuracies, numbered

from ldru_study.analysis import consensus, median_seed
from ldru_study.analysis.cases import CASE_SETTINGS
from ldru_study.analysis.consensus import judge_jointly
from ldru_study.analysis.verdict import VerdictSettings


def judge(*curves, **more):
    return judge_jointly([numbered(*curves)], **more)[0]


def test_the_example_of_the_docstring_is_true():
    assert doctest.testmod(consensus).attempted >= 5
    assert doctest.testmod(consensus).failed == 0


@pytest.mark.parametrize(
    ("name", "seed", "most"),
    [("usual", 11, 0.04), ("octaves", 12, 0.12), ("few", 13, 0.12), ("logistic", 14, 0.06)],
)
def test_simulated_cells_are_found_again(name, seed, most):
    """60 or 30 cells; `tests/benchmarks/simulated_truth.py` draws thousands, in every variant."""
    rng = np.random.default_rng(seed)
    truths = [
        draw_cell(rng, VARIANTS[name], KINDS[n % 3]) for n in range(60 if name == "usual" else 30)
    ]
    found = score(truths, judge_jointly([t.curves for t in truths], CASE_SETTINGS, levels=()))
    assert found.right >= 0.95
    assert found.covered >= 0.9
    assert found.false_numbers == 0
    # of the seeds that ran; that of all possible seeds is blurred by their scatter
    assert found.error_of_seeds <= most


def test_scattered_sharp_failures_stay_sharp():
    rng = np.random.default_rng(3)
    grid = np.geomspace(0.5, 30, 24)
    for _ in range(5):
        halves = np.exp(rng.uniform(np.log(1.5), np.log(20), 6))
        verdict = judge(*(curve(rng, half=half, beta=8, multiples=grid) for half in halves))
        assert verdict.kind == "sharp"
        assert verdict.scatter > 0.3


def test_faultless_counts_get_a_bound_and_no_number():
    verdict = judge(*[from_accuracies(np.ones(len(MULTIPLES)))] * 3)
    assert verdict.kind == "holds"
    half = verdict.half_multiple
    assert (half.value, half.lower, half.upper) == (None, 100, None)


def test_seeds_of_another_kind_are_named_and_do_not_count():
    step = [from_accuracies(np.where(np.array(MULTIPLES) <= last, 1.0, 0.5)) for last in (3, 4, 6)]
    holds = from_accuracies(np.ones(len(MULTIPLES)))
    guesses = from_accuracies(np.full(len(MULTIPLES), 0.5))
    verdict = judge(*step, holds, guesses)
    assert verdict.kind == "sharp"
    assert verdict.left_out == {3: "holds", 4: "never_learned"}
    # Student's t with three seeds
    assert 1.9 < verdict.half_multiple.lower < 4 < 6 < verdict.half_multiple.upper < 13
    verdict = judge(step[0], holds, holds, holds)
    assert verdict.kind == "holds"
    assert verdict.left_out == {0: "sharp"}
    assert verdict.half_multiple.value is None


def test_failure_multiples_are_those_of_the_shape():
    rng = np.random.default_rng(4)
    grid = np.geomspace(0.25, 100, 30)
    seeds = [curve(rng, half=8.0, beta=1.0, multiples=grid, total=20_000, chance=0.2)] * 3
    verdict = judge(*seeds)
    for level, found in verdict.failure_multiples.items():
        assert found.value == pytest.approx(8 * np.log2(1 / level), rel=0.1)
        assert found.lower < 8 * np.log2(1 / level) < found.upper
    # a plateau at 90 % is 80 % of the way from chance to perfect
    low = judge(
        *(curve(rng, half=8.0, beta=6.0, lapse=0.1) for _ in range(3)),
        settings=VerdictSettings(learned_level=0.5),
    )
    assert low.failure_multiples[0.99].value is None
    assert low.failure_multiples[0.5].value == pytest.approx(7.5, rel=0.1)


def test_one_seed_is_its_own_median():
    rng = np.random.default_rng(5)
    grid = np.geomspace(0.25, 60, 20)
    verdict = judge(curve(rng, half=5.0, beta=2.0, multiples=grid))
    assert verdict.half_multiple.value == pytest.approx(5.0, rel=0.06)
    assert 4 < verdict.half_multiple.lower < 5 < verdict.half_multiple.upper < 6.2
    assert verdict.scatter < 0.01


def test_many_cells_are_judged_as_each_alone():
    rng = np.random.default_rng(6)
    cells = [
        numbered(*(curve(rng, half=half, beta=beta) for _ in range(seeds)))
        for half, beta, seeds in ((12.0, 1.0, 3), (9.0, 6.0, 5))
    ]
    for alone, together in zip(cells, judge_jointly(cells), strict=True):
        (single,) = judge_jointly([alone])
        assert single.kind == together.kind
        assert single.half_multiple.value == pytest.approx(together.half_multiple.value, rel=1e-3)


def test_a_median_is_averaged_over_shapes_that_fit_alike():
    mu = np.linspace(-1, 2, 61)
    tops = [-0.5 * ((mu - centre) / 0.1) ** 2 for centre in (0.2, 0.5)]
    assert median_seed._mean(mu, np.array(tops[:1])) == pytest.approx(0.2, abs=1e-3)
    assert median_seed._mean(mu, np.array(tops)) == pytest.approx(0.35, abs=1e-3)
    # three times the likelihood has three times the weight
    tops[1] = tops[1] + np.log(3)
    assert median_seed._mean(mu, np.array(tops)) == pytest.approx(0.425, abs=1e-3)


def test_what_knows_all_but_the_thresholds_finds_them():
    """The floor that the benchmark prints: with many strings only the seeds' scatter is left."""
    rng = np.random.default_rng(7)
    variant = Variant(scatter=(0.1, 0.3), rho=(0.0, 0.0), strings=(200_000,))
    for kind in ("sharp", "gradual"):
        truth = draw_cell(rng, variant, kind)
        middle, of_seeds = know_all_but_thresholds(truth)
        assert middle == pytest.approx(np.exp(np.mean(np.log(truth.seed_halves))), rel=0.01)
        assert of_seeds == pytest.approx(np.median(truth.seed_halves), rel=0.01)
