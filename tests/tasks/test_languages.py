"""Every language against its definition in other words, on all short strings."""

from __future__ import annotations

import inspect
import itertools
import re

import numpy as np
import pytest

from ldru_study.errors import UnknownNameError
from ldru_study.tasks import languages
from ldru_study.tasks.registry import find_task, task_names


def tomita_3(string):
    runs = [(symbol, len(list(run))) for symbol, run in itertools.groupby(string)]
    return int(
        not any(
            one == "1" and zero == "0" and ones % 2 and zeros % 2
            for (one, ones), (zero, zeros) in itertools.pairwise(runs)
        )
    )


def dyck(depth):
    def accepts(string):
        heights = list(itertools.accumulate(1 if symbol == "0" else -1 for symbol in string))
        return int(min(heights) >= 0 and max(heights) <= depth and heights[-1] == 0)

    return accepts


def prefix(num_read, num_symbols):
    def value(string):
        if len(string) < num_read:
            return num_symbols**num_read
        return int(string[:num_read], num_symbols)

    return value


DEFINITIONS = {
    "parity_check": lambda string: string.count("1") % 2,
    "even_pairs": lambda string: sum(a != b for a, b in itertools.pairwise(string)) % 2,
    "cycle_navigation": lambda string: (string.count("2") - string.count("0")) % 5,
    "tomita_3": tomita_3,
    "tomita_4": lambda string: int("000" not in string),
    "tomita_5": lambda string: int(string.count("0") % 2 == string.count("1") % 2 == 0),
    "tomita_6": lambda string: int((string.count("1") - string.count("0")) % 3 == 0),
    "tomita_7": lambda string: int(re.fullmatch("0*1*0*1*", string) is not None),
    **{f"d_{depth}": dyck(depth) for depth in (2, 3, 4, 6, 8, 12)},
    **{
        f"prefix_{num_read}_{num_symbols}": prefix(num_read, num_symbols)
        for num_read in (1, 2, 4)
        for num_symbols in (2, 4)
    },
}
# strings of all lengths up to this one, by the size of the alphabet
LONGEST = {2: 11, 3: 7, 4: 6}


def all_strings(num_symbols, length):
    return np.array(list(itertools.product(range(num_symbols), repeat=length)), dtype=np.uint8)


def as_text(tokens):
    return "".join(map(str, tokens.tolist()))


def test_every_task_is_checked():
    assert set(task_names()) == set(DEFINITIONS)


@pytest.mark.parametrize("name", task_names())
def test_all_short_strings_have_the_label_of_the_definition(name):
    task = find_task(name)
    for length in range(1, LONGEST[task.num_symbols] + 1):
        strings = all_strings(task.num_symbols, length)
        labels = task.automaton.label(strings, np.full(len(strings), length))
        wanted = [DEFINITIONS[name](as_text(tokens)) for tokens in strings]
        assert labels.tolist() == wanted, length
        # and how many there are of each class
        counts = np.bincount(labels, minlength=task.num_classes)
        assert task.automaton.count_strings(length) == counts.tolist()
        assert task.automaton.classes_at(length) == tuple(np.flatnonzero(counts).tolist())


@pytest.mark.parametrize("name", task_names())
def test_worked_examples(name):
    task = find_task(name)
    assert len(task.examples) == 2
    for string, label in task.examples:
        assert DEFINITIONS[name](string) == label
    assert task.automaton.num_classes == len(task.classes)
    assert find_task(name) is task


def doc_examples():
    for name, build in inspect.getmembers(languages, inspect.isfunction):
        for string, label in re.findall(r"(\d+) -> (\d+)", build.__doc__):
            yield pytest.param(name, string, int(label), id=f"{name}-{string}")


@pytest.mark.parametrize(("name", "string", "label"), list(doc_examples()))
def test_examples_in_docstrings_are_true(name, string, label):
    named = {"bounded_dyck": "d_2", "prefix": "prefix_2_4"}
    assert DEFINITIONS[named.get(name, name)](string) == label


def test_symbols_beyond_the_length_are_ignored():
    automaton = find_task("parity_check").automaton
    tokens = np.array([[1, 1, 1], [1, 1, 1]], dtype=np.uint8)
    assert automaton.label(tokens, np.array([2, 3])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "recurring"),
    [("parity_check", (0, 1)), ("tomita_7", (0, 1)), ("prefix_2_2", (0, 1, 2, 3))],
)
def test_recurring_classes(name, recurring):
    assert find_task(name).automaton.recurring_classes == recurring


def test_members_of_a_family_that_nobody_published():
    assert find_task("d_5").automaton.num_states == 7
    assert find_task("prefix_3_3").num_classes == 28


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "parity_chek",
            "no task is called 'parity_chek'. Did you mean 'parity_check'? "
            "`ldru-study tasks list` prints all.",
        ),
        ("wibble", "no task is called 'wibble'. `ldru-study tasks list` prints all."),
        ("d_65", "'d_65': n of d_n must be in 2..64, found 65."),
        ("d_1", "'d_1': n of d_n must be in 2..64, found 1."),
        (
            "d_02",
            "no task is called 'd_02'. Did you mean 'd_2'? `ldru-study tasks list` prints all.",
        ),
        (
            "prefix_9_9",
            "'prefix_9_9': prefix_p_q wants p in 1..10, q in 2..10 and q^p at most 1024, "
            "found p = 9, q = 9.",
        ),
    ],
)
def test_unknown_tasks_are_explained(name, message):
    with pytest.raises(UnknownNameError) as caught:
        find_task(name)
    assert str(caught.value) == message
