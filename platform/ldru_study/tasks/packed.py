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
# what an argument adds to the counts of digits, and to these with the number of arguments above
UNITS = np.array([1 << _BITS * digit for digit in range(_NUM_DIGITS)])
_COUNTED = np.append(UNITS + (1 << _ABOVE), np.zeros(6, dtype=np.int64))


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
    operators = np.zeros(len(counts), dtype=np.uint8)
    # where the innermost open list of each string is
    top = np.arange(num_strings)
    is_wrong, is_sure = (np.full(num_strings, flag) for flag in (False, True))
    for place, walking in enumerate(num_walking(lengths)):
        symbols = by_place[place, :walking]
        (digit,) = np.nonzero(symbols < _OPENS)
        here = top.take(digit)
        counts[here] = counts.take(here) + _COUNTED.take(symbols.take(digit))

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
        values = reckon(operators.take(here), held & _DIGITS, num_arguments)
        here -= num_strings
        # an empty list has no value: any will do
        counts[here] = counts.take(here) + _COUNTED.take(values, mode="clip")
        top[close] = here

        (opened,) = np.nonzero((symbols >= _OPENS) & (symbols < _CLOSE))
        here = top.take(opened) + num_strings
        if len(here) and here.max() >= len(counts):
            counts, operators = np.tile(counts, 2), np.tile(operators, 2)
        counts[here] = 0
        operators[here] = symbols.take(opened) - np.uint8(_OPENS)
        top[opened] = here
    outermost = counts[:num_strings]
    is_wrong |= (top >= num_strings) | (outermost >> _ABOVE != 1)
    value = _lowest((outermost & _DIGITS) << _BITS - 1)
    return np.where(is_wrong, -1, value), is_sure


def reckon(operators: Symbols, counts: Ints, total: Ints) -> Ints:
    """Apply operators, [N], to arguments given as counts of digits.

    Args:
        operators: 0 MIN, 1 MAX, 2 MED, 3 SM, uint8 [N].
        counts: how often each digit is an argument, a field each, see `UNITS`; int64 [N].
        total: number of arguments, at most 15, [N].

    Returns:
        int64 [N]; anything where there are no arguments.
    """
    found = np.empty(len(counts), dtype=np.int64)
    # each rule where it is asked for: the median costs several times what others do
    for number, rule in enumerate((_min, _max, _median, _sum)):
        (here,) = np.nonzero(operators == number)
        found[here] = rule(counts.take(here), total.take(here))
    return found


def _min(counts: Ints, total: Ints) -> Ints:
    return _lowest(_tops(counts))


def _max(counts: Ints, total: Ints) -> Ints:
    return _highest(_tops(counts))


def _median(counts: Ints, total: Ints) -> Ints:
    # in each field how many arguments are no larger than its digit
    up_to = (counts * _ONES) & _DIGITS
    return (_num_up_to(up_to, (total - 1) >> 1) + _num_up_to(up_to, total >> 1)) >> 1


def _sum(counts: Ints, total: Ints) -> Ints:
    up_to = (counts * _ONES) & _DIGITS
    # of all fields: an argument is in as many as 10 less its digit; in fields twice as wide
    pairs = (up_to & 31 * _PAIRS) + ((up_to >> _BITS) & 31 * _PAIRS)
    sums = (pairs * _PAIRS) >> _ABOVE - 2 * _BITS & 2 ** (2 * _BITS) - 1
    found: Ints = -sums % _NUM_DIGITS
    return found


def _tops(counts: Ints) -> Ints:
    """Return the highest bit of each field that is not 0."""
    found: Ints = (counts + (2 ** (_BITS - 1) - 1) * _ONES) & _TOPS
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
