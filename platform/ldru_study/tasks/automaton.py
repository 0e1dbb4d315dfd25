"""The one idea behind every task: a deterministic automaton with one class per state.

Shapes: B batch, T tokens, V vocabulary, C classes, S states.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Symbols = npt.NDArray[np.uint8]
State = TypeVar("State", bound=Hashable)

# of strings that a task does not ask about
NO_CLASS = -1


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton; the label of a string is the class of the state it ends in.

    Args:
        transitions: next state for each state and symbol, int64 [S, V].
        outputs: class of each state, int64 [S]; `NO_CLASS` where a string that ends there is not
            in question, such as an expression that breaks off.
        num_classes: C; classes that no state has are allowed.

    State 0 is the start.
    """

    transitions: Ints
    outputs: Ints
    num_classes: int

    @classmethod
    def explore(
        cls,
        start: State,
        step: Callable[[State, int], State],
        output: Callable[[State], int],
        *,
        num_symbols: int,
        num_classes: int,
    ) -> Automaton:
        """Build an automaton from a transition function, state by state as they are reached.

        Args:
            start: the state before the first symbol.
            step: next state, given a state and a symbol in 0..V-1; finitely many can be reached.
            output: class of a state, in 0..C-1, or `NO_CLASS`.
            num_symbols: V.
            num_classes: C.
        """
        number = {start: 0}
        states = [start]
        rows: list[list[int]] = []
        for state in states:
            row = []
            for symbol in range(num_symbols):
                after = step(state, symbol)
                if after not in number:
                    number[after] = len(states)
                    states.append(after)
                row.append(number[after])
            rows.append(row)
        return cls(np.array(rows), np.array([output(state) for state in states]), num_classes)

    @property
    def num_states(self) -> int:
        """S."""
        return len(self.outputs)

    @property
    def num_symbols(self) -> int:
        """V."""
        return int(self.transitions.shape[1])

    def label(self, tokens: Symbols, lengths: Ints) -> Ints:
        """Return the class of every string.

        Args:
            tokens: uint8 [B, T]; what lies beyond a string's length is ignored.
            lengths: int64 [B], each in 0..T.

        Returns:
            int64 [B]; `NO_CLASS` for a string that the task does not ask about.
        """
        state = np.zeros(len(lengths), dtype=np.int64)
        for place in range(int(lengths.max(initial=0))):
            after = self.transitions[state, tokens[:, place]]
            state = np.where(place < lengths, after, state)
        return self.outputs[state]

    def count_strings(self, length: int) -> list[int]:
        """Return how many strings of ``length`` each class has, exactly, [C]."""
        ways = np.zeros(self.num_states, dtype=object)
        ways[0] = 1
        for _ in range(length):
            after = np.zeros(self.num_states, dtype=object)
            for symbol in range(self.num_symbols):
                np.add.at(after, self.transitions[:, symbol], ways)
            ways = after
        return [int(sum(ways[self.outputs == c])) for c in range(self.num_classes)]

    def classes_at(self, length: int) -> tuple[int, ...]:
        """Return the classes that some string of ``length`` has, ascending."""
        patterns, first = self._class_patterns
        if length >= len(patterns):
            length = first + (length - first) % (len(patterns) - first)
        return patterns[length]

    @cached_property
    def recurring_classes(self) -> tuple[int, ...]:
        """The classes that strings of unbounded lengths have, ascending."""
        patterns, first = self._class_patterns
        return tuple(sorted(set().union(*patterns[first:])))

    @property
    def num_class_patterns(self) -> int:
        """After this many lengths, beginning with 0, the classes that exist repeat."""
        return len(self._class_patterns[0])

    @property
    def first_class_pattern(self) -> int:
        """The length that the classes begin again from, when they repeat."""
        return self._class_patterns[1]

    @cached_property
    def _class_patterns(self) -> tuple[list[tuple[int, ...]], int]:
        """Return the classes at lengths 0, 1, ... until they repeat, and where the cycle begins.

        Which states a length can reach is a function of those that the length before could, so it
        repeats as soon as one set comes twice.
        """
        reached = np.zeros(self.num_states, dtype=bool)
        reached[0] = True
        seen: dict[bytes, int] = {}
        patterns: list[tuple[int, ...]] = []
        while (key := reached.tobytes()) not in seen:
            seen[key] = len(patterns)
            classes = np.unique(self.outputs[reached])
            patterns.append(tuple(classes[classes != NO_CLASS].tolist()))
            after = np.zeros_like(reached)
            after[self.transitions[reached]] = True
            reached = after
        return patterns, seen[key]
