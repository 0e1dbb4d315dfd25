"""Strings of ListOps of exactly the wanted length: trees drawn from the top down.

A tree below the deepest level is, with probability 1/4, an operator with 2..max_args children,
each number and each operator alike, and else a digit. Given its length such a tree is drawn
exactly: how probable each length of a child is, given what its siblings can make of the rest, is
known from convolutions.
Shapes: B batch, T tokens, N nodes that are expanded at once.

Source: Nangia and Bowman 2018 (arXiv 1804.06028), section 2, whose strings are not cut by length.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ldru_study.tasks.automaton import Ints, Symbols
from ldru_study.tasks.listops import CLOSE, NUM_DIGITS, NUM_OPERATORS, OPENS, ListOps
from ldru_study.tasks.packed import UNITS, reckon
from ldru_study.tasks.pieces import DrawnWhole
from ldru_study.tasks.sampling import Floats
from ldru_study.tasks.streams import Streams, random_stream
from ldru_study.tasks.together import wipe
from ldru_study.tasks.tree_sizes import TreeSizes

LONGEST = 4096
# of each length drawn at least for labels that wait
_FEWEST_TREES = 32
# above how many strings with one length and label there can be
_MOST_ALIKE = 2**32
# strings that estimate how often each label comes, and the most tokens that they may have
_ESTIMATE, _ESTIMATE_TOKENS = 2**14, 2**22


class TreeSampler(DrawnWhole):
    """Draws trees of given lengths; with ``is_balanced`` each label as often as the others.

    A balanced label is drawn first; then trees are drawn until there are enough with it.
    """

    def __init__(self, language: ListOps, *, is_balanced: bool) -> None:
        self.language = language
        self.is_balanced = is_balanced
        self._known: dict[int, TreeSizes] = {}
        self._shares: dict[int, Floats] = {}

    def covers(self, length: int) -> bool:
        """Whether there are trees of ``length``, at most `LONGEST`; then every label exists."""
        return 1 <= length <= LONGEST and bool(self._sizes(length).whole[length] > 0)

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
            _, labels = self._trees(lengths, Streams([rng]), owners)
            self._shares[length] = np.bincount(labels, minlength=NUM_DIGITS) / num_strings
        return self._shares[length]

    def _draw(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        if not self.is_balanced:
            return self._trees(lengths, streams, owners)
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
            trees, values = self._trees(length, streams, owner)
            wanted = _numbered(kinds[waiting] * NUM_DIGITS + labels[waiting])
            found = _numbered(drawn * NUM_DIGITS + values)
            _, taken, given = np.intersect1d(wanted, found, assume_unique=True, return_indices=True)
            tokens[waiting[taken], : trees.shape[1]] = trees[given]
            waiting = np.delete(waiting, taken)
        return tokens, labels

    def _sizes(self, longest: int) -> TreeSizes:
        # by powers of two: few tables are made however lengths come
        size = min(LONGEST, 1 << max(6, longest.bit_length()))
        if size not in self._known:
            self._known[size] = TreeSizes(self.language, size)
        return self._known[size]

    def _trees(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        """Draw a tree of each length, level by level, all lists of a level at once; and its label.

        A place of a string has two draws, whatever is there: one for the size of the tree that
        begins there, one for what is written.
        """
        num_strings, longest = len(lengths), int(lengths.max(initial=0))
        known = self._sizes(longest)
        sizes = streams.grid(lengths, owners)
        draws = streams.grid(lengths, owners)
        # a digit everywhere, until it is known better
        written = np.empty((longest, num_strings), dtype=np.uint8)
        np.multiply(draws, NUM_DIGITS, out=written, casting="unsafe")
        tokens, symbols = written.reshape(-1), draws.reshape(-1)
        labels = tokens[:num_strings].astype(np.int64)
        # one place further on in a string is one row further down
        (place,) = np.nonzero(lengths > 1)
        size, around = lengths.take(place), place
        levels: list[_Lists] = []
        while len(place):
            number = symbols.take(place) * NUM_OPERATORS
            operators = number.astype(np.uint8)
            number -= operators
            tokens[place] = operators + np.uint8(OPENS)
            tokens[place + (size - 1) * num_strings] = CLOSE
            num_children = known.num_children(len(levels), size - 2, number)
            # lists with most children first: those with an n-th child are always the first ones
            order = np.argsort(-num_children.astype(np.int8), kind="stable")
            lists = _Lists(operators.take(order), num_children.take(order), around.take(order))
            place, size, around = lists.split(
                known,
                len(levels),
                place.take(order) + num_strings,
                size.take(order) - 2,
                sizes,
                tokens,
            )
            levels.append(lists)
        for inner, outer in zip(levels[:0:-1], levels[-2::-1], strict=True):
            outer.add(inner)
        if levels:
            labels[levels[0].around] = levels[0].values()
        if lengths.min(initial=longest) < longest:
            wipe(written, lengths)
        return np.ascontiguousarray(written.T), labels


class _Lists:
    """The lists of one level of all trees, those with most children first.

    Args:
        operators: of each, 0 for the first, uint8 [N].
        num_children: of each, [N], descending.
        around: number of the list around each, in its level, [N].
    """

    def __init__(self, operators: Symbols, num_children: Ints, around: Ints) -> None:
        self.around = around
        self._operators = operators
        self._num_children = num_children
        # how often each digit is an argument, see `packed`
        self._counts = np.zeros(len(around), dtype=np.int64)

    def split(
        self,
        known: TreeSizes,
        level: int,
        place: Ints,
        size: Ints,
        draws: Floats,
        tokens: Symbols,
    ) -> tuple[Ints, Ints, Ints]:
        """Draw the sizes of all children, and count the digits among them.

        Args:
            known: how probable they are.
            level: of these lists.
            place: where the first child of each list begins, as an index of ``tokens``; changed.
            size: tokens of all its children; changed.
            draws: in [0, 1), draw a child's size where it begins, [T, B].
            tokens: the digit at each place, if there is one, [T * B].

        Returns:
            place and size of every child that is a list itself, and in which one of these it is.
        """
        # how many lists have more than 0, 1, ... children
        num_lists = np.searchsorted(
            -self._num_children, -np.arange(known.language.max_args + 1), side="left"
        )
        # from a token's place to the next one's in the same string
        step, draws = draws.shape[1], draws.reshape(-1)
        found = []
        for number, (here, further) in enumerate(pairwise(num_lists.tolist())):
            if not here:
                break
            at, all_of_it = place[:here], size[:here]
            child = all_of_it.copy()
            child[:further] = known.first_sizes(
                level,
                self._num_children[:further] - number,
                size[:further],
                draws.take(place[:further]),
            )
            is_digit = child == 1
            self._counts[:here] += UNITS.take(tokens.take(at)) * is_digit
            (inner,) = np.nonzero(~is_digit)
            found.append((at.take(inner), child.take(inner), inner))
            at += step * child
            all_of_it -= child
        places, sizes, lists = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return places, sizes, lists

    def add(self, inner: _Lists) -> None:
        """Count the values of the lists one level deeper among the arguments of these."""
        added = np.bincount(inner.around, UNITS.take(inner.values()), len(self.around))
        # floats hold all counts exactly
        self._counts += added.astype(np.int64)

    def values(self) -> Ints:
        """Return the value of each list, [N], once all its arguments are counted."""
        return reckon(self._operators, self._counts, self._num_children)


def _numbered(keys: Ints) -> Ints:
    """Make equal keys different: each carries how many came before it, the same for any keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.searchsorted(ordered, ordered)
    found = np.empty_like(keys)
    found[order] = ordered * _MOST_ALIKE + np.arange(len(keys)) - starts
    return found
