"""ListOps: nested lists of digits with four operators, of exactly the wanted length.

With the depth bounded it is regular, but by an automaton that nobody could write down: a stack of
histograms. So it has a labeller and a generator of its own. Exact: labels, and the distribution
over strings given their length. Estimated from drawn strings: how often each label comes.
Shapes: B batch, T tokens, N nodes of trees that are expanded at once.
"""

from __future__ import annotations

import numpy as np

from ldru_study.errors import UnknownNameError
from ldru_study.tasks.automaton import NO_CLASS, Ints, Symbols
from ldru_study.tasks.task import Family, Task

SYMBOLS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
NUM_DIGITS, NUM_OPERATORS = 10, 4
# the first of the operators, which open lists, and what closes one
OPENS, CLOSE = 10, 14


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
        value. The arguments of every open list are kept as counts of each digit.

        Args:
            tokens: uint8 [B, T]; what lies beyond a string's length is ignored.
            lengths: int64 [B], each in 0..T.
        """
        num_strings, longest = len(lengths), int(lengths.max(initial=0))
        opens = (tokens[:, :longest] >= OPENS) & (tokens[:, :longest] < CLOSE)
        deepest = int(opens.sum(axis=1).max(initial=0))
        # level 0 holds the value of the whole string
        counts = np.zeros((num_strings, deepest + 2, NUM_DIGITS), dtype=np.int32)
        operators = np.zeros((num_strings, deepest + 2), dtype=np.uint8)
        level = np.zeros(num_strings, dtype=np.int64)
        is_wrong = np.zeros(num_strings, dtype=bool)
        for place in range(longest):
            live = (place < lengths) & ~is_wrong
            symbol = tokens[:, place]
            (digit,) = np.nonzero(live & (symbol < NUM_DIGITS))
            counts[digit, level[digit], symbol[digit]] += 1
            (opened,) = np.nonzero(live & opens[:, place])
            level[opened] += 1
            operators[opened, level[opened]] = symbol[opened]
            counts[opened, level[opened]] = 0
            (closed,) = np.nonzero(live & (symbol == CLOSE))
            is_empty = counts[closed, level[closed]].sum(axis=1) == 0
            bad = (level[closed] == 0) | is_empty
            is_wrong[closed[bad]] = True
            closed = closed[~bad]
            at = level[closed]
            value = _reckon(operators[closed, at], counts[closed, at])
            level[closed] -= 1
            counts[closed, at - 1, value] += 1
        is_wrong |= (level > 0) | (counts[:, 0].sum(axis=1) != 1)
        return np.where(is_wrong, NO_CLASS, counts[:, 0].argmax(axis=1))


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
    )


FAMILIES = (
    Family(
        r"listops_([1-9]\d{0,3})_([1-9]\d{0,3})",
        _listops,
        tuple(f"listops_{args}_{depth}" for args in (3, 5) for depth in (9, 14)),
    ),
)
