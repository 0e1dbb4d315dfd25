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
from ldru_study.tasks.streams import Streams, random_stream

LONGEST = 4096
_OPERATOR_SHARE = 0.25
# up to this length all splits of all lengths are kept
_LONGEST_TABLE = 256
# numbers that the splits of longer ones may hold at once
_PART = 2**21
# of each length drawn at least for labels that wait
_FEWEST_TREES = 32
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
        self._tables: dict[int, Floats] = {}
        # of a row of shares: a power of two, so that halving finds a draw's place
        self._width = 1 << (longest - 1).bit_length()
        tilt = _tilt(language.max_args)
        leaf = np.zeros(longest + 1)
        leaf[1] = tilt
        # [level][number of children] -> weights of their lengths together
        self.together: list[dict[int, Floats]] = []
        tree = leaf
        for _ in range(language.max_depth - 1):
            sums = {1: tree}
            for number in range(2, language.max_args + 1):
                sums[number] = _convolved(sums[number - 1], tree)
            self.together.append(sums)
            inner = np.sum([sums[number] for number in range(2, language.max_args + 1)], axis=0)
            tree = (1 - _OPERATOR_SHARE) * leaf
            tree[2:] += tilt**2 * _OPERATOR_SHARE / (language.max_args - 1) * inner[:-2]
        self.together.reverse()
        # [level] -> cumulative shares of 2, 3, ... children, all but the last, by size
        self._numbers = [self._number_shares(sums) for sums in self.together]
        self.whole = tree

    @staticmethod
    def _number_shares(sums: dict[int, Floats]) -> Floats:
        """Return the cumulative shares of the numbers of children, [sizes * (numbers - 1)]."""
        weights = np.cumsum([sums[number] for number in sums if number > 1], axis=0)
        shares = weights[:-1] / np.where(weights[-1] > 0, weights[-1], 1.0)
        return np.ascontiguousarray(shares.T).reshape(-1)

    def children(
        self, level: int, place: Ints, size: Ints, number: Floats, draws: Floats, step: int
    ) -> tuple[Ints, Ints]:
        """Split ``size`` tokens from ``place`` on among the children of each node, [N].

        Args:
            level: of the nodes, 0 for the whole tree.
            place: where the first child of each begins, as an index of ``draws``.
            size: tokens of all its children.
            number: in [0, 1), draws the number of children.
            draws: in [0, 1), draw a child's size where it begins.
            step: from a token's place to the next one's in the same string.

        Returns:
            place and size of every child.
        """
        num_cuts = self.language.max_args - 2
        cuts, here = self._numbers[level], size * num_cuts
        left = np.full(len(size), 2)
        for _ in range(num_cuts):
            left += cuts.take(here) <= number
            here += 1
        found = []
        while len(place):
            first = self._first_sizes(level, left, size, draws.take(place))
            found.append((place, first))
            place, size, left = place + step * first, size - first, left - 1
            (last,), (more,) = np.nonzero(left == 1), np.nonzero(left > 1)
            found.append((place.take(last), size.take(last)))
            place, size, left = place.take(more), size.take(more), left.take(more)
        places, sizes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return places, sizes

    def _first_sizes(self, level: int, left: Ints, size: Ints, draws: Floats) -> Ints:
        """Draw how many of ``size`` tokens the first of ``left`` children has."""
        if self.longest <= _LONGEST_TABLE:
            table, row = self._table(level), (left - 2) * (self.longest + 1) + size
            first = row * self._width
            # all searches go on together, each through its own row; a first child is smaller than
            # all together
            half = (1 << int(size.max(initial=1) - 1).bit_length()) // 2
            while half:
                is_beyond = table.take(first + (half - 1)) <= draws
                first += half * is_beyond
                half //= 2
            first -= row * self._width
        else:
            first = np.empty_like(size)
            for number in range(2, self.language.max_args + 1):
                (here,) = np.nonzero(left == number)
                longest = int(size[here].max(initial=0)) + 1
                per_part = max(1, _PART // longest)
                for start in range(0, len(here), per_part):
                    part = here[start : start + per_part]
                    shares = self._shares(level, number, size[part])
                    first[part] = (shares <= draws[part][:, None]).sum(axis=1)
        # each other child has a token, however the shares are rounded
        sizes: Ints = np.minimum(first, size - (left - 1))
        return sizes

    def _shares(self, level: int, number: int, size: Ints) -> Floats:
        """Return the cumulative shares of the sizes of the first child, [N, sizes]."""
        one, others = self.together[level][1], self.together[level][number - 1]
        sizes = np.arange(int(size.max(initial=0)) + 1)
        rest = size[:, None] - sizes
        sums = np.cumsum(np.where(rest >= 0, one[sizes] * others[np.maximum(rest, 0)], 0.0), axis=1)
        # sizes that cannot be split are never asked for
        shares: Floats = sums / np.where(sums[:, -1:] > 0, sums[:, -1:], 1.0)
        return shares

    def _table(self, level: int) -> Floats:
        """Return the shares of first sizes, a row per number of children and size of all."""
        if level not in self._tables:
            numbers, totals = range(2, self.language.max_args + 1), np.arange(self.longest + 1)
            table = np.ones((len(numbers), len(totals), self._width))
            for row, number in enumerate(numbers):
                table[row, :, : self.longest] = self._shares(level, number, totals)[:, :-1]
            self._tables[level] = table.reshape(-1)
        return self._tables[level]


def _convolved(one: Floats, other: Floats) -> Floats:
    """Return the convolution of two arrays of one length, cut to that length.

    Every sum is taken in the same order whatever the length, so that a longer table has the bits
    of a shorter one: strings do not depend on what else is drawn beside them.
    """
    found = np.zeros_like(one)
    for place, weight in enumerate(one.tolist()):
        if weight:
            found[place:] += weight * other[: len(other) - place]
    return found


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
            owners = np.zeros(num_strings, dtype=np.int64)
            trees = self._trees(lengths, Streams([rng]), owners)
            labels = self.language.label(trees, lengths)
            self._shares[length] = np.bincount(labels, minlength=NUM_DIGITS) / num_strings
        return self._shares[length]

    def _draw(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        if not self.is_balanced:
            tokens = self._trees(lengths, streams, owners)
            return tokens, self.language.label(tokens, lengths)
        labels = streams.integers(0, NUM_DIGITS, owners)
        tokens = np.zeros((len(lengths), int(lengths.max(initial=0))), dtype=np.uint8)
        kinds = owners * (LONGEST + 1) + lengths
        waiting, per_string = np.arange(len(lengths)), 1.3
        while len(waiting):
            # about a tree in ten has a label. few are left to wait after the first round, and for
            # them trees too many cost less than one more round. each stream's stay together
            asked, counts = np.unique(kinds[waiting], return_counts=True)
            num_trees = np.maximum(_FEWEST_TREES, (counts * per_string).astype(np.int64))
            drawn, per_string = np.repeat(asked, num_trees), 8
            owner, length = np.divmod(drawn, LONGEST + 1)
            trees = self._trees(length, streams, owner)
            wanted = _numbered(kinds[waiting] * NUM_DIGITS + labels[waiting])
            found = _numbered(drawn * NUM_DIGITS + self.language.label(trees, length))
            _, taken, given = np.intersect1d(wanted, found, assume_unique=True, return_indices=True)
            tokens[waiting[taken], : trees.shape[1]] = trees[given]
            waiting = np.delete(waiting, taken)
        return tokens, labels

    def _lengths(self, longest: int) -> _Lengths:
        # by powers of two: few tables are made however lengths come
        size = min(LONGEST, 1 << max(6, longest.bit_length()))
        if size not in self._known:
            self._known[size] = _Lengths(self.language, size)
        return self._known[size]

    def _trees(self, lengths: Ints, streams: Streams, owners: Ints) -> Symbols:
        """Draw a tree of each length, level by level, every node of a level at once.

        A place of a string has two draws, whatever is there: one for the size of the tree that
        begins there, one for what is written.
        """
        num_strings, longest = len(lengths), int(lengths.max(initial=0))
        known = self._lengths(longest)
        sizes = streams.grid(lengths, owners).reshape(-1)
        symbols = streams.grid(lengths, owners).reshape(-1)
        tokens = np.zeros(longest * num_strings, dtype=np.uint8)
        # one place further on in a string is one row further down
        place, size = np.arange(num_strings), lengths
        for level in range(self.language.max_depth):
            is_digit = size == 1
            digit = place[is_digit]
            tokens[digit] = symbols.take(digit) * NUM_DIGITS
            (inner,) = np.nonzero(~is_digit)
            if not len(inner):
                break
            place, size = place.take(inner), size.take(inner)
            number = symbols.take(place) * NUM_OPERATORS
            operator = number.astype(np.uint8)
            number -= operator
            tokens[place] = operator + np.uint8(OPENS)
            tokens[place + (size - 1) * num_strings] = CLOSE
            place, size = known.children(
                level, place + num_strings, size - 2, number, sizes, num_strings
            )
        return np.ascontiguousarray(tokens.reshape(longest, num_strings).T)


def _numbered(keys: Ints) -> Ints:
    """Make equal keys different: each carries how many came before it, the same for any keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.searchsorted(ordered, ordered)
    found = np.empty_like(keys)
    found[order] = ordered * _MOST_ALIKE + np.arange(len(keys)) - starts
    return found
