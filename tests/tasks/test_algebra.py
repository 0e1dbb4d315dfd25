"""Smallest automata and what their monoids say, by enumeration and by what is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldru_study.tasks.algebra import algebra_of, minimal, shortest_strings
from ldru_study.tasks.automaton import Automaton
from ldru_study.tasks.counts import LogCounts
from ldru_study.tasks.registry import find_task, task_names

# the tasks of the literature; those that bring their own definition may be anything
REGULAR = [
    name
    for name in task_names()
    if find_task(name).is_regular and find_task(name).definition is None
]


def algebra(name):
    return algebra_of(find_task(name).automaton)


# Bhattamishra et al. 2020 (arXiv 2009.11264), table 1, for tomita_n and d_n
@pytest.mark.parametrize("name", REGULAR)
def test_counting_is_told_from_remembering(name):
    counts = ("parity", "cycle", "tomita_3", "tomita_5", "tomita_6", "modular", "group")
    assert algebra(name).is_star_free == (not name.startswith(counts))


@pytest.mark.parametrize("name", REGULAR)
def test_only_large_permutation_groups_are_not_solvable(name):
    assert algebra(name).is_solvable == (name not in ("group_s5", "group_a5"))


@pytest.mark.parametrize(
    ("name", "size"), [("group_s3", 6), ("group_s4", 24), ("group_a5", 60), ("group_z_7", 7)]
)
def test_the_monoid_of_a_word_problem_is_the_group(name, size):
    assert algebra(name).monoid_size == algebra(name).num_states == size


@pytest.mark.parametrize("name", ["tomita_3", "tomita_7", "d_3", "prefix_2_2", "even_pairs"])
def test_monoids_by_enumeration(name):
    smallest = minimal(find_task(name).automaton)
    maps = set()
    for length in range(9):
        for string in itertools.product(range(smallest.num_symbols), repeat=length):
            states = np.arange(smallest.num_states)
            for symbol in string:
                states = smallest.transitions[states, symbol]
            maps.add(states.tobytes())
    assert algebra(name).monoid_size == len(maps)


def test_a_monoid_that_is_too_large_is_said_to_be():
    found = algebra_of(find_task("d_8").automaton, limit=285)
    assert (found.monoid_size, found.monoid_limit) == (None, 285)
    assert found.is_star_free is None
    assert found.is_solvable is None
    assert algebra_of(find_task("d_8").automaton, limit=286).monoid_size == 286


def automata(num_classes=2):
    def build(draw):
        num_states, num_symbols = draw(st.integers(1, 6)), draw(st.integers(1, 3))
        state = st.integers(0, num_states - 1)
        rows = st.lists(state, min_size=num_symbols, max_size=num_symbols)
        transitions = draw(st.lists(rows, min_size=num_states, max_size=num_states))
        label = st.integers(-1, num_classes - 1)
        outputs = draw(st.lists(label, min_size=num_states, max_size=num_states))
        return Automaton(np.array(transitions), np.array(outputs), num_classes)

    return st.composite(build)()


def strings_of(automaton, length):
    strings = itertools.product(range(automaton.num_symbols), repeat=length)
    return np.array(list(strings), dtype=np.uint8).reshape(automaton.num_symbols**length, length)


@settings(max_examples=60, deadline=None)
@given(automaton=automata(), seed=st.integers(0, 99))
def test_smallest_automata(automaton, seed):
    smallest = minimal(automaton)
    for length in range(6):
        strings = strings_of(automaton, length)
        lengths = np.full(len(strings), length)
        assert (automaton.label(strings, lengths) == smallest.label(strings, lengths)).all()
    # the same language with its states in another order and each of them twice
    order = 1 + np.random.default_rng(seed).permutation(2 * automaton.num_states - 1)
    number = np.concatenate([[0], order])
    doubled = np.tile(automaton.transitions, (2, 1))
    doubled[::2] += automaton.num_states * (doubled[::2] % 2)
    transitions = np.empty_like(doubled)
    transitions[number] = number[doubled]
    outputs = np.empty(len(doubled), dtype=np.int64)
    outputs[number] = np.tile(automaton.outputs, 2)
    again = minimal(Automaton(transitions, outputs, 2))
    assert (again.transitions == smallest.transitions).all()
    assert (again.outputs == smallest.outputs).all()


@settings(max_examples=40, deadline=None)
@given(automaton=automata(3))
def test_logarithms_of_counts(automaton):
    counts = LogCounts(automaton)
    lengths = (0, 1, 5, 3)
    into, out_of = counts.by_state(lengths), counts.to_classes(lengths)
    for length in lengths:
        exact = automaton.count_strings(length)
        assert np.exp(counts.by_class(length)) == pytest.approx(exact, rel=1e-12)
        assert np.exp(out_of[length][0]) == pytest.approx(exact, rel=1e-12)
        assert np.exp(into[length]).sum() == pytest.approx(automaton.num_symbols**length)


def test_counts_that_no_float_holds():
    counts = LogCounts(find_task("d_3").automaton)
    for length in (5000, 2000):
        exact = find_task("d_3").automaton.count_strings(length)[1]
        # python's integers have logarithms of any size
        wanted = (exact.bit_length() - 60) * np.log(2) + np.log(exact >> (exact.bit_length() - 60))
        assert counts.by_class(length)[1] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", ["d_2", "tomita_7", "modular_arithmetic", "prefix_2_2"])
def test_shortest_strings(name):
    task = find_task(name)
    found = shortest_strings(task.automaton)
    assert set(found) >= set(task.automaton.recurring_classes)
    for label, string in found.items():
        for length in range(len(string)):
            strings = strings_of(task.automaton, length)
            assert label not in task.automaton.label(strings, np.full(len(strings), length))
        tokens = np.array([string], dtype=np.uint8).reshape(1, -1)
        assert task.automaton.label(tokens, np.array([len(string)])).tolist() == [label]
