"""The traps of length curves, each with what we answer where others answer nonsense.

The number in a test's name is that of its trap.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind
from tests.analysis.simulate import MULTIPLES, cell, curve, from_accuracies, numbered
from tests.conftest import small_trial

from ldru_study.analysis.bracket import find_bracket
from ldru_study.analysis.cell import judge_cells
from ldru_study.analysis.compare import compare
from ldru_study.analysis.consensus import judge_jointly
from ldru_study.analysis.judge import judge_curves
from ldru_study.training.batches import evaluation_block


def judge(*curves, **more):
    return judge_curves(list(curves), **more)


def test_1_all_right_has_no_failure_multiple():
    (verdict,) = judge(from_accuracies(np.ones(len(MULTIPLES))))
    assert verdict.kind == "holds"
    assert verdict.half_multiple.value is None
    assert verdict.half_multiple.lower == 100
    assert verdict.half_multiple.upper is None
    for level in (0.99, 0.9, 0.5):
        assert verdict.failure_multiples[level].value is None
    assert verdict.bracket.fails_at is None


def test_2_all_at_chance_was_never_learned():
    rng = np.random.default_rng(2)
    (verdict,) = judge(curve(rng, half=1e-6))
    assert verdict.kind == "never_learned"
    assert verdict.half_multiple.value is None
    assert verdict.fit is None
    assert verdict.reason.endswith("at <= 1x")


def test_3_a_step_between_two_lengths_has_only_a_bracket():
    accuracies = np.where(np.array(MULTIPLES) <= 4, 1.0, 0.5)
    (verdict,) = judge(from_accuracies(accuracies))
    assert verdict.kind == "sharp"
    assert (verdict.bracket.holds_at, verdict.bracket.fails_at) == (4, 6)
    half = verdict.half_multiple
    assert half.value is None
    assert 3.9 < half.lower < half.upper < 6.1
    # how sharp it is can only be bounded
    assert verdict.sharpness.value is None
    assert verdict.sharpness.upper <= 2
    # and the lengths between are proposed
    assert len(verdict.next_lengths) == 4
    assert all(160 < length < 240 for length in verdict.next_lengths)


@pytest.mark.parametrize("num_seeds", [3, 10])
def test_3_seeds_that_share_a_step_have_only_its_bracket(num_seeds):
    step = from_accuracies(np.where(np.array(MULTIPLES) <= 4, 1.0, 0.5))
    (verdict,) = judge_cells([cell(*[step] * num_seeds)])
    assert verdict.kind == "sharp"
    # every place in it is as good, at every level
    for found in (verdict.half_multiple, *verdict.joint.failure_multiples.values()):
        assert found.value == pytest.approx(np.sqrt(4 * 6))
        assert found.lower <= 4
        assert found.upper >= 6
    # how sharp it is can only be bounded
    assert verdict.joint.sharpness is None
    assert re.fullmatch(
        r"falls sharply \(W <= 1\.\d+\), anywhere between 4x and 6x", verdict.joint.reason
    )


def test_3_intervals_cover_wherever_in_its_bracket_a_shared_step_lies():
    rng = np.random.default_rng(3)
    halves = rng.uniform(4.04, 5.94, 20)
    groups = [numbered(*(curve(rng, half=half, beta=200) for _ in range(10))) for half in halves]
    found = [v.half_multiple for v in judge_jointly(groups, levels=())]
    covered = [one.lower <= half <= one.upper for one, half in zip(found, halves, strict=True)]
    assert sum(covered) >= 18


def test_3_a_fall_that_some_length_shows_has_its_own_number():
    """What one length tells about the middle of the fall is not given up for the bracket."""
    rng = np.random.default_rng(3)
    seeds = [curve(rng, half=4.2, beta=8, total=2048) for _ in range(3)]
    (joint,) = judge_jointly([numbered(*seeds)], levels=())
    assert joint.half_multiple.value == pytest.approx(4.2, rel=0.03)
    assert joint.half_multiple.upper < 6
    assert joint.sharpness == pytest.approx(21.85 ** (1 / 8), rel=0.1)


def test_3_a_step_that_is_too_wide_decides_nothing():
    accuracies = [1.0, 1.0, 1.0, 0.5]
    (verdict,) = judge(from_accuracies(accuracies, multiples=(0.5, 1, 2, 25)))
    assert verdict.kind == "inconclusive"
    assert verdict.next_lengths


def test_4_few_bimodal_seeds_are_counted_not_averaged():
    holds = from_accuracies(np.ones(len(MULTIPLES)))
    fails = from_accuracies(np.where(np.array(MULTIPLES) <= 2, 1.0, 0.5))
    (verdict,) = judge_cells([cell(holds, holds, holds, fails, fails)])
    assert verdict.summary == "3 of 5 hold, 2 sharp"
    low, high = verdict.holds_share
    # Clopper-Pearson for 3 of 5
    assert (low, high) == (pytest.approx(0.189, abs=0.001), pytest.approx(0.924, abs=0.001))


def test_5_sharp_failures_at_scattered_lengths_look_gradual_when_pooled():
    rng = np.random.default_rng(5)
    kinds, pooled, flagged = Counter(), Counter(), 0
    for _ in range(10):
        halves = np.exp(rng.uniform(np.log(1.5), np.log(20), 6))
        seeds = [
            curve(rng, half=half, beta=8, multiples=np.geomspace(0.5, 30, 24)) for half in halves
        ]
        (verdict,) = judge_cells([cell(*seeds)])
        kinds.update(seed.kind for seed in verdict.seeds)
        pooled[verdict.pooled.kind] += 1
        flagged += "pooling_artefact" in verdict.flags
    assert kinds["sharp"] >= 57
    assert pooled["gradual"] >= 8
    assert flagged >= 8


def test_6_chance_is_not_one_over_the_number_of_classes():
    # a constant answer is right on 66, 99.3 and 100 % of uniform strings with "010" in them
    chance = [0.657, 0.993, 1.0]
    (verdict,) = judge(from_accuracies(chance, multiples=(0.25, 1, 4), chance=chance))
    assert verdict.kind == "never_learned"
    assert "uninformative_lengths" in verdict.flags
    # where nothing can tell, nothing is claimed
    (verdict,) = judge(from_accuracies([1.0, 1.0], multiples=(1, 4), chance=[0.993, 1.0]))
    assert verdict.kind == "inconclusive"
    assert verdict.reason == "at every length a constant answer is nearly always right"


def test_6_a_holds_reaches_no_further_than_the_last_length_that_can_tell():
    accuracies, chance = np.ones(4), [0.5, 0.5, 0.5, 0.999]
    (verdict,) = judge(from_accuracies(accuracies, multiples=(0.5, 1, 2, 100), chance=chance))
    assert verdict.kind == "holds"
    assert verdict.reach == 2
    assert verdict.reason == "no failure up to 2x"


def test_7_an_inverted_answer_is_below_chance():
    accuracies = np.where(np.array(MULTIPLES) <= 4, 1.0, 0.1)
    (verdict,) = judge(from_accuracies(accuracies))
    assert "below_chance" in verdict.flags
    (verdict,) = judge(from_accuracies(np.where(np.array(MULTIPLES) <= 4, 1.0, 0.5)))
    assert "below_chance" not in verdict.flags


def test_8_curves_that_rise_again_and_depend_on_parity_or_depth():
    accuracies = [1, 1, 1, 1, 0.6, 0.95, 0.6, 0.95, 0.6, 0.95, 0.6, 0.95, 0.6, 0.95]
    (verdict,) = judge(from_accuracies(accuracies))
    assert "non_monotone" in verdict.flags
    # odd lengths are worse than their even neighbours
    lengths = np.array([n + d for n in (40, 80, 160, 320, 640) for d in (0, 1, 2, 3)])
    rng = np.random.default_rng(8)
    odd = rng.binomial(512, np.where(lengths % 2, 0.80, 0.98)) / 512
    (verdict,) = judge_cells([cell(from_accuracies(odd, multiples=lengths / 40))])
    assert "length_parity" in verdict.flags
    assert "tree_depth" not in verdict.flags
    # one more level costs accuracy
    lengths = np.array([2**j + d for j in range(5, 11) for d in (-1, 0, 1, 2)])
    deep = 0.99 - 0.04 * (np.ceil(np.log2(lengths)) - 5)
    deep = rng.binomial(4096, deep) / 4096
    (verdict,) = judge_cells([cell(from_accuracies(deep, multiples=lengths / 40, total=4096))])
    assert "tree_depth" in verdict.flags
    assert "length_parity" not in verdict.flags


def test_9_pairs_meet_the_same_strings_and_replicates_meet_others():
    def tokens(model, seed):
        return evaluation_block(small_trial(model, seed=seed), 50, 0, 0, 32).tokens

    assert torch.equal(tokens("lstm", 0), tokens("ldru", 0))
    assert not torch.equal(tokens("lstm", 0), tokens("lstm", 1))
    # so a comparison pairs by seed: each seed is hard for both models alike, and the test sees it
    hard = np.linspace(0.6, 0.95, 8)
    a = cell(*(from_accuracies(np.full(3, x + 0.02), multiples=(1, 2, 3)) for x in hard))
    b = cell(*(from_accuracies(np.full(3, x), multiples=(1, 2, 3)) for x in hard))
    (paired,) = compare([a], [b]).tasks
    assert paired.p_value < 0.01
    assert ttest_ind(paired.differences + hard, hard).pvalue > 0.5


def test_10_nothing_depends_on_a_gpl_fitter():
    root = Path(__file__).parent.parent.parent
    for name in ("pyproject.toml", "constraints.txt"):
        assert "psignifit" not in (root / name).read_text().lower()
    code = "import sys, ldru_study.analysis.report; sys.exit('psignifit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bracket_needs_no_curve():
    accuracies = [1.0, 1.0, 1.0, 0.97, 0.7, 0.5]
    found = find_bracket(from_accuracies(accuracies, multiples=(0.5, 1, 2, 3, 4, 8)), 0.9)
    assert (found.holds_at, found.fails_at) == (3, 4)
    # 97 % right is 94 % of the way from chance to perfect
