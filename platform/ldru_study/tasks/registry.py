"""The tasks by name: single languages, and families such as ``d_n`` whose names carry numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ldru_study.errors import UnknownNameError, did_you_mean
from ldru_study.tasks import languages
from ldru_study.tasks.automaton import Automaton

Example = tuple[str, int]
_REJECTED_ACCEPTED = ("rejected", "accepted")


@dataclass(frozen=True, eq=False)
class Task:
    """One question that can be asked of every string.

    Args:
        name: as in a study file.
        summary: the question in one line.
        symbols: one character per symbol of the alphabet, [V].
        classes: what each label means, [C].
        examples: strings with their labels.
        automaton: the definition.
    """

    name: str
    summary: str
    symbols: tuple[str, ...]
    classes: tuple[str, ...]
    examples: tuple[Example, ...]
    automaton: Automaton

    @property
    def num_symbols(self) -> int:
        """V."""
        return len(self.symbols)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)


def _task(
    name: str,
    automaton: Automaton,
    summary: str,
    examples: tuple[Example, ...],
    classes: tuple[str, ...] = _REJECTED_ACCEPTED,
) -> Task:
    symbols = tuple(str(symbol) for symbol in range(automaton.num_symbols))
    return Task(name, summary, symbols, classes, examples, automaton)


def _tomita(number: int) -> Callable[[str], Task]:
    automaton, summary, examples = {
        3: (
            languages.tomita_3,
            "no odd run of 0s right after an odd run of 1s",
            (("1100", 1), ("110111000", 0)),
        ),
        4: (languages.tomita_4, "no three 0s in a row", (("00100", 1), ("10001", 0))),
        5: (
            languages.tomita_5,
            "an even number of 0s and an even number of 1s",
            (("0110", 1), ("011", 0)),
        ),
        6: (
            languages.tomita_6,
            "number of 1s minus number of 0s is a multiple of 3",
            (("111", 1), ("110", 0)),
        ),
        7: (languages.tomita_7, "0*1*0*1*", (("001101", 1), ("1010", 0))),
    }[number]
    return lambda name: _task(name, automaton(), summary, examples)


def _parity_check(name: str) -> Task:
    summary = "number of 1s modulo 2"
    return _task(name, languages.parity_check(), summary, (("1101", 1), ("11", 0)), ("even", "odd"))


def _even_pairs(name: str) -> Task:
    summary = "number of unequal neighbours modulo 2"
    return _task(name, languages.even_pairs(), summary, (("01", 1), ("010", 0)), ("even", "odd"))


def _cycle_navigation(name: str) -> Task:
    summary = "place on a circle of 5 after steps: 0 left, 1 stay, 2 right"
    classes = tuple(f"place {place}" for place in range(5))
    return _task(name, languages.cycle_navigation(), summary, (("2212", 3), ("0", 4)), classes)


_SINGLE: dict[str, Callable[[str], Task]] = {
    "parity_check": _parity_check,
    "even_pairs": _even_pairs,
    "cycle_navigation": _cycle_navigation,
    **{f"tomita_{number}": _tomita(number) for number in range(3, 8)},
}
_MOST_DEPTH = 64
_MOST_PREFIXES = 1024


def _bounded_dyck(name: str, depth: int) -> Task:
    if not 2 <= depth <= _MOST_DEPTH:
        raise UnknownNameError(f"'{name}': n of d_n must be in 2..{_MOST_DEPTH}, found {depth}.")
    summary = f"0 opens, 1 closes: balanced and never deeper than {depth}"
    examples = (("0" * depth + "1" * depth, 1), ("0" * (depth + 1) + "1" * (depth + 1), 0))
    return _task(name, languages.bounded_dyck(depth), summary, examples)


def _prefix(name: str, num_read: int, num_symbols: int) -> Task:
    # python would build the whole number before comparing: bound the exponent first
    if not (1 <= num_read <= 10 and 2 <= num_symbols <= 10) or (
        num_symbols**num_read > _MOST_PREFIXES
    ):
        raise UnknownNameError(
            f"'{name}': prefix_p_q wants p in 1..10, q in 2..10 and q^p at most "
            f"{_MOST_PREFIXES}, found p = {num_read}, q = {num_symbols}."
        )
    automaton = languages.prefix(num_read, num_symbols)
    shorter = num_symbols**num_read
    classes = (*(f"number {value}" for value in range(shorter)), f"shorter than {num_read}")
    first, last = "0" * (num_read - 1) + "1", str(num_symbols - 1) * num_read
    examples = ((f"{first}0", 1), (last, shorter - 1))
    summary = f"the first {num_read} symbols as a number in base {num_symbols}"
    return _task(name, automaton, summary, examples, classes)


_FAMILIES: dict[str, Callable[..., Task]] = {
    r"d_([1-9]\d{0,3})": _bounded_dyck,
    r"prefix_([1-9]\d{0,3})_([1-9]\d{0,3})": _prefix,
}
_PUBLISHED = (
    *_SINGLE,
    *(f"d_{depth}" for depth in (2, 3, 4, 6, 8, 12)),
    *(f"prefix_{num_read}_{num_symbols}" for num_read in (1, 2, 4) for num_symbols in (2, 4)),
)


def task_names() -> tuple[str, ...]:
    """Return the names of all single tasks and of the published members of the families."""
    return _PUBLISHED


@lru_cache(maxsize=256)
def find_task(name: str) -> Task:
    """Return the task of this name; every call returns the same object.

    Raises:
        UnknownNameError: there is none, or its numbers are out of range.
    """
    if name in _SINGLE:
        return _SINGLE[name](name)
    for pattern, build in _FAMILIES.items():
        if match := re.fullmatch(pattern, name):
            return build(name, *map(int, match.groups()))
    guess = did_you_mean(name, task_names())
    parts = (f"no task is called '{name}'.", guess, "`ldru-study tasks list` prints all.")
    raise UnknownNameError(" ".join(part for part in parts if part))
