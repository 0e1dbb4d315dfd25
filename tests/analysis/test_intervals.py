"""Exact intervals, bounds and the claim at 2x and 3x."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from tests.analysis.simulate import MULTIPLES, cell, from_accuracies

from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.claims import claim_at
from ldru_study.analysis.intervals import exact_bounds, strings_needed, wilson

ALL_RIGHT = from_accuracies(np.ones(len(MULTIPLES)))


@given(st.integers(1, 5000), st.data())
def test_bounds_are_those_of_scipy(total, data):
    correct = data.draw(st.integers(0, total))
    low, high = wilson(np.array([correct]), np.array([total]))
    wanted = binomtest(correct, total).proportion_ci(0.95, "wilson")
    assert (low[0], high[0]) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    lower, upper = exact_bounds(correct, total, 0.95)
    above = binomtest(correct, total, alternative="greater").proportion_ci(0.95, "exact").low
    below = binomtest(correct, total, alternative="less").proportion_ci(0.95, "exact").high
    assert (float(lower), float(upper)) == (pytest.approx(above), pytest.approx(below))


@pytest.mark.parametrize(
    ("total", "error"),
    [(512, 0.0058), (3000, 0.0010), (3, 0.63), (5, 0.45), (10, 0.26), (59, 0.05)],
)
def test_no_error_in_n_still_allows_some(total, error):
    lower, _ = exact_bounds(total, total, 0.95)
    assert 1 - float(lower) == pytest.approx(1 - 0.05 ** (1 / total))
    assert 1 - float(lower) == pytest.approx(error, abs=0.006 if error > 0.01 else 0.0001)


def test_strings_that_a_claim_needs():
    assert strings_needed(0.01) == 299
    assert strings_needed(0.001) == 2995


def test_the_bound_on_a_cell_that_holds():
    (verdict,) = judge_cells([cell(ALL_RIGHT, ALL_RIGHT, ALL_RIGHT)])
    assert verdict.summary == "holds 3 of 3"
    assert verdict.error_bound == pytest.approx(1 - 0.05 ** (1 / 512))
    assert verdict.holds_share == (pytest.approx(0.05 ** (1 / 3)), 1.0)


def at_2x(accuracy, total=512):
    accuracies = np.ones(len(MULTIPLES))
    accuracies[MULTIPLES.index(2)] = accuracy
    return from_accuracies(accuracies, total=total)


@pytest.mark.parametrize(
    ("curves", "outcome"),
    [
        ([ALL_RIGHT, ALL_RIGHT], "supported"),
        ([ALL_RIGHT, at_2x(0.95)], "refuted"),
        ([ALL_RIGHT, at_2x(0.99)], "undecided"),
        ([from_accuracies(np.ones(len(MULTIPLES)), total=100)], "undecided"),
    ],
)
def test_the_claim(curves, outcome):
    claim = claim_at(cell(*curves), 2.0, 0.99)
    assert claim.outcome == outcome
    assert claim.needs == 299
    low, high = claim.share
    assert 0 <= low <= high <= 1


def test_the_claim_needs_a_length_near_its_multiple():
    short = from_accuracies([1.0, 1.0], multiples=(1, 1.8))
    assert claim_at(cell(short), 2.0, 0.99).outcome is None
    assert claim_at(cell(failed={0: "diverged"}), 2.0, 0.99).outcome is None
    # one seed that was tested has a say
    assert claim_at(cell(short, at_2x(0.5)), 2.0, 0.99).outcome == "refuted"
    assert claim_at(cell(short, ALL_RIGHT), 2.0, 0.99).outcome == "undecided"


def test_a_failed_seed_has_no_say_but_is_named():
    (verdict,) = judge_cells([cell(ALL_RIGHT, failed={7: "diverged"})])
    assert verdict.summary == "holds 1 of 1"
    assert dict(verdict.cell.failed) == {7: "diverged"}


def test_a_cell_without_any_result():
    (verdict,) = judge_cells([cell(failed={0: "diverged"})])
    assert verdict.summary == "no seed was evaluated"
    assert verdict.holds_share == (0.0, 1.0)
    assert verdict.pooled is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_correct": [513]}, "num_correct is above num_total"),
        ({"num_correct": [-1]}, "num_correct must be >= 0"),
        ({"num_total": [0], "num_correct": [0]}, "num_total must be >= 1"),
        ({"chance": [1.5]}, r"chance must lie in \[0, 1\]"),
        ({"lengths": [0]}, "lengths must be >= 1"),
        ({"lengths": [1, 2]}, "every column needs one value per length"),
        ({"num_correct": [0.5]}, "one finite value per length expected"),
        ({"train_max_length": 0}, "train_max_length is 0, it must be >= 1"),
    ],
)
def test_impossible_counts_are_refused(change, message):
    from ldru_study.analysis.counts import LengthCurve

    fields = {
        "seed": 0,
        "train_max_length": 40,
        "lengths": [80],
        "num_correct": [500],
        "num_total": [512],
        "chance": [0.5],
    }
    with pytest.raises(ValueError, match=message):
        LengthCurve(**(fields | change))
