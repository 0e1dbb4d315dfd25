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
import numpy.typing as npt

from ldru_study.tasks.automaton import Ints, Symbols
from ldru_study.tasks.listops import CLOSE, NUM_DIGITS, NUM_OPERATORS, OPENS, ListOps
from ldru_study.tasks.packed import UNITS, reckon
from ldru_study.tasks.pieces import DrawnWhole
from ldru_study.tasks.sampling import Floats
from ldru_study.tasks.streams import Streams, random_stream
from ldru_study.tasks.together import wipe
from ldru_study.tasks.tree_sizes import TreeSizes
from ldru_study.tasks.tree_values import value_shares

LONGEST = 4096
# of each length drawn at least for labels that wait
_FEWEST_TREES = 32
# where shares of labels are reckoned: up to this length, and down to this share of the tilted
# weights of all trees so long
LONGEST_EXACT, _RAREST_EXACT = 128, 1e-6
# what the last of 32 bits is worth
_BIT = np.float64(2.0**-32)
# strings that estimate how often each label comes, and the most tokens that they may have
_ESTIMATE, _ESTIMATE_TOKENS = 2**14, 2**22


class TreeSampler(DrawnWhole):
    """Draws trees of given lengths; with ``is_balanced`` each label as often as the others.

    Where it is known how often each label comes, trees are drawn and those of frequent labels
    dropped as often as it takes. Elsewhere labels are drawn first, and then trees until there are
    enough with each.
    """

    def __init__(self, language: ListOps, *, is_balanced: bool) -> None:
        self.language = language
        self.is_balanced = is_balanced
        self._known: dict[int, TreeSizes] = {}
        self._shares: dict[int, Floats] = {}
        # of each length whose shares are exact, up to which draw each label is kept
        self._kept: dict[int, Ints] = {}

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
        """Return the accuracy of the best constant answer, see `label_shares`."""
        return float(self.label_shares(length).max())

    def label_shares(self, length: int) -> Floats:
        """Return how probable each label is, float64 [C].

        Estimated on drawn strings where `has_exact_shares` is false.
        """
        if self.is_balanced:
            return np.full(NUM_DIGITS, 1 / NUM_DIGITS)
        if length not in self._shares and self._can_reckon(length):
            self._shares[length] = value_shares(self.language, length)
        if length not in self._shares:
            num_strings = max(64, min(_ESTIMATE, _ESTIMATE_TOKENS // length))
            rng = random_stream(0, "shares/listops", length)
            lengths = np.full(num_strings, length)
            owners = np.zeros(num_strings, dtype=np.int64)
            _, labels, _ = self._trees(lengths, Streams([rng]), owners)
            self._shares[length] = np.bincount(labels, minlength=NUM_DIGITS) / num_strings
        return self._shares[length]

    def has_exact_shares(self, length: int) -> bool:
        """Whether `label_shares` of a length are exact."""
        return self.is_balanced or self._can_reckon(length)

    def _can_reckon(self, length: int) -> bool:
        # rounding spoils long trees and rare ones
        if length > LONGEST_EXACT:
            return False
        weights = self._sizes(LONGEST_EXACT).whole
        return bool(weights[length] > _RAREST_EXACT * weights.sum())

    def _draw(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        if not self.is_balanced:
            return self._trees(lengths, streams, owners)[:2]
        tokens = np.zeros((len(lengths), int(lengths.max(initial=0))), dtype=np.uint8)
        labels = np.zeros(len(lengths), dtype=np.int64)
        asked, which = np.unique(lengths, return_inverse=True)
        can_reckon = np.array([self._can_reckon(length) for length in asked.tolist()])[which]
        for draw, chosen in ((self._thinned, can_reckon), (self._waited, ~can_reckon)):
            (rows,) = np.nonzero(chosen)
            if len(rows):
                found, labels[rows] = draw(lengths[rows], streams, owners[rows])
                tokens[rows, : found.shape[1]] = found
        return tokens, labels

    def _thinned(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        """Draw trees, and keep one with probability least share / share of its label."""
        tokens = np.zeros((len(lengths), int(lengths.max(initial=0))), dtype=np.uint8)
        labels = np.zeros(len(lengths), dtype=np.int64)
        kinds = owners * (LONGEST + 1) + lengths
        waiting = np.arange(len(lengths))
        while len(waiting):
            asked, group, counts = np.unique(
                kinds[waiting], return_inverse=True, return_counts=True
            )
            owner, length = np.divmod(asked, LONGEST + 1)
            kept = np.stack([self._kept_draws(one) for one in length.tolist()])
            share = kept.mean(axis=1) * _BIT
            # enough for nearly every group: a few trees more cost less than one more round
            spread = 3 * np.sqrt(counts * (1 - share))
            of_tree = np.repeat(np.arange(len(asked)), ((counts + spread) / share + 1).astype(int))
            trees, values, draws = self._trees(length[of_tree], streams, owner[of_tree])
            (usable,) = np.nonzero(draws < kept[of_tree, values])
            taken, given = _matched(group, of_tree[usable], len(asked))
            given = usable[given]
            tokens[waiting[taken], : trees.shape[1]] = trees[given]
            labels[waiting[taken]] = values[given]
            waiting = np.delete(waiting, taken)
        return tokens, labels

    def _kept_draws(self, length: int) -> Ints:
        """Return below which draw of 32 bits a tree of each label is kept, int64 [C]."""
        if length not in self._kept:
            shares = value_shares(self.language, length)
            self._kept[length] = np.rint(shares.min() / shares / _BIT).astype(np.int64)
        return self._kept[length]

    def _waited(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        """Draw a label for each string, and trees until there is one of it."""
        labels = streams.integers(0, NUM_DIGITS, owners)
        tokens = np.zeros((len(lengths), int(lengths.max(initial=0))), dtype=np.uint8)
        kinds = owners * (LONGEST + 1) + lengths
        waiting, per_string = np.arange(len(lengths)), 1.3
        while len(waiting):
            # about a tree in ten has a label. few are left to wait after the first round, and for
            # them trees too many cost less than one more round. each stream's stay together
            asked, group, counts = np.unique(
                kinds[waiting], return_inverse=True, return_counts=True
            )
            num_trees = np.maximum(_FEWEST_TREES, (counts * per_string).astype(np.int64))
            per_string = 8
            of_tree = np.repeat(np.arange(len(asked)), num_trees)
            owner, length = np.divmod(asked[of_tree], LONGEST + 1)
            trees, values, _ = self._trees(length, streams, owner)
            taken, given = _matched(
                group * NUM_DIGITS + labels[waiting],
                of_tree * NUM_DIGITS + values,
                len(asked) * NUM_DIGITS,
            )
            tokens[waiting[taken], : trees.shape[1]] = trees[given]
            waiting = np.delete(waiting, taken)
        return tokens, labels

    def _sizes(self, longest: int) -> TreeSizes:
        # by powers of two: few tables are made however lengths come
        size = min(LONGEST, 1 << max(6, longest.bit_length()))
        if size not in self._known:
            self._known[size] = TreeSizes(self.language, size)
        return self._known[size]

    def _trees(
        self, lengths: Ints, streams: Streams, owners: Ints
    ) -> tuple[Symbols, Ints, npt.NDArray[np.uint32]]:
        """Draw a tree of each length, level by level, all lists of a level at once.

        Returns:
            the trees, [N, T]; their labels, [N]; and a draw of 32 bits for each that nothing else
            depends on, [N].

        A place of a string has two draws of 32 bits, whatever is there: the second for the size of
        the tree that begins there, the first for what is written.
        """
        num_strings, longest = len(lengths), int(lengths.max(initial=0))
        known = self._sizes(longest)
        bits = streams.bits(lengths, owners)
        # a digit everywhere, until it is known better
        written = np.empty((longest, num_strings), dtype=np.uint8)
        np.multiply(bits[:, :, 0], NUM_DIGITS * _BIT, out=written, casting="unsafe")
        tokens, draws = written.reshape(-1), bits.reshape(-1)
        labels = tokens[:num_strings].astype(np.int64)
        # one place further on in a string is one row further down
        (place,) = np.nonzero(lengths > 1)
        size, around = lengths.take(place), place
        levels: list[_Lists] = []
        while len(place):
            number = draws.take(2 * place) * (NUM_OPERATORS * _BIT)
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
                bits,
                tokens,
            )
            levels.append(lists)
        for inner, outer in zip(levels[:0:-1], levels[-2::-1], strict=True):
            outer.add(inner)
        if levels:
            labels[levels[0].around] = levels[0].values()
        if lengths.min(initial=longest) < longest:
            wipe(written, lengths)
        # the size of a whole tree is given
        return np.ascontiguousarray(written.T), labels, bits[0, :, 1]


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
        bits: npt.NDArray[np.uint32],
        tokens: Symbols,
    ) -> tuple[Ints, Ints, Ints]:
        """Draw the sizes of all children, and count the digits among them.

        Args:
            known: how probable they are.
            level: of these lists.
            place: where the first child of each list begins, as an index of ``tokens``; changed.
            size: tokens of all its children; changed.
            bits: two draws of each place, the second for a child's size where it begins, [T, B, 2].
            tokens: the digit at each place, if there is one, [T * B].

        Returns:
            place and size of every child that is a list itself, and in which one of these it is.
        """
        # from a token's place to the next one's in the same string
        step, draws = bits.shape[1], bits.reshape(-1)
        # how many lists have more than 0, 1, ... children
        num_lists = np.searchsorted(
            -self._num_children, -np.arange(known.language.max_args + 1), side="left"
        )
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
                draws.take(2 * place[:further] + 1) * _BIT,
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


def _matched(wanted: Ints, found: Ints, num_keys: int) -> tuple[Ints, Ints]:
    """Pair the n-th of each key in ``wanted`` with the n-th of it in ``found``, both by number.

    Args:
        wanted: keys in 0..num_keys-1, [W].
        found: likewise, [F].
        num_keys: small numbers are sorted by their digits, without comparisons.

    Returns:
        numbers of what was wanted and has been found, and of what was found for it, [M] each.
    """
    small = np.uint16 if num_keys <= 2**16 else np.int64
    asked, there = (np.argsort(keys.astype(small), kind="stable") for keys in (wanted, found))
    num_asked, num_there = (np.bincount(keys, minlength=num_keys) for keys in (wanted, found))
    key = wanted.take(asked)
    number = np.arange(len(wanted)) - (num_asked.cumsum() - num_asked).take(key)
    (has_one,) = np.nonzero(number < num_there.take(key))
    first = (num_there.cumsum() - num_there).take(key.take(has_one))
    return asked.take(has_one), there.take(first + number.take(has_one))
