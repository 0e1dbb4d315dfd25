"""Dropout from a counter: which features of a parent are zeroed depends on seed, merge and feature.

The backward pass, a recomputation and every backend draw the same mask, and nothing is stored.
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


def is_kept(seed: Tensor, population: int, merges: Tensor, width: int, dropout: float) -> Tensor:
    """Return which features stay, bool [P, n, E].

    Args:
        seed: of `new_seed`.
        population: P.
        merges: numbers of the merges in their plan, int64 [n].
        width: E.
        dropout: probability of zeroing a feature, in [0, 1).
    """
    members = torch.arange(population, device=merges.device) * MEMBER
    rows = _mix(((merges + members[:, None]) & _WORD) ^ seed[0])
    features = torch.arange(width, device=merges.device) * GOLDEN
    words = _mix(((rows[..., None] + features) & _WORD) ^ seed[1])
    return words >= threshold(dropout)


def _mix(words: Tensor) -> Tensor:
    words = words ^ (words >> 16)
    words = (words * MIX_FIRST) & _WORD
    words = words ^ (words >> 15)
    words = (words * MIX_SECOND) & _WORD
    return words ^ (words >> 16)
