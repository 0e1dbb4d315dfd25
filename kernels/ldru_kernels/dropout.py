"""Dropout and noise from a counter: functions of seed, number of the state and feature.

The backward pass, a recomputation, every backend and every worker draw the same mask and the same
noise, and nothing is stored. The number of a parent is that of its merge in the plan of the whole
batch. Leaves are numbered from above, so that they have no number in common with parents.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 2**32 - 1
# 2^32 over the golden ratio: neighbouring features start far apart
GOLDEN = 0x9E3779B9
# an odd number that keeps the members of a population apart
MEMBER = 0x632BE59B
# Wellons' "lowbias32" (https://nullprogram.com/blog/2018/07/31/), a bijection of 32-bit words
MIX_FIRST, MIX_SECOND = 0x7FEB352D, 0x846CA68B


def new_seed(device: torch.device) -> Tensor:
    """Draw the seed of one pass from torch's generator of ``device``: two words, int64 [2]."""
    return torch.randint(2**32, (2,), dtype=torch.int64, device=device)


def threshold(dropout: float) -> int:
    """Return the smallest word that keeps a feature."""
    return min(round(dropout * 2**32), _WORD)


def is_kept(seed: Tensor, population: int, numbers: Tensor, width: int, dropout: float) -> Tensor:
    """Return which features stay, bool [P, n, E].

    Args:
        seed: of `new_seed`.
        population: P.
        numbers: of the states, words of 32 bits, int32 or wider, [n].
        width: E.
        dropout: probability of zeroing a feature, in [0, 1).
    """
    words = _words(seed, population, numbers, range(width))
    # as signed numbers, in the order of unsigned ones
    return words.bitwise_xor_(-(2**31)) >= threshold(dropout) - 2**31


def mask(
    seed: Tensor,
    population: int,
    numbers: Tensor,
    width: int,
    dropout: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return 0 or 1 / (1 - dropout) for every feature, [P, n, E]; arguments as in `is_kept`."""
    return is_kept(seed, population, numbers, width, dropout).to(dtype).div_(1 - dropout)


def noise(
    seed: Tensor,
    population: int,
    numbers: Tensor,
    width: int,
    deviation: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return Gaussian noise for every feature, [P, n, E]; arguments as in `is_kept`.

    The words are those of E more features, so that noise and masks have nothing in common. The
    largest of 2^24 values is 5.3 standard deviations; float64 gets the same ones, rounded to
    float32.

    Args:
        seed: of `new_seed`, and so on.
        population: the same.
        numbers: the same.
        width: the same.
        deviation: the standard deviation.
        dtype: of the result.

    Source: inversion, x = sqrt(2) erfinv(2 u - 1) for u uniform in (0, 1).
    """
    words = _words(seed, population, numbers, range(width, 2 * width))
    # 24 bits and a half, all of which float32 holds: symmetric, and never -1 or 1
    uniform = (words >> 8).to(torch.float32).add_(0.5).mul_(2**-23)
    return uniform.erfinv_().mul_(2**0.5 * deviation).to(dtype)


def leaf_numbers(places: Tensor) -> Tensor:
    """Return the numbers of leaves: the last word for place 0, and so on down.

    Places count the tokens of a batch, int64, sequence by sequence and none beyond a length.
    """
    return _WORD - places


def _words(seed: Tensor, population: int, numbers: Tensor, features: range) -> Tensor:
    """Return a word of 32 bits for every feature, int32 [P, n, E]."""
    # int32 wraps around as words do, and takes half the time of int64
    device = numbers.device
    first, second = _as_int32(seed)
    members = _as_int32(torch.arange(population, device=device) * MEMBER)
    rows = _mix((_as_int32(numbers) + members[:, None]) ^ first)
    columns = torch.arange(features.start, features.stop, device=device)
    return _mix((rows[..., None] + _as_int32(columns * GOLDEN)) ^ second)


def _as_int32(words: Tensor) -> Tensor:
    """Return the low 32 bits of integers as int32."""
    if words.dtype == torch.int32:
        return words
    # a conversion of numbers that are out of range would be the processor's own matter
    words = words & _WORD
    return (words - ((words >> 31) << 32)).to(torch.int32)


def _mix(words: Tensor) -> Tensor:
    """Return the hash of words, int32, in their place."""
    for bits, factor in ((16, MIX_FIRST), (15, MIX_SECOND)):
        words ^= (words >> bits).bitwise_and_((1 << (32 - bits)) - 1)
        words *= factor - ((factor >> 31) << 32)
    words ^= (words >> 16).bitwise_and_(2**16 - 1)
    return words
