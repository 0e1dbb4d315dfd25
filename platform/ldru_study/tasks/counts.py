"""How many strings there are, as logarithms: at any length, whatever a float could hold.

Shapes: V vocabulary, C classes, S states.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ldru_study.tasks.automaton import Automaton
from ldru_study.tasks.sampling import Floats

# class counts are kept for all lengths up to this one, and beyond it for those asked
_KEPT = 4096


class LogCounts:
    """Natural logarithms of the number of strings, -inf for none."""

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        # the ways into each state, those into the same state together
        source, symbol = np.indices(automaton.transitions.shape).reshape(2, -1)
        order = np.argsort(automaton.transitions[source, symbol], kind="stable")
        self._sources = source[order]
        self._targets, self._first = np.unique(
            automaton.transitions[source, symbol][order], return_index=True
        )
        self._by_class: dict[int, Floats] = {}
        self._last = -1
        self._row = self._start()

    def by_class(self, length: int) -> Floats:
        """Return the logarithm of the number of strings with each class, float64 [C]."""
        if length not in self._by_class:
            if length < self._last:
                self._last, self._row = -1, self._start()
            while self._last < length:
                self._row = self._row if self._last < 0 else self._step(self._row)
                self._last += 1
                if self._last <= _KEPT or self._last == length:
                    self._by_class[self._last] = self._of_classes(self._row)
        return self._by_class[length]

    def by_state(self, lengths: Iterable[int]) -> dict[int, Floats]:
        """Return, for each length, the logarithm of the number of strings to each state, [S]."""
        wanted, row, found = set(lengths), self._start(), {}
        for length in range(max(wanted, default=-1) + 1):
            row = self._step(row) if length else row
            if length in wanted:
                found[length] = row
        return found

    def to_classes(self, lengths: Iterable[int]) -> dict[int, Floats]:
        """Return, for each length, the logarithm of the number of strings of that length.

        Float64 [S, C]: that lead from the state to the class.
        """
        classes = np.arange(self.automaton.num_classes)
        with np.errstate(divide="ignore"):
            row = np.log((self.automaton.outputs[:, None] == classes).astype(np.float64))
        wanted, found = set(lengths), {}
        for length in range(max(wanted, default=-1) + 1):
            if length:
                row = np.logaddexp.reduce(row[self.automaton.transitions], axis=1)
            if length in wanted:
                found[length] = row
        return found

    def _start(self) -> Floats:
        row = np.full(self.automaton.num_states, -np.inf)
        row[0] = 0.0
        return row

    def _step(self, row: Floats) -> Floats:
        after = np.full(len(row), -np.inf)
        after[self._targets] = np.logaddexp.reduceat(row[self._sources], self._first)
        return after

    def _of_classes(self, row: Floats) -> Floats:
        found = np.full(self.automaton.num_classes, -np.inf)
        for label in range(len(found)):
            found[label] = np.logaddexp.reduce(row[self.automaton.outputs == label])
        return found
