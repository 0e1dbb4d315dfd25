"""Strings whose label hangs on little: near misses, and strings that turn late.

Labels are even, as under balanced sampling. Of a task that accepts or rejects, accepted strings
are uniform; a rejected one is, by a fair draw, one of
  edited: a uniform accepted string with one to three symbols replaced,
  late: a uniform accepted string up to a uniform place, from where it goes on to be rejected,
  near: a string of the task's ``near_misses``, such as brackets nested one too deep.
A task with more classes has no rejected strings: each string begins as a uniform one with another
label and turns to its own late.
"""

from __future__ import annotations

import numpy as np

from ldru_study.tasks.automaton import Automaton, Ints, Symbols
from ldru_study.tasks.pieces import DrawnWhole
from ldru_study.tasks.presence import Presence
from ldru_study.tasks.products import ProductLabels
from ldru_study.tasks.sampling import BalancedSampler, Floats
from ldru_study.tasks.streams import Streams
from ldru_study.tasks.task import Task
from ldru_study.tasks.walks import Reach

_MOST_EDITS = 3
# replacing symbols of a string that stays accepted is tried so often, then it turns late instead
_TRIES_PER_ROUND, _MOST_ROUNDS = 4, 4
_REJECTED, _ACCEPTED, _NEAR = 0, 1, 2


class HardSampler(DrawnWhole, BalancedSampler):
    """Draws labels evenly, then strings that are easily mistaken for another label's."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.automaton)
        self._reach = Reach(task.automaton)
        self._labelled = ProductLabels(task.automaton)
        self._accepts = task.num_classes == 2
        # draws accepted strings and near misses in one walk
        near = task.near_misses
        self._source: BalancedSampler = self
        self._near: Presence | None = None
        if near is not None:
            told_apart = _told_apart(task.automaton, near)
            self._source, self._near = BalancedSampler(told_apart), Presence(told_apart)

    def _draw(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        labels = self._labels(lengths, streams, owners)
        tokens = self._mistakable(labels, lengths, streams, owners)
        return tokens, self._labelled.label(tokens, lengths)

    def _mistakable(self, labels: Ints, lengths: Ints, streams: Streams, owners: Ints) -> Symbols:
        # what each string is, or is to be mistaken for
        others = self._others(labels, lengths, streams.random(owners))
        (misses,) = np.nonzero(others != labels)
        if not self._accepts:
            tokens = self.with_labels(others, lengths, streams, owners)
            self._turn_late(tokens, misses, labels, lengths, streams, owners)
            return tokens
        draws, num_kinds = streams.random(owners[misses]), np.full(len(misses), 2)
        if self._near is not None:
            num_kinds += self._near.has(_NEAR, lengths[misses])
        kinds = (draws * num_kinds).astype(np.int64)
        others[misses[kinds == 2]] = _NEAR
        tokens = self._source.with_labels(others, lengths, streams, owners)
        # where nothing is accepted there is nothing to miss: any rejected string, near or not
        (alone,) = np.nonzero(others == _REJECTED)
        if len(alone) and self._source is not self:
            found = self.with_labels(others[alone], lengths[alone], streams, owners[alone])
            _put(tokens, alone, found)
        left = self._edit(tokens, misses[kinds == 0], lengths, streams, owners)
        late = np.concatenate([misses[kinds == 1], left])
        # each stream's together
        late = late[np.argsort(owners[late], kind="stable")]
        self._turn_late(tokens, late, labels, lengths, streams, owners)
        return tokens

    def _others(self, labels: Ints, lengths: Ints, draws: Floats) -> Ints:
        """Return a label for each string to be mistaken for, its own if it is not to be."""
        counts = self._presence.num_classes(lengths)
        # any but its own: so many places further on in the ring of classes
        shifts = 1 + (draws * (counts - 1)).astype(np.int64)
        places = self._presence.place_of(labels, lengths) + shifts
        # of a single class, itself
        others = self._presence.class_at(places % counts, lengths)
        return np.where(labels == _ACCEPTED, labels, others) if self._accepts else others

    def _turn_late(
        self,
        tokens: Symbols,
        rows: Ints,
        labels: Ints,
        lengths: Ints,
        streams: Streams,
        owners: Ints,
    ) -> None:
        """Let the strings ``rows`` of ``tokens`` turn to their labels at uniform places."""
        labels, lengths, owners = labels[rows], lengths[rows], owners[rows]
        places = (streams.random(owners) * lengths).astype(np.int64)
        found = self._reach.turn(tokens[rows], places, labels, lengths, streams, owners)
        _put(tokens, rows, found)

    def _edit(
        self, tokens: Symbols, rows: Ints, lengths: Ints, streams: Streams, owners: Ints
    ) -> Ints:
        """Replace symbols of accepted strings until they are rejected; return the rows that stay.

        ``tokens`` is changed in the other rows of ``rows``.
        """
        num_symbols = self.automaton.num_symbols
        for _ in range(_MOST_ROUNDS):
            if not len(rows):
                break
            several = np.repeat(rows, _TRIES_PER_ROUND)
            tried = tokens[several]
            edits = streams.integers(1, _MOST_EDITS + 1, owners[several])
            for number in range(_MOST_EDITS):
                (here,) = np.nonzero(number < edits)
                edited = several[here]
                place = (streams.random(owners[edited]) * lengths[edited]).astype(np.int64)
                step = streams.integers(1, num_symbols, owners[edited])
                tried[here, place] = (tried[here, place] + step) % num_symbols
            labels = self._labelled.label(tried, lengths[several]).reshape(-1, _TRIES_PER_ROUND)
            is_rejected = labels == _REJECTED
            first = np.arange(len(rows)) * _TRIES_PER_ROUND + is_rejected.argmax(axis=1)
            is_found = is_rejected.any(axis=1)
            tokens[rows[is_found]] = tried[first[is_found]]
            rows = rows[~is_found]
        return rows


def _told_apart(automaton: Automaton, near: Automaton) -> Automaton:
    """Return an automaton that gives the accepted strings of ``near`` a class of their own."""

    def step(states: tuple[int, int], symbol: int) -> tuple[int, int]:
        state, other = states
        return int(automaton.transitions[state, symbol]), int(near.transitions[other, symbol])

    def output(states: tuple[int, int]) -> int:
        state, other = states
        return _NEAR if near.outputs[other] == _ACCEPTED else int(automaton.outputs[state])

    return Automaton.explore(
        (0, 0), step, output, num_symbols=automaton.num_symbols, num_classes=_NEAR + 1
    )


def _put(tokens: Symbols, rows: Ints, strings: Symbols) -> None:
    tokens[rows, : strings.shape[1]] = strings
