"""Strings with a wanted label, exactly uniform: paths counted backward, then walked forward.

Under plain uniform strings most regular languages are decided by chance alone at long lengths; a
label drawn first and a uniform string with that label keeps every length a fair question.
Shapes: B batch, T tokens, V vocabulary, C classes, S states.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ldru_study.tasks.automaton import Automaton, Ints, Symbols
from ldru_study.tasks.presence import Presence
from ldru_study.tasks.streams import Streams
from ldru_study.tasks.together import DrawnTogether, num_walking, wipe

Floats = npt.NDArray[np.float64]

# longest period looked for in the normalised counts
_LONGEST_PERIOD = 6
# rows that are kept when strings come in pieces; counts that do not repeat by then, as those that
# grow like a power of the length, are computed again from every so many-th row
_MOST_ROWS, _BETWEEN_SAVED = 2**16, 2**12
# a few strings walk faster when every state's next one is looked up beforehand: numpy's calls cost
# as much as so many entries, and so many are looked up at once
_ENTRIES_PER_CALL, _MOST_ENTRIES = 300, 2**21


class BalancedSampler(DrawnTogether):
    """Draws labels evenly among the classes of a length, then a uniform string with that label.

    Usable ("covered") lengths are those at which every recurring class exists: with fewer labels
    a length would ask an easier question than its neighbours.
    """

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        self._walk = _Walk(automaton)
        self._presence = Presence(automaton)

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

    def _draw(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        # lengths that are not covered are allowed and have the labels that exist there
        labels = self._labels(lengths, streams, owners)
        return self._walk(labels, lengths, streams, owners), labels

    def with_labels(self, labels: Ints, lengths: Ints, streams: Streams, owners: Ints) -> Symbols:
        """Draw a uniform string of each length with each label, int64 [B], which must exist."""
        return self._walk(labels, lengths, streams, owners)

    def stream(
        self, length: int, num_strings: int, rng: np.random.Generator, size: int
    ) -> tuple[Ints, Iterator[Symbols]]:
        """Draw what `sample` draws for strings of one length, piece by piece.

        Args:
            length: T.
            num_strings: B.
            rng: as in `sample`; nobody else may draw from it before the last piece.
            size: tokens of a piece, >= 1.

        Returns:
            labels int64 [B], and pieces uint8 [B, size], the last one what is left; bit for bit
            what `sample` returns. What is held does not grow with T, but for one row of counts in
            4 096 where these never repeat.
        """
        lengths, owners = np.full(num_strings, length), np.zeros(num_strings, dtype=np.int64)
        labels = self._labels(lengths, Streams([rng]), owners)
        return labels, self._walk.pieces(labels, length, rng, size)

    def _labels(self, lengths: Ints, streams: Streams, owners: Ints) -> Ints:
        places = streams.random(owners) * self._presence.num_classes(lengths)
        return self._presence.class_at(places.astype(np.int64), lengths)


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
        self._leads = np.ascontiguousarray(automaton.transitions).reshape(-1)
        self._paths = [self._last_paths()]
        self._cuts: list[Floats] = []
        self._flat: Floats = np.empty((0, automaton.num_symbols - 1))
        self._period: int | None = None
        # beyond the rows that are kept
        self._saved: list[Floats] = []

    def __call__(self, labels: Ints, lengths: Ints, streams: Streams, owners: Ints) -> Symbols:
        longest = int(lengths.max(initial=0))
        self._extend(longest)
        shape = self.automaton
        base, flat = labels * shape.num_states, self._flat.reshape(-1)
        # by the number of symbols to go
        starts = self._rows(np.arange(longest)) * (shape.num_classes * shape.num_states)
        is_ragged = bool(lengths.min(initial=longest) < longest)
        draws = streams.grid(lengths, owners)
        state = np.zeros(len(lengths), dtype=np.int64)
        tokens = np.zeros((longest, len(lengths)), dtype=np.uint8)
        for place, walking in enumerate(num_walking(lengths)):
            here = base[:walking] + state[:walking]
            # beyond its end a string may walk on anywhere; what it writes there is wiped below
            to_go = lengths[:walking] - (place + 1)
            here += starts.take(to_go, mode="clip") if is_ragged else starts[longest - 1 - place]
            symbol = self._symbols(draws[place, :walking], flat, here)
            state = self._after(state[:walking], symbol)
            tokens[place, :walking] = symbol
        if is_ragged:
            wipe(tokens, lengths)
        return np.ascontiguousarray(tokens.T)

    def _symbols(self, draws: Floats, flat: Floats, here: Ints) -> Symbols:
        """Return the symbols that ``draws``, [B], mean by their rows ``here`` of shares, [B].

        Args:
            draws: in [0, 1).
            flat: cumulative shares, [rows * (V - 1)].
            here: int64; changed.
        """
        num_cuts = self.automaton.num_symbols - 1
        here *= num_cuts
        symbol = np.zeros(len(here), dtype=np.uint8)
        for _ in range(num_cuts):
            symbol += draws >= flat.take(here)
            here += 1
        return symbol

    def _after(self, state: Ints, symbol: Symbols) -> Ints:
        place = state * self.automaton.num_symbols
        place += symbol
        return self._leads.take(place)

    def pieces(
        self, labels: Ints, length: int, rng: np.random.Generator, size: int
    ) -> Iterator[Symbols]:
        """Yield what a call would return, [B, at most ``size``] at a time."""
        state = np.zeros(len(labels), dtype=np.int64)
        shape, step = self.automaton, size
        walk = self._walk_many
        if len(labels) * (4 + shape.num_states) < _ENTRIES_PER_CALL:
            walk = self._walk_few
            step = max(1, _MOST_ENTRIES // (shape.num_states * shape.num_symbols))
        for first in range(0, length, size):
            piece = np.empty((min(size, length - first), len(labels)), dtype=np.uint8)
            for begin in range(0, len(piece), step):
                part = piece[begin : begin + step]
                to_go = length - first - begin
                flat, rows = self._table(to_go - len(part), to_go)
                draws = rng.random(part.shape)
                part[:], state = walk(draws, flat, rows[::-1], labels, state)
            yield np.ascontiguousarray(piece.T)

    def _walk_many(
        self, draws: Floats, flat: Floats, rows: Ints, labels: Ints, state: Ints
    ) -> tuple[Symbols, Ints]:
        """Walk place by place, all strings at once.

        Args:
            draws: [T, B].
            flat: cumulative shares, [rows * C * S, V - 1].
            rows: which of them holds at each place, [T].
            labels: [B].
            state: before the first place, [B].

        Returns:
            tokens, [T, B], and the states after the last place.
        """
        shape = self.automaton
        base, row_size = labels * shape.num_states, shape.num_classes * shape.num_states
        tokens, shares = np.empty(draws.shape, dtype=np.uint8), flat.reshape(-1)
        for place, row in enumerate((rows * row_size).tolist()):
            tokens[place] = self._symbols(draws[place], shares, row + base + state)
            state = self._after(state, tokens[place])
        return tokens, state

    def _walk_few(
        self, draws: Floats, flat: Floats, rows: Ints, labels: Ints, state: Ints
    ) -> tuple[Symbols, Ints]:
        """Walk string by string, through a table of what each state would do; as `_walk_many`."""
        shape = self.automaton
        states = np.arange(shape.num_states)
        by_row = flat.reshape(-1, shape.num_classes, shape.num_states, shape.num_symbols - 1)
        tokens = np.zeros(draws.shape, dtype=np.uint8)
        after = state.copy()
        for number, label in enumerate(labels.tolist()):
            cuts = by_row[rows, label]
            symbols = (draws[:, number, None, None] >= cuts).sum(axis=2)
            now, visited = int(state[number]), []
            for nexts in shape.transitions[states, symbols].tolist():
                visited.append(now)
                now = nexts[now]
            tokens[:, number] = symbols[np.arange(len(visited)), visited]
            after[number] = now
        return tokens, after

    def _table(self, first: int, last: int) -> tuple[Floats, Ints]:
        """Return shares, and which of their rows are those of ``first`` up to ``last`` to go."""
        self._extend(min(last, _MOST_ROWS))
        if self._period is not None or last <= len(self._cuts):
            return self._flat, self._rows(np.arange(first, last))
        step = _BETWEEN_SAVED
        begin, num_parts = first // step, -(-last // step) - first // step
        self._save(begin + num_parts)
        # all parts side by side, row by row
        paths = np.stack(self._saved[begin : begin + num_parts])
        shape = self.automaton
        size = shape.num_classes, shape.num_states, shape.num_symbols - 1
        cuts = np.empty((num_parts, step, *size))
        for row in range(step):
            shares, paths = self._step(paths)
            cuts[:, row] = shares
        return cuts.reshape(-1, size[-1]), np.arange(first, last) - begin * step

    def _last_paths(self) -> Floats:
        """Return the paths of no step, float64 [S, C]; a state may have no class."""
        classes = np.arange(self.automaton.num_classes)
        paths: Floats = (self.automaton.outputs[:, None] == classes).astype(np.float64)
        return paths

    def _save(self, num_parts: int) -> None:
        """Keep the paths that every part of ``_BETWEEN_SAVED`` rows begins with."""
        if not self._saved:
            self._saved = [self._last_paths()]
        while len(self._saved) < num_parts:
            paths = self._saved[-1]
            for _ in range(_BETWEEN_SAVED):
                paths = self._normalised(self._sums(paths)[..., -1, :])
            self._saved.append(paths)

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
        shares, paths = self._step(self._paths[-1])
        self._cuts.append(np.ascontiguousarray(shares))
        before = reversed(self._paths)
        periods = (n for n, row in enumerate(before, start=1) if np.array_equal(paths, row))
        self._period = next(periods, None)
        # only as many as a period can reach back to
        self._paths = [*self._paths[1 - _LONGEST_PERIOD :], paths]

    def _step(self, paths: Floats) -> tuple[Floats, Floats]:
        """Return the cumulative shares [..., C, S, V - 1] above paths [..., S, C], and the next."""
        sums = self._sums(paths)
        total = sums[..., -1:, :]
        # where a class cannot be reached any more, no walk for that class ever comes
        shares = np.divide(sums, total, out=np.ones_like(sums), where=total > 0)
        return np.moveaxis(shares[..., :-1, :], -1, -3), self._normalised(total[..., 0, :])

    def _sums(self, paths: Floats) -> Floats:
        """Return the paths from the state after each symbol or one before it, [..., S, V, C]."""
        after = np.take(paths, self.automaton.transitions, axis=-2)
        sums: Floats = np.cumsum(after, axis=-2)
        return sums

    def _normalised(self, total: Floats) -> Floats:
        largest = total.max(axis=-2, keepdims=True)
        paths: Floats = total / np.where(largest > 0, largest, 1.0)
        return paths
