"""What a window gives away: by enumeration, and the published protocol's own figures."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from tests.tasks.test_samplers import Reference

from ldru_study.tasks.counts import LogCounts
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.samplers import sampler_of
from ldru_study.tasks.streams import random_stream
from ldru_study.tasks.windows import window_shortcuts

PUBLISHED_LENGTHS = range(42, 501)


def percent(shares):
    return 100 * float(np.mean(list(shares)))


@pytest.mark.parametrize("sampling", ["balanced", "paper"])
@pytest.mark.parametrize(
    ("name", "length", "window"),
    [
        ("parity_check", 7, 3),
        ("even_pairs", 7, 6),
        ("d_2", 8, 3),
        ("d_3", 10, 4),
        ("cycle_navigation", 6, 4),
        ("prefix_2_2", 6, 1),
        ("modular_arithmetic", 5, 3),
        ("group_s3", 6, 2),
        ("regex:(0|1)*010(0|1)*", 9, 5),
    ],
)
def test_windows_by_enumeration(name, length, window, sampling):
    task, sampler = find_task(name), sampler_of(name, sampling)
    strings = np.array(
        list(itertools.product(range(task.num_symbols), repeat=length)), dtype=np.uint8
    )
    labels = task.automaton.label(strings, np.full(len(strings), length))
    counts, shares = task.automaton.count_strings(length), sampler.label_shares(length)
    best = {"first": Counter(), "last": Counter()}
    for string, label in zip(strings, labels.tolist(), strict=True):
        if label >= 0:
            best["first"][string[:window].tobytes(), label] += shares[label] / counts[label]
            best["last"][string[-window:].tobytes(), label] += shares[label] / counts[label]
    (found,) = window_shortcuts(name, sampling, [length], window)
    assert found.is_exact
    for side, joint in best.items():
        exact = sum(
            max(joint[seen, label] for label in range(task.num_classes))
            for seen in {seen for seen, _ in joint}
        )
        assert getattr(found, side) == pytest.approx(exact, rel=1e-9), side


def dead_states(automaton):
    stays = (automaton.transitions == np.arange(automaton.num_states)[:, None]).all(axis=1)
    return np.flatnonzero(stays & (automaton.outputs == 0))


@pytest.mark.parametrize(
    ("name", "published"),
    [("d_2", 100), ("d_3", 99.9), ("d_4", 99.5), ("d_6", 97.0), ("d_8", 94.0), ("d_12", 90.5)],
)
def test_whether_brackets_are_dead_after_32_tokens(name, published):
    """The classifier of the published protocol's critique: dead is 0, anything else 1; exact."""
    sampler, automaton = sampler_of(name, "paper"), find_task(name).automaton
    counts = LogCounts(automaton)
    into = counts.by_state([32])[32]
    out_of = counts.to_classes([length - 32 for length in PUBLISHED_LENGTHS])
    is_dead = np.isin(np.arange(automaton.num_states), dead_states(automaton))
    accuracies = []
    for length in PUBLISHED_LENGTHS:
        with np.errstate(invalid="ignore"):
            # of a label without strings nothing is counted
            ways = into[:, None] + out_of[length - 32] - counts.by_class(length)
        joint = np.nan_to_num(np.exp(ways)) * sampler.label_shares(length)
        accuracies.append(joint[is_dead, 0].sum() + joint[~is_dead, 1].sum())
    assert percent(accuracies) == pytest.approx(published, abs=0.051)


@pytest.mark.parametrize(
    ("name", "published"),
    [("tomita_3", 98.7), ("tomita_4", 96.1), ("tomita_7", 100), ("d_4", 99.5), ("d_12", 90.5)],
)
def test_whether_drawn_strings_are_dead_after_32_tokens(name, published):
    sampler, automaton = sampler_of(name, "paper"), find_task(name).automaton
    num_strings, lengths = 600, range(42, 501, 37)
    right = []
    for length in lengths:
        tokens, labels = sampler.sample(
            np.full(num_strings, length), random_stream(0, f"dead/{name}", length)
        )
        state = np.zeros(num_strings, dtype=np.int64)
        for symbol in tokens[:, :32].T:
            state = automaton.transitions[state, symbol]
        right.append(np.mean(~np.isin(state, dead_states(automaton)) == labels))
    # odd lengths are as many as even ones up to one: both parities weigh the same
    means = [
        np.mean([r for r, n in zip(right, lengths, strict=True) if n % 2 == p]) for p in (0, 1)
    ]
    # three standard errors of the mean over some 8 000 strings, and the rounding of the figure
    spread = 300 * np.sqrt(published / 100 * (1 - published / 100) / (num_strings * len(lengths)))
    assert percent(means) == pytest.approx(published, abs=0.05 + spread)


@pytest.mark.parametrize(
    ("name", "published"), [("tomita_3", 98.7), ("tomita_4", 96.1), ("tomita_7", 100)]
)
def test_whether_walks_are_dead_after_32_tokens(name, published):
    """Computed, every ninth length: no rule on the state is better than asking if it is dead."""
    found = window_shortcuts(name, "paper", range(42, 501, 9), 32)
    assert all(one.is_exact for one in found)
    assert percent(one.first for one in found) == pytest.approx(published, abs=0.051)


def test_last_tokens_of_arithmetic():
    sampler = sampler_of("modular_arithmetic", "paper")
    lengths = [length for length in PUBLISHED_LENGTHS if sampler.covers(length)]
    assert all(length % 2 for length in lengths)
    found = window_shortcuts("modular_arithmetic", "paper", lengths, 40)
    assert percent(one.last for one in found) == pytest.approx(81.7, abs=0.051)
    # while the first ones say nothing
    assert percent(one.first for one in found) == pytest.approx(27.3, abs=0.051)


def test_counting_is_not_given_away_and_remembering_is():
    (parity,) = window_shortcuts("parity_check", "balanced", [100], 40)
    assert parity.first == parity.last == pytest.approx(0.5)
    (first,) = window_shortcuts("prefix_4_2", "balanced", [100], 40)
    assert first.first == pytest.approx(1)
    assert first.last == pytest.approx(1 / 16)


def test_what_the_window_covers_is_known():
    for sampling in ("balanced", "hard", "paper"):
        (found,) = window_shortcuts("tomita_3", sampling, [40], 40)
        assert (found.first, found.last, found.is_exact) == (1, 1, True)
    short, long = window_shortcuts("listops_3_9", "balanced", [40, 50], 40)
    assert (short.first, short.last, short.is_exact) == (1, 1, True)
    assert (long.first, long.last) == (None, None)


@pytest.mark.parametrize(
    ("name", "length", "window"),
    [
        ("tomita_2", 6, 3),
        ("tomita_3", 8, 3),
        ("tomita_4", 7, 5),
        ("tomita_5", 7, 2),
        ("tomita_7", 8, 4),
    ],
)
def test_windows_of_walks_by_enumeration(name, length, window):
    """Every string by its probability; known are the state after the first tokens, and what
    the last ones make of every state."""
    automaton = find_task(name).automaton
    best = {"first": Counter(), "last": Counter()}
    for string, probability in Reference(find_task(name), length).walks().items():
        state, states = 0, np.arange(automaton.num_states)
        for symbol in string[:window]:
            state = automaton.transitions[state, symbol]
        for symbol in string[-window:]:
            states = automaton.transitions[states, symbol]
        (label,) = automaton.label(np.array([string], dtype=np.uint8), np.array([length]))
        best["first"][int(state), int(label)] += probability
        best["last"][automaton.outputs[states].tobytes(), int(label)] += probability
    (found,) = window_shortcuts(name, "paper", [length], window)
    assert found.is_exact
    for side, joint in best.items():
        kinds = {kind for kind, _ in joint}
        exact = sum(max(joint[kind, label] for label in (0, 1)) for kind in kinds)
        assert getattr(found, side) == pytest.approx(exact, rel=1e-9), side


def test_estimated_windows_are_near_the_truth():
    """Nearly all words of a group of two are equally likely however they are drawn."""
    (hard,) = window_shortcuts("parity_check", "hard", [60], 20)
    assert not hard.is_exact
    assert hard.first == pytest.approx(0.5, abs=0.03)
    (known,) = window_shortcuts("prefix_4_2", "hard", [60], 20)
    # the prefix is settled before nearly every turn
    assert known.first == 1


def test_hard_strings_give_less_away():
    for name in ("d_2", "d_4", "tomita_7"):
        (hard,) = window_shortcuts(name, "hard", [200], 40)
        (paper,) = window_shortcuts(name, "paper", [200], 40)
        assert hard.first < paper.first - 0.1, name


def test_maps_that_are_too_many_are_not_counted(monkeypatch):
    monkeypatch.setattr("ldru_study.tasks.windows._MOST_MEANINGS", 5)
    (found,) = window_shortcuts("d_4", "balanced", [60], 40)
    assert found.last is None
    assert found.first > 0.9
