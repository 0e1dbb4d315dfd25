"""Many batches drawn at once: what each of them is does not depend on the others.

An operation on the few hundred numbers of one batch costs little more than its call; on those of
many batches side by side the calls cost nothing.
Shapes: B batch, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ldru_study.tasks.automaton import Ints, Symbols
from ldru_study.tasks.streams import Streams


class DrawnTogether(ABC):
    """A sampler that can draw the strings of several generators side by side."""

    def sample(self, lengths: Ints, rng: np.random.Generator) -> tuple[Symbols, Ints]:
        """Draw one string of each length, and its label.

        Args:
            lengths: int64 [B], each >= 1.
            rng: drawn from as often as it takes.

        Returns:
            tokens uint8 [B, T], zero beyond a string's length, where T is the longest length; and
            labels int64 [B].
        """
        return self._draw(lengths, Streams([rng]), np.zeros(len(lengths), dtype=np.int64))

    def sample_each(
        self, lengths: Sequence[Ints], generators: Sequence[np.random.Generator]
    ) -> list[tuple[Symbols, Ints]]:
        """Return what `sample` returns for each of ``lengths`` with its own generator, bit for bit.

        Args:
            lengths: int64 [B] each, B >= 1; B may differ.
            generators: one for each.
        """
        longest = [int(one.max()) for one in lengths]
        # longest first: walks leave out what has ended at the end
        order = sorted(range(len(lengths)), key=lambda number: -longest[number])
        sizes = [len(lengths[number]) for number in order]
        tokens, labels = self._draw(
            np.concatenate([lengths[number] for number in order]),
            Streams([generators[number] for number in order]),
            np.repeat(np.arange(len(order)), sizes),
        )
        ends = np.cumsum(sizes)
        found = {
            number: (tokens[end - size : end, : longest[number]], labels[end - size : end])
            for number, size, end in zip(order, sizes, ends.tolist(), strict=True)
        }
        return [found[number] for number in range(len(lengths))]

    @abstractmethod
    def _draw(self, lengths: Ints, streams: Streams, owners: Ints) -> tuple[Symbols, Ints]:
        """Draw as `sample` does, each string from the stream that ``owners``, [B], tells."""


def num_walking(lengths: Ints) -> list[int]:
    """Return, for each place, after how many strings all others have ended, [T]."""
    counts = np.zeros(int(lengths.max(initial=0)) + 1, dtype=np.int64)
    # of the strings with one length the last one counts
    counts[lengths] = np.arange(1, len(lengths) + 1)
    found: list[int] = np.maximum.accumulate(counts[:0:-1])[::-1].tolist()
    return found


def wipe(tokens: Symbols, lengths: Ints) -> None:
    """Make the symbols beyond each string's length 0 in ``tokens``, [T, B]."""
    tokens *= np.arange(len(tokens))[:, None] < lengths
