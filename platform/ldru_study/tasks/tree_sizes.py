"""How probable each size of a tree of ListOps is, and of each child given its siblings'.

Shapes: N nodes whose children are drawn at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ldru_study.tasks.automaton import Ints
from ldru_study.tasks.listops import ListOps
from ldru_study.tasks.sampling import Floats

OPERATOR_SHARE = 0.25
# up to this length all splits of all lengths are kept; a size of a child fits in a byte
_LONGEST_TABLE = 256
# numbers that the splits of longer ones may hold at once
_PART = 2**21


class TreeSizes:
    """How probable each length of a tree is, level by level.

    Weights of length n are multiplied by tilt^n, which leaves every distribution given the length
    as it is, and the weights of long trees within the range of floats.
    """

    def __init__(self, language: ListOps, longest: int) -> None:
        self.language = language
        self.longest = longest
        self._tables: dict[int, tuple[Floats, npt.NDArray[np.uint8]]] = {}
        # of a row of shares: a power of two, so that halving finds a draw's place
        self._width = 1 << (longest - 1).bit_length()
        tilt = tilt_of(language.max_args)
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
            tree = (1 - OPERATOR_SHARE) * leaf
            tree[2:] += tilt**2 * OPERATOR_SHARE / (language.max_args - 1) * inner[:-2]
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

    def num_children(self, level: int, size: Ints, draws: Floats) -> Ints:
        """Draw how many children nodes have that share ``size`` tokens, [N].

        Args:
            level: of the nodes, 0 for the whole tree.
            size: tokens of all children of each.
            draws: in [0, 1).
        """
        num_cuts = self.language.max_args - 2
        cuts, here = self._numbers[level], size * num_cuts
        found = np.full(len(size), 2)
        for _ in range(num_cuts):
            found += cuts.take(here) <= draws
            here += 1
        return found

    def first_sizes(self, level: int, left: Ints, size: Ints, draws: Floats) -> Ints:
        """Draw how many of ``size`` tokens the first of ``left`` >= 2 children has, [N].

        Args:
            level: of the nodes whose children they are.
            left: the child and its siblings further right.
            size: tokens of all these.
            draws: in [0, 1).
        """
        if self.longest <= _LONGEST_TABLE:
            first = self._looked_up(level, left, size, draws)
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

    def _looked_up(self, level: int, left: Ints, size: Ints, draws: Floats) -> Ints:
        """Return the place of each draw in its row of shares."""
        table, guide = self._table(level)
        row = ((left - 2) * (self.longest + 1) + size) * self._width
        # where the draws that are as large to a row's width begin: nearly always the right place,
        # else often the next one
        first = guide.take(row + (draws * self._width).astype(np.int64)).astype(np.int64)
        first += table.take(row + first) <= draws
        (beyond,) = np.nonzero(table.take(row + first) <= draws)
        if len(beyond):
            row, draws = row.take(beyond), draws.take(beyond)
            # all searches go on together, each through its own row
            place, half = row.copy(), self._width // 2
            while half:
                place += half * (table.take(place + (half - 1)) <= draws)
                half //= 2
            first[beyond] = place - row
        return first

    def _shares(self, level: int, number: int, size: Ints) -> Floats:
        """Return the cumulative shares of the sizes of the first child, [N, sizes]."""
        one, others = self.together[level][1], self.together[level][number - 1]
        sizes = np.arange(int(size.max(initial=0)) + 1)
        rest = size[:, None] - sizes
        sums = np.cumsum(np.where(rest >= 0, one[sizes] * others[np.maximum(rest, 0)], 0.0), axis=1)
        # sizes that cannot be split are never asked for
        shares: Floats = sums / np.where(sums[:, -1:] > 0, sums[:, -1:], 1.0)
        return shares

    def _table(self, level: int) -> tuple[Floats, npt.NDArray[np.uint8]]:
        """Return the shares of first sizes, a row per number of children and size of all.

        Beside them, in rows as wide, how many shares are no larger than 0, 1, ... by the width.
        """
        if level not in self._tables:
            numbers, totals = range(2, self.language.max_args + 1), np.arange(self.longest + 1)
            table = np.ones((len(numbers), len(totals), self._width))
            for row, number in enumerate(numbers):
                table[row, :, : self.longest] = self._shares(level, number, totals)[:, :-1]
            # the width is a power of two: products with it are exact
            steps = np.ceil(table * self._width).astype(np.int64).reshape(-1, self._width)
            num_rows, num_steps = len(steps), self._width + 1
            steps += np.arange(num_rows)[:, None] * num_steps
            counts = np.bincount(steps.reshape(-1), minlength=num_rows * num_steps)
            guide = np.cumsum(counts.reshape(num_rows, num_steps)[:, :-1], axis=1)
            self._tables[level] = table.reshape(-1), guide.astype(np.uint8).reshape(-1)
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


def tilt_of(max_args: int) -> float:
    """Return the factor per token at which trees without bound would be just critical."""
    children = np.arange(2, max_args + 1)

    def tilt_at(total: float) -> float:
        slope = OPERATOR_SHARE * (children * total ** (children - 1)).mean()
        return float(slope**-0.5)

    low, high = 1e-3, 1e3
    for _ in range(200):
        total = (low * high) ** 0.5
        tilt = tilt_at(total)
        grown = (1 - OPERATOR_SHARE) * tilt
        grown += tilt**2 * OPERATOR_SHARE * float((total**children).mean())
        low, high = (total, high) if total < grown else (low, total)
    return tilt_at(low)
