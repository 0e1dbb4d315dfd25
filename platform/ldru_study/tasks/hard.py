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

from ldru_study.tasks.automaton import Ints, Symbols
from ldru_study.tasks.products import ProductLabels
from ldru_study.tasks.sampling import BalancedSampler
from ldru_study.tasks.task import Task
from ldru_study.tasks.walks import Reach

_MOST_EDITS = 3
# replacing symbols of a string that stays accepted is tried so often, then it turns late instead
_TRIES_PER_ROUND, _MOST_ROUNDS = 4, 4
_REJECTED, _ACCEPTED = 0, 1


class HardSampler(BalancedSampler):
    """Draws labels evenly, then strings that are easily mistaken for another label's."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.automaton)
        self._reach = Reach(task.automaton)
        self._labelled = ProductLabels(task.automaton)
        self._accepts = task.num_classes == 2
        near = task.near_misses
        self._near = None if near is None else BalancedSampler(near)

    def sample(self, lengths: Ints, rng: np.random.Generator) -> tuple[Symbols, Ints]:
        """Draw one string of each length, and its label; see `BalancedSampler.sample`."""
        labels = self._labels(lengths, rng)
        tokens = self._with_labels(labels, lengths, rng)
        return tokens, self._labelled.label(tokens, lengths)

    def _with_labels(self, labels: Ints, lengths: Ints, rng: np.random.Generator) -> Symbols:
        others = self._others(labels, lengths, rng)
        # what each string is, or is to be mistaken for
        tokens = self.with_labels(others, lengths, rng)
        (misses,) = np.nonzero(others != labels)
        if not self._accepts:
            _put(tokens, misses, self._late(tokens[misses], labels[misses], lengths[misses], rng))
            return tokens
        num_kinds = 2 + self._near_exists(lengths[misses])
        kinds = (rng.random(len(misses)) * num_kinds).astype(np.int64)
        if self._near is not None:
            near = misses[kinds == 2]
            accepted = np.full(len(near), _ACCEPTED)
            _put(tokens, near, self._near.with_labels(accepted, lengths[near], rng))
        edited = misses[kinds == 0]
        left = self._edit(tokens, edited, lengths, rng)
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
        """Return 1 for each length at which there are strings of ``near_misses``, else 0."""
        if self._near is None:
            return np.zeros_like(lengths)
        distinct, where = np.unique(lengths, return_inverse=True)
        classes = [self._near.automaton.classes_at(int(length)) for length in distinct]
        return np.array([int(_ACCEPTED in one) for one in classes], dtype=np.int64)[where]

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


def _put(tokens: Symbols, rows: Ints, strings: Symbols) -> None:
    tokens[rows, : strings.shape[1]] = strings
