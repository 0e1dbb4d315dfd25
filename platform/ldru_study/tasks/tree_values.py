"""How probable each value of a tree of ListOps is, given its length.

The generating function of the weights of trees of one value is known at points on the unit circle;
what an operator makes of its children is then a product of numbers at every point, and one Fourier
transform leads back to lengths. The rules go over how many children are at most, or at least, some
digit.
Shapes: V = 10 values, F points, all complex128 [V, F] unless told.
"""

from __future__ import annotations

from math import comb
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ldru_study.tasks.listops import NUM_DIGITS, NUM_OPERATORS, ListOps
from ldru_study.tasks.sampling import Floats
from ldru_study.tasks.tree_sizes import OPERATOR_SHARE, tilt_of

Points: TypeAlias = npt.NDArray[np.complex128]


def value_shares(language: ListOps, length: int) -> Floats:
    """Return the share of each value among the trees of ``length``, float64 [V].

    Exact but for rounding, which grows with the length, and where trees of it are rare: up to 128
    tokens and down to a millionth of their tilted weights it stayed below 2e-12, beside 80 bits.

    Args:
        language: bounds the children and the levels.
        length: of trees that there are, at least 1.
    """
    if length == 1:
        return np.full(NUM_DIGITS, 1 / NUM_DIGITS)
    tilt, most = tilt_of(language.max_args), language.max_args
    # products of so many trees of so many tokens do not come round
    num_points = 1 << (most * length).bit_length()
    weights = np.zeros((NUM_DIGITS, length + 1))
    weights[:, 1] = leaf = tilt / NUM_DIGITS
    for _ in range(language.max_depth - 1):
        inner = _lists(np.fft.rfft(weights, num_points), most)
        weights[:, 2:] = np.fft.irfft(inner, num_points)[:, : length - 1]
        weights *= tilt**2 * OPERATOR_SHARE / (most - 1) / NUM_OPERATORS
        weights[:, 1] = (1 - OPERATOR_SHARE) * leaf
    shares: Floats = weights[:, length] / weights[:, length].sum()
    return shares


def _lists(one: Points, most: int) -> Points:
    """Return the weights of lists of 2..``most`` children by value, all operators together."""
    up_to = _powers(np.cumsum(one, axis=0), most)
    at_least = _powers(np.cumsum(one[::-1], axis=0)[::-1], most)
    turns = np.exp(2j * np.pi / NUM_DIGITS * np.outer(np.arange(NUM_DIGITS), np.arange(NUM_DIGITS)))
    by_turn = _powers(turns @ one, most)
    found = np.zeros_like(one)
    for number in range(2, most + 1):
        found += _steps(up_to[number]) + _steps_down(at_least[number])
        found += turns.conj() @ by_turn[number] / NUM_DIGITS
        found += _medians(up_to, at_least, number)
    return found


def _medians(up_to: list[Points], at_least: list[Points], number: int) -> Points:
    """Return the weights of ``number`` children by their median, the mean of two rounded down.

    Args:
        up_to: [n] -> weights of n children none of which is above the value.
        at_least: [n] -> weights of n children none of which is below the value.
        number: of the children.
    """
    half = number // 2
    # of the upper of the two in the middle, or of the one that is there
    upper = _steps(_most_up_to(up_to, at_least, number, half + 1))
    if number % 2:
        return upper
    lower = _steps(_most_up_to(up_to, at_least, number, half))
    found = lower.copy()
    below, above = _steps(up_to[half]), _steps_down(at_least[half])
    for low in range(NUM_DIGITS):
        for high in range(low + 1, NUM_DIGITS):
            # one half has its greatest here, the other its least there, with nothing in between
            apart = comb(number, half) * below[low] * above[high]
            found[low] -= apart
            found[(low + high) // 2] += apart
    return found


def _most_up_to(up_to: list[Points], at_least: list[Points], number: int, least: int) -> Points:
    """Return the weights of ``number`` children of which ``least`` or more are up to the value."""
    found = up_to[number].copy()
    for few in range(least, number):
        above = at_least[number - few][1:]
        found[:-1] += comb(number, few) * up_to[few][:-1] * above
    return found


def _steps(of: Points) -> Points:
    """Return the differences from value to value upwards: what the value itself adds."""
    return np.diff(of, axis=0, prepend=0)


def _steps_down(of: Points) -> Points:
    return -np.diff(of, axis=0, append=0)


def _powers(of: Points, most: int) -> list[Points]:
    """Return the powers 0..``most`` at each point."""
    powers = [np.ones_like(of)]
    for _ in range(most):
        powers.append(powers[-1] * of)
    return powers
