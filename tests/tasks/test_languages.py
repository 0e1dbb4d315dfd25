"""Every language against its definition in other words, on all short strings."""

from __future__ import annotations

import inspect
import itertools
import re

import numpy as np
import pytest

from ldru_study.errors import UnknownNameError
from ldru_study.tasks import arithmetic, groups, languages
from ldru_study.tasks.automaton import Automaton
from ldru_study.tasks.registry import FAMILIES, find_task, task_names
from ldru_study.tasks.task import Family, Task


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


def from_left_to_right(string):
    if not re.fullmatch(r"[0-4]([-+*][0-4])*", string):
        return -1
    first, *steps = re.findall(r"[-+*]?[0-4]", string)
    # Python has precedence: brackets around all that came before take it away
    expression = first
    for step in steps:
        expression = f"({expression}){step}"
    return eval(expression) % 5


def with_precedence(string):
    return eval(string) % 5 if re.fullmatch(r"[0-4]([-+*][0-4])*", string) else -1


def product(name, *moves):
    """Follow every thing through the moves, which say only what they move."""

    def value(string):
        task = find_task(name)
        places = []
        for thing in range(len(task.classes[0].split())):
            for symbol in string:
                thing = ({}, *moves)[int(symbol)].get(thing, thing)
            places.append(str(thing))
        return task.classes.index(" ".join(places))

    return value


def rotation(*things):
    return dict(zip(things, (*things[1:], things[0]), strict=True))


def listops(string):
    """Replace innermost lists by their values until a digit is left."""
    reckon = {
        "MIN": min,
        "MAX": max,
        "MED": lambda values: int(np.median(values)),
        "SM": lambda values: sum(values) % 10,
    }
    while found := re.search(r"\[(MIN|MAX|MED|SM)((?: \d)+) \]", string):
        values = list(map(int, found[2].split()))
        string = string.replace(found[0], str(reckon[found[1]](values)), 1)
    return int(string) if re.fullmatch(r"\d", string) else -1


DEFINITIONS = {
    "parity_check": lambda string: string.count("1") % 2,
    "even_pairs": lambda string: sum(a != b for a, b in itertools.pairwise(string)) % 2,
    "cycle_navigation": lambda string: (string.count("2") - string.count("0")) % 5,
    "tomita_1": lambda string: int("0" not in string),
    "tomita_2": lambda string: int(string == "10" * (len(string) // 2)),
    "tomita_3": tomita_3,
    "tomita_4": lambda string: int("000" not in string),
    "tomita_5": lambda string: int(string.count("0") % 2 == string.count("1") % 2 == 0),
    "tomita_6": lambda string: int((string.count("1") - string.count("0")) % 3 == 0),
    "tomita_7": lambda string: int(re.fullmatch("0*1*0*1*", string) is not None),
    **{f"d_{depth}": dyck(depth) for depth in (1, 2, 3, 4, 6, 8, 12)},
    **{
        f"prefix_{num_read}_{num_symbols}": prefix(num_read, num_symbols)
        for num_read in (1, 2, 4)
        for num_symbols in (2, 4)
    },
    "modular_arithmetic": from_left_to_right,
    "modular_arithmetic_precedence": with_precedence,
    **{
        f"group_s{degree}": product(f"group_s{degree}", {0: 1, 1: 0}, rotation(*range(degree)))
        for degree in (3, 4, 5)
    },
    "group_a4": product("group_a4", rotation(0, 1, 2), rotation(1, 2, 3)),
    "group_a5": product("group_a5", rotation(0, 1, 2), rotation(0, 1, 2, 3, 4)),
    "group_z_7": lambda string: string.count("1") % 7,
    **{f"listops_{args}_{depth}": listops for args in (3, 5) for depth in (9, 14)},
}
# the others bring their own
DEFINITIONS |= {
    name: task.definition
    for name, task in ((name, find_task(name)) for name in task_names())
    if task.definition is not None
}
REGULAR = [name for name in task_names() if find_task(name).is_regular]


def longest(num_symbols):
    """The length up to which all strings are tried."""
    return max(length for length in range(1, 12) if num_symbols**length < 7000)


def all_strings(num_symbols, length):
    return np.array(list(itertools.product(range(num_symbols), repeat=length)), dtype=np.uint8)


def labels_of(task, strings):
    return task.language.label(strings, np.full(len(strings), strings.shape[1]))


def test_every_task_is_checked():
    assert set(task_names()) == set(DEFINITIONS), "give the Task a definition"


@pytest.mark.parametrize("name", [name for name in task_names() if name != "listops_5_14"])
def test_all_short_strings_have_the_label_of_the_definition(name):
    task = find_task(name)
    for length in range(1, longest(task.num_symbols) + 1):
        strings = all_strings(task.num_symbols, length)
        labels = labels_of(task, strings)
        wanted = [DEFINITIONS[name](task.decode(tokens)) for tokens in strings]
        assert labels.tolist() == wanted, length
        if task.is_regular:
            # and how many there are of each class
            counts = np.bincount(labels[labels >= 0], minlength=task.num_classes)
            assert task.automaton.count_strings(length) == counts.tolist()
            assert task.automaton.classes_at(length) == tuple(np.flatnonzero(counts).tolist())


@pytest.mark.parametrize("name", ["modular_arithmetic", "modular_arithmetic_precedence"])
def test_long_expressions(name):
    task, rng = find_task(name), np.random.default_rng(0)
    strings = rng.integers(5, size=(200, 15), dtype=np.uint8)
    strings[:, 1::2] = rng.integers(5, 8, size=(200, 7))
    wanted = [DEFINITIONS[name](task.decode(tokens)) for tokens in strings]
    assert labels_of(task, strings).tolist() == wanted


def test_lists_in_lists():
    task = find_task("listops_3_9")
    for string, label in [
        ("[MED 3 9 [SM 9 9 9 ] 4 ]", 5),
        ("[MAX [MIN 4 7 ] [MIN [MED 1 8 2 ] 6 ] ]", 4),
        ("[SM [SM 1 2 ] [SM 3 [MAX 4 5 ] ] 9 ]", 0),
        # as a number of arguments that the generator never makes
        ("[MED 1 2 3 4 5 6 7 8 ]", 4),
        ("[SM ]", -1),
        ("[SM 1 ] ]", -1),
        ("[SM [SM 1 ]", -1),
        ("3 4", -1),
        ("] 3 [SM", -1),
    ]:
        tokens = task.encode(string)
        assert task.language.label(tokens[None], np.array([len(tokens)])).tolist() == [label]
        assert listops(string) == label


@pytest.mark.parametrize("name", task_names())
def test_worked_examples(name):
    task = find_task(name)
    assert len(task.examples) == 2
    for string, label in task.examples:
        assert DEFINITIONS[name](string) == label
        assert labels_of(task, task.encode(string)[None]).tolist() == [label]
        assert task.decode(task.encode(string)) == string
    assert len(set(task.symbols)) == task.num_symbols
    assert len(set(task.classes)) == task.num_classes
    if task.is_regular:
        assert task.automaton.num_classes == task.num_classes
        assert task.automaton.num_symbols == task.num_symbols
    assert task.name == task.label == name
    # what decides the strings: a task whose strings have changed has a version there
    assert task.identity in (name, f"{name}/3")
    assert find_task(name) is task


def test_every_listed_name_belongs_to_one_family():
    for name in task_names():
        assert sum(bool(re.fullmatch(family.pattern, name)) for family in FAMILIES) == 1, name


BUILT = {
    "bounded_dyck": "d_2",
    "prefix": "prefix_2_4",
    "word_problem": "group_s3",
}


def doc_examples():
    for module in (languages, arithmetic, groups):
        for name, build in inspect.getmembers(module, inspect.isfunction):
            if build.__module__ != module.__name__:
                continue
            for string, label in re.findall(r"([-+*\d]+) -> (\d+)", build.__doc__ or ""):
                yield pytest.param(name, string, int(label), id=f"{name}-{string}")


@pytest.mark.parametrize(("name", "string", "label"), list(doc_examples()))
def test_examples_in_docstrings_are_true(name, string, label):
    if name == "dyck_of_depth":
        assert languages.dyck_of_depth(2).label(
            np.array([list(map(int, string))], dtype=np.uint8), np.array([len(string)])
        ).tolist() == [label]
    else:
        assert DEFINITIONS[BUILT.get(name, name)](string) == label


def test_docstrings_have_examples():
    seen = {example.values[0] for example in doc_examples()}
    assert seen >= {name for name in DEFINITIONS if hasattr(languages, name)}
    assert seen >= {*BUILT, "dyck_of_depth", "modular_arithmetic", "modular_arithmetic_precedence"}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_brackets_of_one_depth_are_those_of_two_bounds(depth):
    exactly = languages.dyck_of_depth(depth + 1)
    for length in range(1, 11):
        strings = all_strings(2, length)
        lengths = np.full(len(strings), length)
        outer, inner = (
            languages.bounded_dyck(n).label(strings, lengths) for n in (depth + 1, depth)
        )
        assert (exactly.label(strings, lengths) == outer - inner).all()


@pytest.mark.parametrize(
    "name", [name for name in task_names() if find_task(name).near_misses is not None]
)
def test_near_misses_are_rejected(name):
    task, num_near = find_task(name), 0
    for length in range(1, 13):
        strings = all_strings(2, length)
        near = task.near_misses.label(strings, np.full(len(strings), length)) == 1
        assert not labels_of(task, strings[near]).any()
        num_near += near.sum()
    assert num_near or int(name.removeprefix("d_")) > 5


def test_a_family_is_all_that_a_task_needs(monkeypatch):
    def last_symbol(name, number):
        size = int(number)
        automaton = Automaton.explore(
            0, lambda _, symbol: symbol, lambda last: last, num_symbols=size, num_classes=size
        )
        return Task(
            name=name,
            summary="the last symbol",
            language=automaton,
            symbols=tuple(map(str, range(size))),
            classes=tuple(f"symbol {last}" for last in range(size)),
            examples=(("01", 1), ("10", 0)),
        )

    family = Family("last_([2-9])", last_symbol, ("last_2",))
    monkeypatch.setattr("ldru_study.tasks.registry.FAMILIES", (*FAMILIES, family))
    assert task_names()[-1] == "last_2"
    task = find_task("last_3")
    assert labels_of(task, np.array([[0, 1, 2]], dtype=np.uint8)).tolist() == [2]
    find_task.cache_clear()


def test_symbols_beyond_the_length_are_ignored():
    automaton = find_task("parity_check").automaton
    tokens = np.array([[1, 1, 1], [1, 1, 1]], dtype=np.uint8)
    assert automaton.label(tokens, np.array([2, 3])).tolist() == [0, 1]
    lists = find_task("listops_3_9").language
    tokens = np.array([[7, 14, 14], [10, 3, 14]], dtype=np.uint8)
    assert lists.label(tokens, np.array([1, 3])).tolist() == [7, 3]


@pytest.mark.parametrize(
    ("name", "recurring"),
    [
        ("parity_check", (0, 1)),
        ("tomita_7", (0, 1)),
        ("prefix_2_2", (0, 1, 2, 3)),
        ("modular_arithmetic", (0, 1, 2, 3, 4)),
        ("group_a4", tuple(range(12))),
    ],
)
def test_recurring_classes(name, recurring):
    assert find_task(name).automaton.recurring_classes == recurring


def test_members_of_a_family_that_nobody_published():
    assert find_task("d_5").automaton.num_states == 7
    assert find_task("prefix_3_3").num_classes == 28
    assert find_task("group_z_30").num_classes == 30
    assert find_task("group_s2").num_classes == 2
    assert find_task("group_a3").num_classes == 3
    assert find_task("listops_10_4").language.max_args == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "parity_chek",
            "no task is called 'parity_chek'. Did you mean 'parity_check'? "
            "`ldru-study tasks list` prints all.",
        ),
        ("wibble", "no task is called 'wibble'. `ldru-study tasks list` prints all."),
        ("d_65", "'d_65': n of d_n must be in 1..64, found 65."),
        (
            "d_02",
            "no task is called 'd_02'. Did you mean 'd_2'? `ldru-study tasks list` prints all.",
        ),
        (
            "prefix_9_9",
            "'prefix_9_9': prefix_p_q wants p in 1..10, q in 2..10 and q^p at most 1024, "
            "found p = 9, q = 9.",
        ),
        (
            "group_a6",
            "'group_a6': n of group_an, the alternating group on n things, must be in 3..5, "
            "found 6.",
        ),
        ("group_z_1", "'group_z_1': n of group_z_n must be in 2..32, found 1."),
        (
            "listops_3_99",
            "'listops_3_99': max depth of listops_ARGS_DEPTH must be in 2..20, found 99.",
        ),
    ],
)
def test_unknown_tasks_are_explained(name, message):
    with pytest.raises(UnknownNameError) as caught:
        find_task(name)
    assert str(caught.value) == message
