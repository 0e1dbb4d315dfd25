"""What a task is, and a family of tasks whose names follow one pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ldru_study.tasks.automaton import Automaton, Ints, Symbols

Example = tuple[str, int]
# how the paper draws strings: uniformly; half of them accepted, the rest uniform; half accepted
# and half rejected, each by a random walk
PaperLaw = Literal["uniform", "half_accepted", "half_walks"]
REJECTED_ACCEPTED = ("rejected", "accepted")


class Language(Protocol):
    """Whatever gives every string its label; nearly always an `Automaton`."""

    def label(self, tokens: Symbols, lengths: Ints) -> Ints:
        """Return the class of every string; see `Automaton.label`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """One question that can be asked of every string.

    Args:
        name: what finds it again: as in a study file, or the text form of a user's own task.
        summary: the question in one line.
        language: the definition.
        symbols: one text per symbol of the alphabet, [V]; a single character each, or a string
            is written with spaces between its symbols.
        classes: what each label means, [C].
        examples: strings with their labels.
        paper: how the paper samples it.
        near_misses: an automaton over the same symbols whose class 1 are rejected strings that
            are all but accepted; hard sampling draws from them.
        meaning: what its symbols stand for, in one line, where that needs saying.
        label: short text that tells it from other tasks in tables; the name if empty.
        identity: what enters trial ids and random streams: equal for equal languages, and another
            one when their strings are drawn otherwise than before; the name if empty.
        definition: the label of a string in other words than the language's, -1 where it has
            none; tests hold the two against each other on all short strings.
    """

    name: str
    summary: str
    language: Language
    symbols: tuple[str, ...]
    classes: tuple[str, ...] = REJECTED_ACCEPTED
    examples: tuple[Example, ...]
    paper: PaperLaw = "uniform"
    near_misses: Automaton | None = None
    meaning: str = ""
    label: str = ""
    identity: str = ""
    definition: Callable[[str], int] | None = None

    def __post_init__(self) -> None:
        # a task that says nothing else is its name
        object.__setattr__(self, "label", self.label or self.name)
        object.__setattr__(self, "identity", self.identity or self.name)

    @property
    def num_symbols(self) -> int:
        """V."""
        return len(self.symbols)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    @property
    def is_regular(self) -> bool:
        """Whether the task is an automaton, so that counts and windows are exact."""
        return isinstance(self.language, Automaton)

    @property
    def automaton(self) -> Automaton:
        """The definition of a regular task.

        Raises:
            TypeError: the task is not regular.
        """
        if not isinstance(self.language, Automaton):
            raise TypeError(f"{self.name} is no automaton")
        return self.language

    def encode(self, text: str) -> Symbols:
        """Return the symbols of a string, uint8 [T].

        Raises:
            ValueError: a part of the text is none of the task's symbols.
        """
        parts = list(text) if self._is_compact else text.split()
        number = {symbol: place for place, symbol in enumerate(self.symbols)}
        if unknown := [part for part in parts if part not in number]:
            raise ValueError(f"'{unknown[0]}' is no symbol of {self.label}")
        return np.array([number[part] for part in parts], dtype=np.uint8)

    def decode(self, tokens: Sequence[int] | Symbols) -> str:
        """Return a string as text."""
        gap = "" if self._is_compact else " "
        return gap.join(self.symbols[int(token)] for token in tokens)

    @property
    def _is_compact(self) -> bool:
        return all(len(symbol) == 1 for symbol in self.symbols)


@dataclass(frozen=True)
class Family:
    """Tasks whose names follow one pattern; a single task is a family of one.

    Args:
        pattern: regular expression that the whole name matches.
        build: makes the task, from its name and the groups of the pattern.
        members: the names that are listed.
    """

    pattern: str
    build: Callable[..., Task]
    members: tuple[str, ...] = ()


def digits(num_symbols: int) -> tuple[str, ...]:
    """Return the symbols ``0``, ``1``, ... of an alphabet."""
    return tuple(str(symbol) for symbol in range(num_symbols))
