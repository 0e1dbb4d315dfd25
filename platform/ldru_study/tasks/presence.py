"""Which classes there are at each length, as arrays: asked for many strings at once.

Shapes: B batch, C classes, D different sets of classes.
"""

from __future__ import annotations

import numpy as np

from ldru_study.tasks.automaton import Automaton, Ints


class Presence:
    """The classes that exist at the lengths of an automaton's strings; see `classes_at`."""

    def __init__(self, automaton: Automaton) -> None:
        sets = [automaton.classes_at(length) for length in range(automaton.num_class_patterns)]
        number = {classes: place for place, classes in enumerate(dict.fromkeys(sets))}
        # which set each length has, until they repeat
        self._which = np.array([number[classes] for classes in sets])
        self._first = automaton.first_class_pattern
        counts = np.array([len(classes) for classes in number])
        self._counts = counts
        # [D, C]: the classes in order, and the place of each class in that order
        self._classes = np.zeros((len(counts), automaton.num_classes), dtype=np.int64)
        self._places = np.zeros_like(self._classes)
        for row, classes in enumerate(number):
            self._classes[row, : len(classes)] = classes
            self._places[row, list(classes)] = np.arange(len(classes))
        self._has = np.array(
            [[label in classes for label in range(automaton.num_classes)] for classes in number]
        )

    def num_classes(self, lengths: Ints) -> Ints:
        """Return how many classes there are, int64 [B]."""
        return self._counts[self._sets(lengths)]

    def has(self, label: int, lengths: Ints) -> Ints:
        """Return 1 where there are strings with ``label``, else 0, int64 [B]."""
        found: Ints = self._has[self._sets(lengths), label].astype(np.int64)
        return found

    def place_of(self, labels: Ints, lengths: Ints) -> Ints:
        """Return the place of each label among those of its length, int64 [B]."""
        return self._places[self._sets(lengths), labels]

    def class_at(self, places: Ints, lengths: Ints) -> Ints:
        """Return the label at each place among those of its length, int64 [B]."""
        return self._classes[self._sets(lengths), places]

    def _sets(self, lengths: Ints) -> Ints:
        num = len(self._which)
        return self._which[
            np.where(
                lengths < num, lengths, self._first + (lengths - self._first) % (num - self._first)
            )
        ]
