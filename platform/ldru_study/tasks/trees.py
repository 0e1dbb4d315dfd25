"""Strings of ListOps of exactly the wanted length: trees drawn from the top down.

A tree below the deepest level is, with probability 1/4, an operator with 2..max_args children,
each number and each operator alike, and else a digit. Given its length such a tree is drawn
exactly: how probable each length of a child is, given what its siblings can make of the rest, is
known from convolutions.
Shapes: B batch, T tokens, N nodes that are expanded at once.

Source: Nangia and Bowman 2018 (arXiv 1804.06028), section 2, whose strings are not cut by length.
"""

from __future__ import annotations

import numpy as np

from ldru_study.tasks.automaton import Ints, Symbols
from ldru_study.tasks.listops import CLOSE, NUM_DIGITS, NUM_OPERATORS, OPENS, ListOps
from ldru_study.tasks.pieces import DrawnWhole
from ldru_study.tasks.sampling import Floats
from ldru_study.tasks.streams import random_stream

LONGEST = 4096
_OPERATOR_SHARE = 0.25
# up to this length all splits of all lengths are kept
_LONGEST_TABLE = 256
# numbers that the splits of longer ones may hold at once
_PART = 2**21
# of each length drawn at once for labels that are still waiting
_FEWEST_TREES = 16
# above how many strings with one length and label there can be
_MOST_ALIKE = 2**32
# strings that estimate how often each label comes, and the most tokens that they may have
_ESTIMATE, _ESTIMATE_TOKENS = 2**14, 2**22


class _Lengths:
    """How probable each length of a tree is, level by level.

    Weights of length n are multiplied by tilt^n, which leaves every distribution given the length
    as it is, and the weights of long trees within the range of floats.
    """

    def __init__(self, language: ListOps, longest: int) -> None:
        self.language = language
        self.longest = longest
        self._tables: dict[tuple[int, int], Floats] = {}
        tilt = _tilt(language.max_args)
        leaf = np.zeros(longest + 1)
        leaf[1] = tilt
        # [level][number of children] -> weights of their lengths together
        self.together: list[dict[int, Floats]] = []
        tree = leaf
        for _ in range(language.max_depth - 1):
            sums = {1: tree}
            for number in range(2, language.max_args + 1):
                sums[number] = np.convolve(sums[number - 1], tree)[: longest + 1]
            self.together.append(sums)
            inner = np.sum([sums[number] for number in range(2, language.max_args + 1)], axis=0)
            tree = (1 - _OPERATOR_SHARE) * leaf
            tree[2:] += tilt**2 * _OPERATOR_SHARE / (language.max_args - 1) * inner[:-2]
        self.together.reverse()
        self.whole = tree

    def children(
        self, level: int, row: Ints, place: Ints, size: Ints, rng: np.random.Generator
    ) -> tuple[Ints, Ints, Ints]:
        """Split ``size`` tokens from ``place`` on among the children of each node, [N].

        Args:
            level: of the nodes, 0 for the whole tree.
            row: the string that each node is in.
            place: where its first child begins.
            size: tokens of all its children.
            rng: drawn from once for the number of children and once for each but the last.

        Returns:
            row, place and size of every child.
        """
        sums = self.together[level]
        weights = np.cumsum([sums[number][size] for number in sums if number > 1], axis=0)
        left = 2 + (weights[:-1] <= rng.random(len(size)) * weights[-1]).sum(axis=0)
        found = []
        while len(row):
            is_last = left == 1
            found.append((row[is_last], place[is_last], size[is_last]))
            row, place, size, left = (one[~is_last] for one in (row, place, size, left))
            draws, first = rng.random(len(size)), np.zeros_like(size)
            for number in range(2, max(sums) + 1):
                (here,) = np.nonzero(left == number)
                first[here] = self._first_sizes(level, number, size[here], draws[here])
            found.append((row, place, first))
            place, size, left = place + first, size - first, left - 1
        rows, places, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return rows, places, sizes

    def _first_sizes(self, level: int, number: int, size: Ints, draws: Floats) -> Ints:
        """Draw how many of ``size`` tokens the first of ``number`` children has."""
        if self.longest <= _LONGEST_TABLE:
            table = self._table(level, number)
            # row n of the table lies between n and n + 1
            found = np.searchsorted(table, size + draws, side="right") - size * (self.longest + 1)
            # a draw just below 1 may be rounded into the next row; each other child has a token
            sizes: Ints = np.minimum(found, size - (number - 1))
            return sizes
        first = np.empty_like(size)
        per_part = max(1, _PART // (int(size.max(initial=0)) + 1))
        for start in range(0, len(size), per_part):
            part = slice(start, start + per_part)
            sums = np.cumsum(self._weights(level, number, size[part]), axis=1)
            first[part] = (sums <= (draws[part] * sums[:, -1])[:, None]).sum(axis=1)
        return first

    def _weights(self, level: int, number: int, size: Ints) -> Floats:
        """Return how probable each size of the first child is, not normalised, [N, sizes]."""
        one, others = self.together[level][1], self.together[level][number - 1]
        sizes = np.arange(int(size.max(initial=0)) + 1)
        rest = size[:, None] - sizes
        weights: Floats = np.where(rest >= 0, one[sizes] * others[np.maximum(rest, 0)], 0.0)
        return weights

    def _table(self, level: int, number: int) -> Floats:
        """Return the cumulative shares of the first child's sizes, a row per size of all."""
        if (level, number) not in self._tables:
            totals = np.arange(self.longest + 1)
            sums = np.cumsum(self._weights(level, number, totals), axis=1)
            # sizes that cannot be split are never asked for
            shares = sums / np.where(sums[:, -1:] > 0, sums[:, -1:], 1.0)
            self._tables[level, number] = (totals[:, None] + shares).reshape(-1)
        return self._tables[level, number]


def _tilt(max_args: int) -> float:
    """Return the factor per token at which trees without bound would be just critical."""
    children = np.arange(2, max_args + 1)

    def tilt_at(total: float) -> float:
        slope = _OPERATOR_SHARE * (children * total ** (children - 1)).mean()
        return float(slope**-0.5)

    low, high = 1e-3, 1e3
    for _ in range(200):
        total = (low * high) ** 0.5
        tilt = tilt_at(total)
        grown = (1 - _OPERATOR_SHARE) * tilt
        grown += tilt**2 * _OPERATOR_SHARE * float((total**children).mean())
        low, high = (total, high) if total < grown else (low, total)
    return tilt_at(low)


class TreeSampler(DrawnWhole):
    """Draws trees of given lengths; with ``is_balanced`` each label as often as the others.

    A balanced label is drawn first; then trees are drawn until there are enough with it.
    """

    def __init__(self, language: ListOps, *, is_balanced: bool) -> None:
        self.language = language
        self.is_balanced = is_balanced
        self._known: dict[int, _Lengths] = {}
        self._shares: dict[int, Floats] = {}

    def covers(self, length: int) -> bool:
        """Whether there are trees of ``length``, at most `LONGEST`; then every label exists."""
        return 1 <= length <= LONGEST and bool(self._lengths(length).whole[length] > 0)

    def covered_lengths(self, low: int, high: int) -> Ints:
        """Return the covered lengths in low..high, int64, ascending."""
        return np.array([n for n in range(low, high + 1) if self.covers(n)], dtype=np.int64)

    def nearest_covered(self, length: int) -> int:
        """Return the covered length nearest to ``length``, the shorter of two.

        Raises:
            ValueError: strings so long are not drawn.
        """
        if length > LONGEST:
            raise ValueError(
                f"strings of ListOps have at most {LONGEST} tokens, found {length}. "
                "Ask for shorter ones"
            )
        found = range(length, 0, -1), range(length + 1, LONGEST + 1)
        near = [next((n for n in one if self.covers(n)), None) for one in found]
        return min((n for n in near if n is not None), key=lambda n: (abs(n - length), n))

    def chance(self, length: int) -> float:
        """Return the accuracy of the best constant answer; estimated unless balanced."""
        return float(self.label_shares(length).max())

    def label_shares(self, length: int) -> Floats:
        """Return how probable each label is, float64 [C]; estimated unless balanced."""
        if self.is_balanced:
            return np.full(NUM_DIGITS, 1 / NUM_DIGITS)
        if length not in self._shares:
            num_strings = max(64, min(_ESTIMATE, _ESTIMATE_TOKENS // length))
            rng = random_stream(0, "shares/listops", length)
            lengths = np.full(num_strings, length)
            labels = self.language.label(self._trees(lengths, rng), lengths)
            self._shares[length] = np.bincount(labels, minlength=NUM_DIGITS) / num_strings
        return self._shares[length]

    def sample(self, lengths: Ints, rng: np.random.Generator) -> tuple[Symbols, Ints]:
        """Draw one string of each length, and its label.

        Args:
            lengths: int64 [B], each covered.
            rng: drawn from as often as it takes.

        Returns:
            tokens uint8 [B, T], zero beyond a string's length, where T is the longest length; and
            labels int64 [B].
        """
        if not self.is_balanced:
            tokens = self._trees(lengths, rng)
            return tokens, self.language.label(tokens, lengths)
        labels = rng.integers(NUM_DIGITS, size=len(lengths))
        tokens = np.zeros((len(lengths), int(lengths.max(initial=0))), dtype=np.uint8)
        waiting = np.arange(len(lengths))
        while len(waiting):
            # of the rarest label comes every twentieth tree or so: a few of each length at least
            sizes, counts = np.unique(lengths[waiting], return_counts=True)
            drawn = np.repeat(sizes, np.maximum(_FEWEST_TREES, 2 * counts))
            trees = self._trees(drawn, rng)
            wanted = _numbered(lengths[waiting] * NUM_DIGITS + labels[waiting])
            found = _numbered(drawn * NUM_DIGITS + self.language.label(trees, drawn))
            _, taken, given = np.intersect1d(wanted, found, return_indices=True)
            tokens[waiting[taken], : trees.shape[1]] = trees[given]
            waiting = np.delete(waiting, taken)
        return tokens, labels

    def _lengths(self, longest: int) -> _Lengths:
        # by powers of two, so that what was asked before does not change a last bit
        size = min(LONGEST, 1 << max(6, longest.bit_length()))
        if size not in self._known:
            self._known[size] = _Lengths(self.language, size)
        return self._known[size]

    def _trees(self, lengths: Ints, rng: np.random.Generator) -> Symbols:
        """Draw a tree of each length, level by level, every node of a level at once."""
        longest = int(lengths.max(initial=0))
        known = self._lengths(longest)
        tokens = np.zeros((len(lengths), longest), dtype=np.uint8)
        row, place, size = np.arange(len(lengths)), np.zeros_like(lengths), lengths
        for level in range(self.language.max_depth):
            is_digit = size == 1
            digits = rng.integers(NUM_DIGITS, size=int(is_digit.sum()), dtype=np.uint8)
            tokens[row[is_digit], place[is_digit]] = digits
            row, place, size = row[~is_digit], place[~is_digit], size[~is_digit]
            if not len(row):
                break
            operators = rng.integers(NUM_OPERATORS, size=len(row), dtype=np.uint8)
            tokens[row, place] = OPENS + operators
            tokens[row, place + size - 1] = CLOSE
            row, place, size = known.children(level, row, place + 1, size - 2, rng)
        return tokens


def _numbered(keys: Ints) -> Ints:
    """Make equal keys different: each carries how many came before it, the same for any keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.searchsorted(ordered, ordered)
    found = np.empty_like(keys)
    found[order] = ordered * _MOST_ALIKE + np.arange(len(keys)) - starts
    return found
