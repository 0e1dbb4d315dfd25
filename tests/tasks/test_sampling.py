"""The sampler: every string with the wanted label equally likely, at any length."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ldru_study.tasks import sampling
from ldru_study.tasks.automaton import Automaton
from ldru_study.tasks.registry import find_task, task_names
from ldru_study.tasks.sampling import BalancedSampler
from ldru_study.tasks.streams import random_stream

REGULAR = [name for name in task_names() if find_task(name).is_regular]


def sampler_of(name):
    return BalancedSampler(find_task(name).automaton)


def all_strings(num_symbols, length):
    return np.array(list(itertools.product(range(num_symbols), repeat=length)), dtype=np.uint8)


@pytest.mark.parametrize(
    "name", ["parity_check", "cycle_navigation", "tomita_3", "tomita_7", "d_3"]
)
def test_each_string_of_a_class_has_the_same_probability(name):
    """Uniform by construction: the share of [0, 1)^T that walks to a string is 1 / their number."""
    task, length = find_task(name), 6
    sampler = BalancedSampler(task.automaton)
    walk = sampler._walk
    walk._extend(length)
    strings = all_strings(task.num_symbols, length)
    labels = task.automaton.label(strings, np.full(len(strings), length))
    counts = task.automaton.count_strings(length)
    for string, label in zip(strings, labels, strict=True):
        state, probability = 0, 1.0
        for place, symbol in enumerate(string):
            row = int(walk._rows(np.array([length - 1 - place]))[0])
            base = (row * task.num_classes + label) * task.automaton.num_states + state
            cuts = [0.0, *walk._flat[base], 1.0]
            probability *= cuts[symbol + 1] - cuts[symbol]
            state = task.automaton.transitions[state, symbol]
        assert probability == pytest.approx(1 / counts[label], rel=1e-12)


@pytest.mark.parametrize(
    "name", ["even_pairs", "cycle_navigation", "tomita_4", "d_2", "prefix_2_2"]
)
def test_draws_are_uniform_within_each_label(name):
    task, length, num_draws = find_task(name), 6, 20_000
    rng = np.random.default_rng(5)
    tokens, labels = BalancedSampler(task.automaton).sample(np.full(num_draws, length), rng)
    codes = tokens.astype(np.int64) @ task.num_symbols ** np.arange(length)
    share = chisquare(np.bincount(labels)[list(task.automaton.classes_at(length))])
    assert share.pvalue > 1e-4
    for label, count in enumerate(task.automaton.count_strings(length)):
        seen = np.unique(codes[labels == label], return_counts=True)[1]
        assert len(seen) == count
        if count > 1:
            assert chisquare(seen).pvalue > 1e-4


@pytest.mark.parametrize("name", REGULAR)
def test_strings_have_their_labels_at_mixed_lengths(name):
    task, sampler = find_task(name), sampler_of(name)
    rng = np.random.default_rng(3)
    lengths = rng.choice(sampler.covered_lengths(1, 50), 300)
    tokens, labels = sampler.sample(lengths, rng)
    assert tokens.dtype == np.uint8
    assert labels.dtype == np.int64
    assert tokens.shape == (300, lengths.max())
    assert (task.automaton.label(tokens, lengths) == labels).all()
    beyond = np.arange(tokens.shape[1]) >= lengths[:, None]
    assert not tokens[beyond].any()
    assert set(labels.tolist()) <= set(task.automaton.recurring_classes)


@pytest.mark.parametrize("name", REGULAR)
def test_covered_lengths_and_chance_by_counting(name):
    task, sampler = find_task(name), sampler_of(name)
    for length in range(1, 30):
        present = [c for c, n in enumerate(task.automaton.count_strings(length)) if n]
        covered = set(task.automaton.recurring_classes) <= set(present)
        assert sampler.covers(length) == covered
        assert sampler.chance(length) == (1 / len(present) if present else 0)
    listed = sampler.covered_lengths(3, 29).tolist()
    assert listed == [length for length in range(3, 30) if sampler.covers(length)]


@pytest.mark.parametrize(
    ("name", "length", "nearest"),
    [("parity_check", 40, 40), ("d_4", 41, 40), ("d_4", 1, 2), ("prefix_4_2", 1, 4)],
)
def test_nearest_covered(name, length, nearest):
    assert sampler_of(name).nearest_covered(length) == nearest


def test_classes_that_never_meet_are_an_error():
    by_parity = Automaton(np.array([[1, 1], [0, 0]]), np.array([0, 1]), 2)
    sampler = BalancedSampler(by_parity)
    assert sampler.covered_lengths(1, 20).size == 0
    with pytest.raises(ValueError, match="no length has strings of every class"):
        sampler.nearest_covered(7)


@pytest.mark.parametrize("name", ["tomita_7", "d_12", "cycle_navigation"])
def test_long_strings(name):
    task, sampler = find_task(name), sampler_of(name)
    length = sampler.nearest_covered(20_000)
    lengths = np.array([length, 2, length, 100])
    tokens, labels = sampler.sample(lengths, np.random.default_rng(0))
    assert (task.automaton.label(tokens, lengths) == labels).all()


def test_rare_acceptance_is_found_where_uniform_strings_never_would():
    # 1 in 10^150 strings of this length is accepted
    sampler = sampler_of("d_2")
    _, labels = sampler.sample(np.full(400, 1000), np.random.default_rng(1))
    assert 150 < labels.sum() < 250


def test_what_was_asked_before_changes_nothing():
    fresh, used = sampler_of("tomita_7"), sampler_of("tomita_7")
    used.sample(np.array([500, 3]), np.random.default_rng(9))
    lengths = np.array([30, 7, 30])
    one, other = (s.sample(lengths, np.random.default_rng(2)) for s in (fresh, used))
    assert (one[0] == other[0]).all()
    assert (one[1] == other[1]).all()


@pytest.mark.parametrize("name", ["cycle_navigation", "tomita_7", "d_12", "prefix_2_4"])
@pytest.mark.parametrize("num_strings", [1, 3, 200])
def test_pieces_are_the_same_strings_bit_for_bit(name, num_strings):
    length = sampler_of(name).nearest_covered(300)
    whole, labels = sampler_of(name).sample(np.full(num_strings, length), np.random.default_rng(4))
    for size in (length + 1, 64, 7):
        same, pieces = sampler_of(name).stream(length, num_strings, np.random.default_rng(4), size)
        found = list(pieces)
        assert (same == labels).all()
        assert [piece.shape[1] for piece in found[:-1]] == [size] * (length // size)
        assert (np.concatenate(found, axis=1) == whole).all()


def test_counts_that_never_repeat_are_computed_again_piece_by_piece(monkeypatch):
    monkeypatch.setattr(sampling, "_MOST_ROWS", 100)
    monkeypatch.setattr(sampling, "_BETWEEN_SAVED", 64)
    sampler = sampler_of("tomita_7")
    for num_strings in (2, 100):
        lengths = np.full(num_strings, 1003)
        whole, _ = sampler_of("tomita_7").sample(lengths, np.random.default_rng(4))
        _, pieces = sampler.stream(1003, num_strings, np.random.default_rng(4), 90)
        assert (np.concatenate(list(pieces), axis=1) == whole).all()
    # neither here nor there are all rows
    assert len(sampler._walk._cuts) == 100
    assert len(sampler._walk._saved) == 16


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_automaton_is_sampled_right(data):
    num_states = data.draw(st.integers(1, 5))
    num_symbols = data.draw(st.integers(1, 3))
    state = st.integers(0, num_states - 1)
    row = st.lists(state, min_size=num_symbols, max_size=num_symbols)
    transitions = data.draw(st.lists(row, min_size=num_states, max_size=num_states))
    outputs = data.draw(st.lists(st.integers(0, 2), min_size=num_states, max_size=num_states))
    automaton = Automaton(np.array(transitions), np.array(outputs), 3)
    lengths = np.array(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=20)))
    tokens, labels = BalancedSampler(automaton).sample(lengths, np.random.default_rng(0))
    assert (automaton.label(tokens, lengths) == labels).all()
    for length, label in zip(lengths, labels, strict=True):
        assert automaton.count_strings(int(length))[label] > 0
        assert label in automaton.classes_at(int(length))


def test_streams_are_functions_of_their_position():
    def draw(*position):
        return random_stream(*position).random(4).tolist()

    assert draw(0, "data", 3) == draw(0, "data", 3)
    others = [(1, "data", 3), (0, "dropout", 3), (0, "data", 4), (0, "data"), (0, "data", 3, 0)]
    assert all(draw(*other) != draw(0, "data", 3) for other in others)
