"""Values of nested lists, all strings at once: a pass over their places with a stack of counts.

How often each digit is an argument of an open list is one number: 5 bits for every digit, and
above them how many arguments there are. Up to 15 arguments no field runs into the next one, so
that a list is reckoned by a few operations on whole numbers.
Shapes: B batch, T tokens, N lists that close at one place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ldru_study.tasks.automaton import Ints, Symbols
from ldru_study.tasks.together import num_walking

# above this many tokens the number of arguments could run over
LONGEST = 4096
_MOST_ARGUMENTS = 15
_NUM_DIGITS, _BITS = 10, 5
_ABOVE = _NUM_DIGITS * _BITS
_DIGITS = 2**_ABOVE - 1
# 1 in each field, in each second field, and the highest bit of each field
_ONES = sum(1 << _BITS * digit for digit in range(_NUM_DIGITS))
_PAIRS = sum(1 << 2 * _BITS * pair for pair in range(_NUM_DIGITS // 2))
_TOPS = _ONES << _BITS - 1
_OPENS, _CLOSE, _NOTHING = 10, 14, 15
# what an argument adds
_UNITS = np.array([(1 << _BITS * digit) + (1 << _ABOVE) for digit in range(_NUM_DIGITS)] + [0] * 6)


def packed_values(tokens: Symbols, lengths: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Return the value of every string, -1 where it is no expression, and whether that is sure.

    Args:
        tokens: uint8 [B, T], symbols of ListOps; what lies beyond a string's length is ignored.
        lengths: int64 [B], each in 0..T, at most `LONGEST`.

    Returns:
        int64 [B]; and bool [B], false where a list has more arguments than can be counted so.
    """
    num_strings, longest = tokens.shape[0], int(lengths.max(initial=0))
    by_place = np.ascontiguousarray(tokens[:, :longest].T)
    if lengths.min(initial=longest) < longest:
        is_there = np.arange(longest)[:, None] < lengths
        by_place = np.where(is_there, by_place, np.uint8(_NOTHING))
    # counts and operator of each open list, the outermost level, which is none, first: [levels * B]
    counts = np.zeros(8 * num_strings, dtype=np.int64)
    operators = np.full(len(counts), _OPENS, dtype=np.uint8)
    # where the innermost open list of each string is
    top = np.arange(num_strings)
    is_wrong, is_sure = (np.full(num_strings, flag) for flag in (False, True))
    for place, walking in enumerate(num_walking(lengths)):
        symbols = by_place[place, :walking]
        (digit,) = np.nonzero(symbols < _OPENS)
        here = top.take(digit)
        counts[here] = counts.take(here) + _UNITS.take(symbols.take(digit))

        (close,) = np.nonzero(symbols == _CLOSE)
        here = top.take(close)
        if len(here) and here.min() < num_strings:
            is_wrong[close[here < num_strings]] = True
            close, here = close[here >= num_strings], here[here >= num_strings]
        held = counts.take(here)
        num_arguments = held >> _ABOVE
        if len(held) and num_arguments.min() == 0:
            is_wrong[close[num_arguments == 0]] = True
        if len(held) and num_arguments.max() > _MOST_ARGUMENTS:
            is_sure[close[num_arguments > _MOST_ARGUMENTS]] = False
        values = _reckon(operators.take(here), held & _DIGITS, num_arguments)
        here -= num_strings
        # an empty list has no value: any will do
        counts[here] = counts.take(here) + _UNITS.take(values, mode="clip")
        top[close] = here

        (opened,) = np.nonzero((symbols >= _OPENS) & (symbols < _CLOSE))
        here = top.take(opened) + num_strings
        if len(here) and here.max() >= len(counts):
            counts, operators = np.tile(counts, 2), np.tile(operators, 2)
        counts[here] = 0
        operators[here] = symbols.take(opened)
        top[opened] = here
    outermost = counts[:num_strings]
    is_wrong |= (top >= num_strings) | (outermost >> _ABOVE != 1)
    value = _lowest((outermost & _DIGITS) << _BITS - 1)
    return np.where(is_wrong, -1, value), is_sure


def _reckon(operators: Symbols, counts: Ints, total: Ints) -> Ints:
    """Apply operators, [N], to ``total`` arguments each, given as counts of each digit, [N]."""
    # the highest bit of each field that is not 0
    is_there = (counts + (2 ** (_BITS - 1) - 1) * _ONES) & _TOPS
    # in each field how many arguments are no larger than its digit
    up_to = (counts * _ONES) & _DIGITS
    lower, upper = _num_up_to(up_to, (total - 1) >> 1), _num_up_to(up_to, total >> 1)
    # of all fields: an argument is in as many as 10 less its digit; in fields twice as wide
    pairs = (up_to & 31 * _PAIRS) + ((up_to >> _BITS) & 31 * _PAIRS)
    sums = (pairs * _PAIRS) >> _ABOVE - 2 * _BITS & 2 ** (2 * _BITS) - 1
    values = [_lowest(is_there), _highest(is_there), (lower + upper) >> 1, -sums % _NUM_DIGITS]
    found: Ints = np.choose(operators - np.uint8(_OPENS), values)
    return found


def _num_up_to(fields: Ints, bound: Ints) -> Ints:
    """Return how many of the fields are at most ``bound``."""
    is_within = ((bound * _ONES | _TOPS) - fields & _TOPS) >> _BITS - 1
    return is_within * _ONES >> _ABOVE - _BITS & 31


def _lowest(tops: Ints) -> Ints:
    return _highest(tops & -tops)


def _highest(tops: Ints) -> Ints:
    """Return the number of the highest field, of which only the highest bits may be 1."""
    # the exponent of a float: 53 bits hold all fields
    place = (tops.astype(np.float64).view(np.int64) >> 52) - 1023
    # divided by 5, as long as it is below 50
    return place * 13 >> 6
