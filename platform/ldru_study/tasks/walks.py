"""Walks that know only what is still possible, not how many strings it leads to.

Shapes: B batch, T tokens, V vocabulary, C classes, S states.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ldru_study.tasks.automaton import Automaton, Ints, Symbols
from ldru_study.tasks.sampling import Floats
from ldru_study.tasks.streams import Streams
from ldru_study.tasks.together import num_walking, wipe

Truths = npt.NDArray[np.bool_]


class Reach:
    """From which state which class can still come, after exactly so many symbols.

    A row is a function of the one before, so rows are computed until one comes again.
    """

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton
        row = automaton.outputs[:, None] == np.arange(automaton.num_classes)
        seen: dict[bytes, int] = {}
        rows: list[Truths] = []
        while (key := row.tobytes()) not in seen:
            seen[key] = len(rows)
            rows.append(row)
            row = row[automaton.transitions].any(axis=1)
        self._first = seen[key]
        self._period = len(rows) - self._first
        # [K, C, S, V]: whether the class can come, K symbols after the next one
        possible = np.stack([one[automaton.transitions].transpose(2, 0, 1) for one in rows])
        # the numbers of those symbols, first the possible ones, and how many these are
        order = np.argsort(~possible, axis=-1, kind="stable").astype(np.uint8)
        self._possible, self._symbols = possible.reshape(-1), order.reshape(-1)
        self._num_possible = possible.sum(axis=-1).reshape(-1).astype(np.float64)
        self._leads = np.ascontiguousarray(automaton.transitions).reshape(-1)

    def shares(self, label: int, to_go: int) -> Floats:
        """Return how `walk` draws the next symbol, ``to_go`` symbols before the end, [S, V].

        All zero in states from which the label cannot come.
        """
        place = self._row(to_go) * self.automaton.num_classes + label
        shape = self.automaton.transitions.shape
        possible = self._possible.reshape(-1, *shape)[place]
        found: Floats = possible / np.maximum(possible.sum(axis=1, keepdims=True), 1)
        return found

    def walk(self, labels: Ints, lengths: Ints, streams: Streams, owners: Ints) -> Symbols:
        """Draw strings with these labels symbol by symbol, each evenly among what is possible.

        Unlike uniform strings with a label these look, before their end, as if no label had been
        wanted.

        Args:
            labels: int64 [B]; each exists at its length.
            lengths: int64 [B].
            streams: drawn from B * T times.
            owners: which of them is each string's, int64 [B], ascending.

        Returns:
            uint8 [B, T], zero beyond a string's length.
        """
        return self._walk(None, lengths, labels, lengths, streams.grid(lengths, owners))

    def turn(
        self,
        strings: Symbols,
        places: Ints,
        labels: Ints,
        lengths: Ints,
        streams: Streams,
        owners: Ints,
    ) -> Symbols:
        """Follow ``strings`` up to ``places``, or as far as the label can still come, then `walk`.

        Args:
            strings: uint8 [B, T].
            places: how many symbols of each string are kept at most, int64 [B].
            labels: where the strings are to end, int64 [B]; each exists at its length.
            lengths: int64 [B].
            streams: drawn from B * T times.
            owners: which of them is each string's, int64 [B], ascending.

        Returns:
            uint8 [B, T], zero beyond a string's length.
        """
        return self._walk(strings, places, labels, lengths, streams.grid(lengths, owners))

    def _walk(
        self, strings: Symbols | None, places: Ints, labels: Ints, lengths: Ints, draws: Floats
    ) -> Symbols:
        longest = int(lengths.max(initial=0))
        is_ragged = bool(lengths.min(initial=longest) < longest)
        num_symbols, num_states = self.automaton.num_symbols, self.automaton.num_states
        base = labels * num_states
        # by the number of symbols to go
        starts = self._rows(np.arange(longest)) * (self.automaton.num_classes * num_states)
        tokens = np.zeros((longest, len(lengths)), dtype=np.uint8)
        state = np.zeros(len(lengths), dtype=np.int64)
        followed = None if strings is None else np.ascontiguousarray(strings.T)
        follows = np.ones(len(lengths), dtype=np.bool_)
        for place, walking in enumerate(num_walking(lengths)):
            state = state[:walking]
            # of where each string is, the first of its V symbols
            here = base[:walking] + state
            # beyond its end a string may walk on anywhere; what it writes there is wiped below
            to_go = lengths[:walking] - (place + 1)
            here += starts.take(to_go, mode="clip") if is_ragged else starts[longest - 1 - place]
            choice = (draws[place, :walking] * self._num_possible.take(here)).astype(np.int64)
            here *= num_symbols
            choice += here
            symbol = self._symbols.take(choice)
            if followed is not None:
                kept = followed[place, :walking]
                # who turned does not turn back
                follows = follows[:walking] & (places[:walking] > place)
                here += kept
                follows &= self._possible.take(here)
                symbol = np.where(follows, kept, symbol)
            tokens[place, :walking] = symbol
            state = state * num_symbols
            state += symbol
            state = self._leads.take(state)
        if is_ragged:
            wipe(tokens, lengths)
        return np.ascontiguousarray(tokens.T)

    def _row(self, to_go: int) -> int:
        return int(self._rows(np.array([to_go]))[0])

    def _rows(self, to_go: Ints) -> Ints:
        far = self._first + (to_go - self._first) % self._period
        return np.where(to_go < self._first, to_go, far)
