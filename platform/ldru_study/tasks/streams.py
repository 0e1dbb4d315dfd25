"""Independent random streams: each is a pure function of a seed, a name and a position.

Nothing is drawn from a shared generator, so a stream's position *is* the pair of numbers given
here: a trial that continues from step k sees the batches that it would have seen, whatever else
drew random numbers, and on however many workers. There is none for an order of examples: every
step draws strings of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def random_stream(seed: int, name: str, *position: int) -> np.random.Generator:
    """Return the generator of stream ``name`` at ``position``.

    Args:
        seed: the replicate's seed, >= 0.
        name: what the numbers are for, such as ``"data/parity_check"``.
        position: counters >= 0, such as the training step or the length.
    """
    key = (zlib.crc32(name.encode()), *position)
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))


class Streams:
    """Generators side by side: each draws for its own strings, all numbers come in one array.

    So the strings of many batches are drawn by the same few array operations, each to the bits
    that it would have if its batch were drawn alone.
    Shapes: B strings, T tokens, G generators. ``owners``, int64 [B] and ascending, tells the
    generator of each string.

    Args:
        generators: G of them; nobody else draws from them meanwhile.
    """

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators

    def random(self, owners: Ints) -> Floats:
        """Draw a number in [0, 1) for each string, float64 [B]."""
        found = np.empty(len(owners))
        for generator, begin, end in self._parts(owners):
            generator.random(out=found[begin:end])
        return found

    def integers(self, low: int, high: int, owners: Ints) -> Ints:
        """Draw an integer in low..high-1 for each string, int64 [B]."""
        found = np.empty(len(owners), dtype=np.int64)
        for generator, begin, end in self._parts(owners):
            found[begin:end] = generator.integers(low, high, end - begin)
        return found

    def grid(self, lengths: Ints, owners: Ints) -> Floats:
        """Draw numbers in [0, 1) for the places of strings, float64 [T, B].

        Every generator draws as many rows as the longest of its own strings has tokens; there is
        0 below them.
        """
        longest = int(lengths.max(initial=0))
        if len(self._generators) == 1:
            return self._generators[0].random((longest, len(lengths)))
        found = np.zeros((longest, len(lengths)))
        for generator, begin, end in self._parts(owners):
            height = int(lengths[begin:end].max())
            found[:height, begin:end] = generator.random((height, end - begin))
        return found

    def bits(self, lengths: Ints, owners: Ints) -> npt.NDArray[np.uint32]:
        """Draw two independent halves of 32 bits for the places of strings, uint32 [T, B, 2].

        They cost half of two numbers of `grid`; generators draw and rows end as there.
        """
        longest, drawn = int(lengths.max(initial=0)), None
        for generator, begin, end in self._parts(owners):
            height = int(lengths[begin:end].max())
            own = generator.integers(0, 2**64, (height, end - begin), dtype=np.uint64)
            if own.shape == (longest, len(lengths)):
                drawn = own
                break
            if drawn is None:
                drawn = np.zeros((longest, len(lengths)), dtype=np.uint64)
            drawn[:height, begin:end] = own
        if drawn is None:
            drawn = np.zeros((longest, len(lengths)), dtype=np.uint64)
        # the same halves on every machine
        return drawn.astype("<u8", copy=False).view("<u4").reshape(longest, len(lengths), 2)

    def _parts(self, owners: Ints) -> list[tuple[np.random.Generator, int, int]]:
        """Return the generators that have strings here, each with where these begin and end."""
        ends = np.bincount(owners, minlength=len(self._generators)).cumsum().tolist()
        return [
            (generator, begin, end)
            for generator, begin, end in zip(self._generators, [0, *ends], ends, strict=False)
            if end > begin
        ]
