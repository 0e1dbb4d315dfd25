"""Independent random streams: each is a pure function of a seed, a name and a position.

Nothing is drawn from a shared generator, so a stream's position *is* the pair of numbers given
here: a trial that continues from step k sees the batches that it would have seen, whatever else
drew random numbers, and on however many workers.
"""

from __future__ import annotations

import zlib

import numpy as np


def random_stream(seed: int, name: str, *position: int) -> np.random.Generator:
    """Return the generator of stream ``name`` at ``position``.

    Args:
        seed: the replicate's seed, >= 0.
        name: what the numbers are for, such as ``"data/parity_check"``.
        position: counters >= 0, such as the training step or the length.
    """
    key = (zlib.crc32(name.encode()), *position)
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))
