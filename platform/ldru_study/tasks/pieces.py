"""Long strings handed out piece by piece, of samplers that can only draw them whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldru_study.tasks.automaton import Ints, Symbols
from ldru_study.tasks.together import DrawnTogether


class DrawnWhole(DrawnTogether):
    """A sampler whose strings look at their whole length, such as those that turn somewhere."""

    def stream(
        self, length: int, num_strings: int, rng: np.random.Generator, size: int
    ) -> tuple[Ints, Iterator[Symbols]]:
        """Draw what `sample` draws for strings of one length, and hand it out piece by piece.

        Args:
            length: T.
            num_strings: B; all their tokens are held, a byte each.
            rng: as in `sample`.
            size: tokens of a piece, >= 1.

        Returns:
            labels int64 [B], and pieces uint8 [B, size], the last one what is left.
        """
        tokens, labels = self.sample(np.full(num_strings, length), rng)
        return labels, (tokens[:, start : start + size] for start in range(0, length, size))
