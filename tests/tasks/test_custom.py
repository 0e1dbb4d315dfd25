"""A user's own tasks: their text forms, what makes two of them one, and what is refused."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from ldru_study.errors import UnknownNameError
from ldru_study.tasks.custom import automaton_of, automaton_text, parse_regex, regex_text
from ldru_study.tasks.registry import find_task

PARITY = {"even": ["even", "odd"], "odd": ["odd", "even"]}


@pytest.mark.parametrize(
    ("pattern", "alphabet"),
    [
        ("(0|1)*010(0|1)*", "01"),
        ("0*1*0*1*", "01"),
        ("(01|1{2,3})+0?", "01"),
        (".*11.0", "01"),
        ("[ab]c*(a|bc)+", "abc"),
        ("((0|1)(0|1))*", "01"),
    ],
)
def test_regular_expressions_mean_what_pythons_mean(pattern, alphabet):
    automaton = parse_regex(pattern, alphabet)
    for length in range(8):
        strings = list(itertools.product(range(len(alphabet)), repeat=length))
        wanted = [
            int(re.fullmatch(pattern, "".join(alphabet[s] for s in string)) is not None)
            for string in strings
        ]
        tokens = np.array(strings, dtype=np.uint8).reshape(-1, length) if length else None
        if tokens is None:
            assert automaton.outputs[0] == wanted[0]
        else:
            assert automaton.label(tokens, np.full(len(strings), length)).tolist() == wanted


def test_it_is_as_small_as_the_library_makes_it():
    from automata.fa.dfa import DFA
    from automata.fa.nfa import NFA

    for pattern in ("(0|1)*010(0|1)*", "(01|1{2,3})+0?", "(0|1)*1(0|1){4}"):
        smallest = DFA.from_nfa(NFA.from_regex(pattern), minify=True)
        # the library leaves the state out from which nothing is accepted
        is_total = all(len(leads) == 2 for leads in smallest.transitions.values())
        assert parse_regex(pattern, "01").num_states == len(smallest.states) + (not is_total)


def test_equal_languages_are_one_task():
    first = find_task(regex_text("(0|1)*1", name="ends_in_1"))
    second = find_task(regex_text("0*1(1|00*1)*"))
    written = automaton_of(
        "01", {"a": ["a", "b"], "b": ["c", "b"], "c": ["a", "b"]}, "a", {"a": 0, "b": 1, "c": 0}
    )
    third = find_task(automaton_text(written, alphabet="01"))
    other_symbols = find_task(regex_text("(x|y)*y"))
    assert {task.identity for task in (first, second, third, other_symbols)} == {
        "automaton:0,1;0,1:0,1"
    }
    assert first.label == "ends_in_1"
    assert second.label == second.name == "regex:0*1(1|00*1)*"
    assert third.label == third.name == "automaton[01]:0,1;0,1:0,1"
    assert other_symbols.symbols == ("x", "y")


def test_a_registered_task_is_not_the_same_as_its_language():
    # its trials have an id already
    own = find_task(
        automaton_text(automaton_of("01", PARITY, "even", {"even": 0, "odd": 1}), alphabet="01")
    )
    assert own.identity != find_task("parity_check").identity


def test_examples_are_the_shortest_strings():
    assert find_task("regex:(0|1)*010(0|1)*").examples == (("010", 1), ("", 0))


def test_long_automata_have_short_labels():
    states = {str(n): [str((n + 1) % 30), str(n)] for n in range(30)}
    classes = {str(n): n % 3 for n in range(30)}
    text = automaton_text(automaton_of("ab", states, "0", classes), alphabet="ab")
    task = find_task(text)
    assert task.automaton.num_states == 3
    assert task.classes == ("class 0", "class 1", "class 2")
    long = find_task(regex_text("(0|1)*1(0|1){8}0*(10|01)*1(0|1)*(000|111)(0|1)*"))
    assert re.fullmatch("regex-[0-9a-f]{8}", long.label)
    assert find_task(long.name) is long


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "regex:(0|1",
            "regex: '(0|1' is no regular expression over '01': Token list has unclosed parethesis.",
        ),
        (
            "regex[01]:2*1",
            "regex: '2*1' is no regular expression over '01': state 0 has invalid transition "
            "symbol 2.",
        ),
        (
            "regex[01]:[0-3]*1",
            "regex: '[0-3]*1' names '2', which is not in the alphabet '01'. Name all symbols: "
            "alphabet.",
        ),
        (
            "regex:1*",
            "regex: wants at least two symbols, found '1'. Name them all: alphabet: \"01\".",
        ),
        ("regex:(0|1)*", "regex: gives every long string the class 1: nothing to learn."),
        ("regex:01", "regex: gives every long string the class 0: nothing to learn."),
        (
            "regex:((0|1)(0|1))*",
            "regex: has its classes at different lengths, so that the length tells them.",
        ),
        (
            "regex:(0|1)*1(0|1){12}",
            "regex: needs 8192 states; 1000 are the most.",
        ),
        (
            "regex:(0|1)*1(0|1){30}",
            "regex: '(0|1)*1(0|1){30}' needs more than 10000 states.",
        ),
        (
            "regex:(0{99}){99}|1*",
            "regex: repeats a part more than 1000 times. Use an automaton.",
        ),
        ("regex:" + "01|" * 200, "regex: has 600 characters; 500 are the most."),
        ("regex[0 1]:01*", "regex: alphabet '0 1': ' ' is neither letter nor digit."),
        ("regex[00]:01*", "regex: alphabet '00' repeats '0'."),
        (
            "automaton[01]:0,1,0;1,0,1:0,1",
            "automaton: wants 2 states with 2 symbols each, found 2 with 3.",
        ),
        (
            f"automaton[01]:{';'.join(f'{(n + 1) % 300},{n}' for n in range(300))}:"
            + ",".join(map(str, range(300))),
            "automaton: has 300 states, 300 classes and 2 symbols: 90000 numbers per token in "
            "the sampler's tables; 50000 are the most.",
        ),
        (
            "automaton[01]:0,1;1:0,1",
            "automaton: wants 2 states with 2 symbols each, found 2 with 1.",
        ),
        ("automaton[01]:0,1;,1:0,1", "automaton: ',1' is no list of numbers such as 0,1."),
        ("automaton[01]:0,1;1,2:0,1", "automaton: leads to state 2 of 2."),
        ("automaton[01]:0,1;1,0:0,1000", "automaton: has more than 1000 states or classes."),
    ],
)
def test_what_is_no_task_is_explained(text, message):
    with pytest.raises(UnknownNameError) as caught:
        find_task(text)
    assert str(caught.value) == message
