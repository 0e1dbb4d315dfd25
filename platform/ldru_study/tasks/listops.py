"""ListOps: nested lists of digits with four operators, of exactly the wanted length.

With the depth bounded it is regular, but by an automaton that nobody could write down: a stack of
histograms. So it has a labeller and a generator of its own. Exact: labels, and the distribution
over strings given their length and, of all but long ones, how often each label comes.
Shapes: B batch, T tokens, N nodes of trees that are expanded at once.
"""

from __future__ import annotations

import numpy as np

from ldru_study.errors import UnknownNameError
from ldru_study.tasks.automaton import NO_CLASS, Ints, Symbols
from ldru_study.tasks.packed import LONGEST as LONGEST_PACKED
from ldru_study.tasks.packed import packed_values
from ldru_study.tasks.task import Family, Task

SYMBOLS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
NUM_DIGITS, NUM_OPERATORS = 10, 4
# the first of the operators, which open lists, and what closes one
OPENS, CLOSE = 10, 14
# a pass over places is worth its calls from so many strings on
_FEWEST_PACKED = 512


class ListOps:
    """The value of a nested list: MIN, MAX, MED (truncated median), SM (sum modulo 10).

    Args:
        max_args: most children of an operator.
        max_depth: levels of the deepest tree, its digits included.
    """

    def __init__(self, max_args: int, max_depth: int) -> None:
        self.max_args = max_args
        self.max_depth = max_depth

    def label(self, tokens: Symbols, lengths: Ints) -> Ints:
        """Return the value of every string, int64 [B]; `NO_CLASS` where it is no expression.

        Whatever the bounds of the generator, lists of any depth and number of arguments have a
        value.

        Args:
            tokens: uint8 [B, T]; what lies beyond a string's length is ignored.
            lengths: int64 [B], each in 0..T.
        """
        if len(lengths) < _FEWEST_PACKED or lengths.max(initial=0) > LONGEST_PACKED:
            return self._label_any(tokens, lengths)
        values, is_sure = packed_values(tokens, lengths)
        (rows,) = np.nonzero(~is_sure)
        if len(rows):
            values[rows] = self._label_any(tokens[rows], lengths[rows])
        return values

    def _label_any(self, tokens: Symbols, lengths: Ints) -> Ints:
        """Reckon lists from the deepest on, all of one level at once, however long they are."""
        num_strings, longest = len(lengths), int(lengths.max(initial=0))
        symbols = tokens[:, :longest]
        is_there = np.arange(longest) < lengths[:, None]
        opens = is_there & (symbols >= OPENS) & (symbols < CLOSE)
        closes = is_there & (symbols == CLOSE)
        # lists that are open after each symbol
        level = np.cumsum(opens.astype(np.int32) - closes, axis=1)
        is_wrong = (level < 0).any(axis=1) | (level[:, -1:] != 0).any(axis=1)
        of_right = ~np.repeat(is_wrong, longest)
        opens, closes, level = opens.reshape(-1), closes.reshape(-1), level.reshape(-1)
        (opened,) = np.nonzero(opens & of_right)
        (closed,) = np.nonzero(closes & of_right)
        (digit,) = np.nonzero((is_there & (symbols < NUM_DIGITS)).reshape(-1) & of_right)
        # every digit and every list that is closed is an argument of the list around it
        values = symbols.reshape(-1).astype(np.int64)
        for deep in range(int(level[opened].max(initial=0)), 0, -1):
            # lists as deep as each other do not overlap: they close in the order they open
            first, last = opened[level[opened] == deep], closed[level[closed] == deep - 1]
            arguments = np.concatenate([digit[level[digit] == deep], closed[level[closed] == deep]])
            place = np.searchsorted(first, arguments) - 1
            counts = np.bincount(
                place * NUM_DIGITS + values[arguments], minlength=len(first) * NUM_DIGITS
            ).reshape(-1, NUM_DIGITS)
            is_wrong[first[counts.sum(axis=1) == 0] // max(longest, 1)] = True
            values[last] = _reckon(symbols.reshape(-1)[first], counts)
        outermost = np.concatenate([digit[level[digit] == 0], closed[level[closed] == 0]])
        rows = outermost // max(longest, 1)
        is_wrong |= np.bincount(rows, minlength=num_strings) != 1
        found = np.full(num_strings, NO_CLASS)
        found[rows] = values[outermost]
        return np.where(is_wrong, NO_CLASS, found)


def _reckon(operators: Symbols, counts: Ints) -> Ints:
    """Apply operators, [N], to arguments given as counts of each digit, [N, 10]."""
    sums = np.cumsum(counts, axis=1)
    total = sums[:, -1]
    lower = (sums > ((total - 1) // 2)[:, None]).argmax(axis=1)
    upper = (sums > (total // 2)[:, None]).argmax(axis=1)
    values = [
        (counts > 0).argmax(axis=1),
        NUM_DIGITS - 1 - (counts[:, ::-1] > 0).argmax(axis=1),
        (lower + upper) // 2,
        counts @ np.arange(NUM_DIGITS) % NUM_DIGITS,
    ]
    found: Ints = np.choose(operators - OPENS, values) if len(operators) else total
    return found


# raise by hand when the generator draws other strings from the same stream, see `trial.RECIPE`
_GENERATION = 3
_BOUNDS = {"max args": (2, 10), "max depth": (2, 20)}


def _listops(name: str, *numbers: str) -> Task:
    max_args, max_depth = map(int, numbers)
    for (what, (low, high)), found in zip(_BOUNDS.items(), (max_args, max_depth), strict=True):
        if not low <= found <= high:
            raise UnknownNameError(
                f"'{name}': {what} of listops_ARGS_DEPTH must be in {low}..{high}, found {found}."
            )
    return Task(
        name=name,
        summary=f"value of a nested list of digits, at most {max_args} each, {max_depth} deep",
        language=ListOps(max_args, max_depth),
        symbols=SYMBOLS,
        classes=tuple(f"value {value}" for value in range(NUM_DIGITS)),
        examples=(("[MAX 2 [MIN 4 7 ] 0 ]", 4), ("[SM 9 [MED 4 7 ] ]", 4)),
        identity=f"{name}/{_GENERATION}",
    )


FAMILIES = (
    Family(
        r"listops_([1-9]\d{0,3})_([1-9]\d{0,3})",
        _listops,
        tuple(f"listops_{args}_{depth}" for args in (3, 5) for depth in (9, 14)),
    ),
)
