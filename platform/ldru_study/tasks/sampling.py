"""Strings with a wanted label, exactly uniform: paths counted backward, then walked forward.

Under plain uniform strings most regular languages are decided by chance alone at long lengths; a
label drawn first and a uniform string with that label keeps every length a fair question.
Shapes: B batch, T tokens, V vocabulary, C classes, S states.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ldru_study.tasks.automaton import Automaton, Ints, Symbols

Floats = npt.NDArray[np.float64]

# longest period looked for in the normalised counts
_LONGEST_PERIOD = 6


class BalancedSampler:
    """Draws labels evenly among the classes of a length, then a uniform string with that label.

    Usable ("covered") lengths are those at which every recurring class exists: with fewer labels
    a length would ask an easier question than its neighbours.
    """

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        self._walk = _Walk(automaton)

    def covers(self, length: int) -> bool:
        """Whether every recurring class has strings of ``length``."""
        present = self.automaton.classes_at(length)
        return length >= 1 and set(self.automaton.recurring_classes) <= set(present)

    def covered_lengths(self, low: int, high: int) -> Ints:
        """Return the covered lengths in low..high, int64, ascending."""
        return np.array([n for n in range(low, high + 1) if self.covers(n)], dtype=np.int64)

    def nearest_covered(self, length: int) -> int:
        """Return the covered length nearest to ``length``, the shorter of two.

        Raises:
            ValueError: the classes never exist together.
        """
        for distance in range(length + self.automaton.num_class_patterns):
            for found in (length - distance, length + distance):
                if found >= 1 and self.covers(found):
                    return found
        raise ValueError("no length has strings of every class")

    def chance(self, length: int) -> float:
        """Return the accuracy of the best constant answer at ``length``; 0 without strings."""
        return float(self.label_shares(length).max())

    def label_shares(self, length: int) -> Floats:
        """Return how probable each label is at ``length``, float64 [C]."""
        present = self.automaton.classes_at(length)
        shares = np.zeros(self.automaton.num_classes)
        shares[list(present)] = 1 / max(1, len(present))
        return shares

    def sample(self, lengths: Ints, rng: np.random.Generator) -> tuple[Symbols, Ints]:
        """Draw one string of each length, and its label.

        Args:
            lengths: int64 [B], each >= 1; lengths that are not covered are allowed and have the
                labels that exist there.
            rng: drawn from B * (T + 1) times.

        Returns:
            tokens uint8 [B, T], zero beyond a string's length, where T is the longest length; and
            labels int64 [B].
        """
        labels = self._labels(lengths, rng)
        return self._walk(labels, lengths, rng), labels

    def with_labels(self, labels: Ints, lengths: Ints, rng: np.random.Generator) -> Symbols:
        """Draw a uniform string of each length with each label, int64 [B], which must exist."""
        return self._walk(labels, lengths, rng)

    def _labels(self, lengths: Ints, rng: np.random.Generator) -> Ints:
        distinct, where = np.unique(lengths, return_inverse=True)
        present = [self.automaton.classes_at(int(length)) for length in distinct]
        counts = np.array([len(classes) for classes in present])
        table = np.zeros((len(present), counts.max(initial=1)), dtype=np.int64)
        for row, classes in enumerate(present):
            table[row, : len(classes)] = classes
        choice = (rng.random(len(lengths)) * counts[where]).astype(np.int64)
        labels: Ints = table[where, choice]
        return labels


class _Walk:
    """Uniform strings with given labels, by walks whose steps are weighted by what can follow.

    From state s with k symbols to go after the next one, symbol a leads to as many strings of
    class c as there are paths of k steps from the state after a to class c. These counts are kept
    as cumulative shares, [k, C, S, V - 1]. They are normalised per k and class, so no length is
    too long; and since a row is a function of the one before, rows are computed only until they
    repeat exactly.
    """

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        classes = np.arange(automaton.num_classes)
        self._paths = [(automaton.outputs[:, None] == classes).astype(np.float64)]
        self._cuts: list[Floats] = []
        self._flat: Floats = np.empty((0, automaton.num_symbols - 1))
        self._period: int | None = None

    def __call__(self, labels: Ints, lengths: Ints, rng: np.random.Generator) -> Symbols:
        longest = int(lengths.max(initial=0))
        self._extend(longest)
        shape = self.automaton
        row_size = shape.num_classes * shape.num_states
        base = labels * shape.num_states
        state = np.zeros(len(lengths), dtype=np.int64)
        tokens = np.zeros((longest, len(lengths)), dtype=np.uint8)
        is_ragged = bool(lengths.min(initial=longest) < longest)
        draws = rng.random((longest, len(lengths)))
        for place in range(longest):
            to_go = lengths - 1 - place
            # beyond its end a string may walk on anywhere; what it writes there is wiped below
            row = self._rows(np.maximum(to_go, 0) if is_ragged else to_go)
            cuts = self._flat[row * row_size + base + state]
            symbol = (draws[place][:, None] >= cuts).sum(axis=1)
            state = shape.transitions[state, symbol]
            tokens[place] = symbol
        if is_ragged:
            tokens[np.arange(longest)[:, None] >= lengths] = 0
        return np.ascontiguousarray(tokens.T)

    def _rows(self, to_go: Ints) -> Ints:
        if self._period is None:
            return to_go
        held = len(self._cuts)
        return np.where(to_go < held, to_go, held - self._period + (to_go - held) % self._period)

    def _extend(self, length: int) -> None:
        """Compute the rows for 0..length-1 symbols to go."""
        known = len(self._cuts)
        while len(self._cuts) < length and self._period is None:
            self._add_row()
        if len(self._cuts) > known:
            shape = self.automaton
            num_rows = len(self._cuts) * shape.num_classes * shape.num_states
            self._flat = np.stack(self._cuts).reshape(num_rows, shape.num_symbols - 1)

    def _add_row(self) -> None:
        # [S, V, C]: paths of k steps from the state after each symbol
        after = self._paths[-1][self.automaton.transitions]
        sums = np.cumsum(after, axis=1)
        total = sums[:, -1:, :]
        # where a class cannot be reached any more, no walk for that class ever comes
        shares = np.divide(sums, total, out=np.ones_like(sums), where=total > 0)
        self._cuts.append(np.ascontiguousarray(shares[:, :-1, :].transpose(2, 0, 1)))
        largest = total[:, 0].max(axis=0)
        paths = total[:, 0] / np.where(largest > 0, largest, 1.0)
        before = reversed(self._paths)
        periods = (n for n, row in enumerate(before, start=1) if np.array_equal(paths, row))
        self._period = next(periods, None)
        # only as many as a period can reach back to
        self._paths = [*self._paths[1 - _LONGEST_PERIOD :], paths]
