"""Bisecting a failure: every step halves it, whatever the curve, and it always ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.analysis.simulate import from_accuracies

from ldru_study.analysis.bisection import bisect_failure
from ldru_study.analysis.counts import LengthCurve

LENGTHS = (20, 40, 80, 160, 320)


def answered(accuracy_at, lengths, total=512):
    lengths = np.array(sorted(lengths))
    right = [round(total * accuracy_at(length)) for length in lengths]
    same = np.full(len(lengths), total)
    return LengthCurve(0, 40, lengths, right, same, np.full(len(lengths), 0.5))


def refined(accuracy_at, ratio, nearest_covered=lambda length: length):
    """Ask until nothing is left to ask; return the last bisection and the lengths."""
    lengths = list(LENGTHS)
    while True:
        found = bisect_failure(
            answered(accuracy_at, lengths),
            level=0.9,
            ratio=ratio,
            nearest_covered=nearest_covered,
        )
        if found is None or found.next_length is None:
            return found, lengths
        assert found.next_length not in lengths
        expected = found.num_left(ratio)
        lengths.append(found.next_length)
        after = bisect_failure(
            answered(accuracy_at, lengths), level=0.9, ratio=ratio, nearest_covered=nearest_covered
        )
        # a length that exists is not quite the middle
        assert after.num_left(ratio) <= expected


@settings(deadline=None)
@given(st.integers(41, 319), st.sampled_from([1.01, 1.05, 1.2]))
def test_a_sharp_failure_is_found_to_the_ratio(at, ratio):
    found, lengths = refined(lambda length: 1.0 if length < at else 0.5, ratio)
    assert found.holds_at < at <= found.fails_at
    assert found.ratio <= ratio or found.fails_at - found.holds_at == 1
    assert len(lengths) <= len(LENGTHS) + 7


def test_a_slow_fall_ends_too():
    found, lengths = refined(lambda length: 0.5 + 0.5 * np.exp(-length / 700), 1.05)
    # 0.9 of the excess is left at 74 tokens
    assert found.holds_at < 75 <= found.fails_at + 5
    assert found.ratio <= 1.05
    assert len(lengths) < 12


def test_a_failure_within_the_training_range_is_left_alone():
    # many more lengths there would change what counts as learned
    assert refined(lambda length: 1.0 if length < 30 else 0.5, 1.05) == (None, list(LENGTHS))


def test_the_longest_training_length_is_asked_first():
    lengths = [10, 20, 160]
    curve = answered(lambda length: 1.0 if length < 100 else 0.5, lengths)
    found = bisect_failure(curve, level=0.9, ratio=1.05, nearest_covered=int)
    assert (found.holds_at, found.fails_at, found.next_length) == (20, 160, 40)


def test_only_covered_lengths_are_asked():
    found, lengths = refined(
        lambda length: 1.0 if length < 101 else 0.5, 1.01, lambda length: 2 * round(length / 2)
    )
    assert (found.holds_at, found.fails_at) == (100, 102)
    assert all(length % 2 == 0 for length in lengths)


@pytest.mark.parametrize("accuracies", [[1.0] * 5, [0.5] * 5, [0.7, 0.6, 0.5, 0.5, 0.5]])
def test_without_a_sure_failure_after_a_sure_hold_there_is_nothing_to_bisect(accuracies):
    curve = from_accuracies(accuracies, multiples=(0.5, 1, 2, 4, 8))
    assert bisect_failure(curve, level=0.9, ratio=1.05, nearest_covered=int) is None


def test_a_ratio_of_one_would_never_end():
    with pytest.raises(ValueError, match="ratio is 1, it must be > 1"):
        bisect_failure(
            from_accuracies([1.0], multiples=(1,)), level=0.9, ratio=1, nearest_covered=int
        )
