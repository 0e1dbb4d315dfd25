"""The sampling of the published comparison, which decides what its accuracies mean.

Delétang tasks, prefixes and whatever the paper did not have: uniform strings. D_n: half accepted,
half uniform strings relabelled, which a short window tells apart; where no string is accepted, as
at odd lengths, all are uniform. Tomita: half accepted and half rejected, by random walks that may
end there.

Source: arXiv 2605.26035, section 4 and the code released with its earlier version.
"""

from __future__ import annotations

import numpy as np

from ldru_study.tasks.automaton import Ints, Symbols
from ldru_study.tasks.counts import LogCounts
from ldru_study.tasks.pieces import DrawnWhole
from ldru_study.tasks.products import ProductLabels
from ldru_study.tasks.sampling import BalancedSampler, Floats
from ldru_study.tasks.streams import Streams
from ldru_study.tasks.task import Task
from ldru_study.tasks.walks import Reach


class PaperSampler(BalancedSampler):
    """Uniform strings, half of which may be accepted ones by decree.

    Strings with equal labels are equally likely, as under balanced sampling; what differs is how
    often each label comes, and that every length is used at which there is a string at all.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task.automaton)
        self._accepted = 0.5 if task.paper == "half_accepted" else 0.0
        self._counts = LogCounts(task.automaton)
        self._cuts: dict[int, Floats] = {}

    def covers(self, length: int) -> bool:
        """Whether there are strings of ``length``."""
        return length >= 1 and bool(self.automaton.classes_at(length))

    def chance(self, length: int) -> float:
        """Return the accuracy of the best constant answer at ``length``."""
        return float(self.label_shares(length).max())

    def label_shares(self, length: int) -> Floats:
        """Return how probable each label is at ``length``, float64 [C]."""
        logs = self._counts.by_class(length)
        shares = np.exp(logs - np.logaddexp.reduce(logs))
        if self._accepted and 1 in self.automaton.classes_at(length):
            shares *= 1 - self._accepted
            shares[1] += self._accepted
        found: Floats = shares / shares.sum()
        return found

    def _labels(self, lengths: Ints, streams: Streams, owners: Ints) -> Ints:
        draws, labels = streams.random(owners), np.empty_like(lengths)
        for length in np.unique(lengths).tolist():
            (here,) = np.nonzero(lengths == length)
            labels[here] = np.searchsorted(self._cuts_at(length), draws[here], side="right")
        return labels

    def _cuts_at(self, length: int) -> Floats:
        """Return the cumulative shares of all labels but the last, float64 [C - 1]."""
        if length not in self._cuts:
            self._cuts[length] = np.cumsum(self.label_shares(length))[:-1]
        return self._cuts[length]


class WalkSampler(DrawnWhole, BalancedSampler):
    """Labels evenly among those that exist, then a random walk that may end with the label."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.automaton)
        self.reach = Reach(task.automaton)
        self._labelled = ProductLabels(task.automaton)

    def covers(self, length: int) -> bool:
        """Whether there are strings of ``length``."""
        return length >= 1 and bool(self.automaton.classes_at(length))

    def _draw(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        labels = self._labels(lengths, streams, owners)
        tokens = self.reach.walk(labels, lengths, streams, owners)
        return tokens, self._labelled.label(tokens, lengths)
