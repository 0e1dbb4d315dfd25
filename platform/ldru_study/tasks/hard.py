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
from ldru_study.tasks.products import ProductLabels
from ldru_study.tasks.sampling import BalancedSampler
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
        self._source = self if near is None else BalancedSampler(_told_apart(task.automaton, near))

    def sample(self, lengths: Ints, rng: np.random.Generator) -> tuple[Symbols, Ints]:
        """Draw one string of each length, and its label; see `BalancedSampler.sample`."""
        labels = self._labels(lengths, rng)
        tokens = self._with_labels(labels, lengths, rng)
        return tokens, self._labelled.label(tokens, lengths)

    def _with_labels(self, labels: Ints, lengths: Ints, rng: np.random.Generator) -> Symbols:
        # what each string is, or is to be mistaken for
        others = self._others(labels, lengths, rng)
        (misses,) = np.nonzero(others != labels)
        if not self._accepts:
            tokens = self.with_labels(others, lengths, rng)
            _put(tokens, misses, self._late(tokens[misses], labels[misses], lengths[misses], rng))
            return tokens
        kinds = (rng.random(len(misses)) * (2 + self._near_exists(lengths[misses]))).astype(int)
        others[misses[kinds == 2]] = _NEAR
        tokens = self._source.with_labels(others, lengths, rng)
        # where nothing is accepted there is nothing to miss: any rejected string, near or not
        (alone,) = np.nonzero(others == _REJECTED)
        if len(alone) and self._source is not self:
            _put(tokens, alone, self.with_labels(others[alone], lengths[alone], rng))
        left = self._edit(tokens, misses[kinds == 0], lengths, rng)
        late = np.concatenate([misses[kinds == 1], left])
        _put(tokens, late, self._late(tokens[late], labels[late], lengths[late], rng))
        return tokens

    def _others(self, labels: Ints, lengths: Ints, rng: np.random.Generator) -> Ints:
        """Return a label for each string to be mistaken for, its own if it is not to be."""
        draws = rng.random(len(labels))
        others = labels.copy()
        for length in np.unique(lengths):
            (here,) = np.nonzero(lengths == length)
            present = np.array(self.automaton.classes_at(int(length)))
            if len(present) == 1:
                continue
            # any but its own: so many places further on in the ring of classes
            shift = 1 + (draws[here] * (len(present) - 1)).astype(np.int64)
            place = np.searchsorted(present, labels[here])
            others[here] = present[(place + shift) % len(present)]
        return np.where(labels == _ACCEPTED, labels, others) if self._accepts else others

    def _near_exists(self, lengths: Ints) -> Ints:
        """Return 1 for each length at which there are near misses, else 0."""
        if self._source is self:
            return np.zeros_like(lengths)
        distinct, where = np.unique(lengths, return_inverse=True)
        classes = [self._source.automaton.classes_at(int(length)) for length in distinct]
        return np.array([int(_NEAR in one) for one in classes], dtype=np.int64)[where]

    def _late(
        self, strings: Symbols, labels: Ints, lengths: Ints, rng: np.random.Generator
    ) -> Symbols:
        places = (rng.random(len(lengths)) * lengths).astype(np.int64)
        return self._reach.turn(strings, places, labels, lengths, rng)

    def _edit(self, tokens: Symbols, rows: Ints, lengths: Ints, rng: np.random.Generator) -> Ints:
        """Replace symbols of accepted strings until they are rejected; return the rows that stay.

        ``tokens`` is changed in the other rows of ``rows``.
        """
        num_symbols = self.automaton.num_symbols
        for _ in range(_MOST_ROUNDS):
            if not len(rows):
                break
            several = np.repeat(rows, _TRIES_PER_ROUND)
            tried = tokens[several]
            edits = rng.integers(1, _MOST_EDITS + 1, size=len(several))
            for number in range(_MOST_EDITS):
                (here,) = np.nonzero(number < edits)
                place = (rng.random(len(here)) * lengths[several[here]]).astype(np.int64)
                step = rng.integers(1, num_symbols, size=len(here))
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
