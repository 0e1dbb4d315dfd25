"""The reduction of sequences that come piece by piece, for evaluation: no gradients, any length."""

from __future__ import annotations

import torch
from torch import Tensor

from ldru_kernels.checks import check_identity, check_lengths, check_tokens
from ldru_kernels.chunks import (
    CHUNK,
    Stretch,
    group_merges,
    join,
    reduce_stretch,
    token_leaves,
)
from ldru_kernels.frontend import Execution, padding, prepare
from ldru_kernels.levels import needs_padding
from ldru_kernels.weights import MergeWeights, operator_name


class StreamingReduction:
    """`tree_reduce_tokens` of sequences whose tokens come piece by piece.

    Holds a state for every chunk of `CHUNK` tokens that it has read, a fraction of a byte a token,
    and a group of chunks while it reads them.

    Args:
        table: as in `tree_reduce_tokens`, without a population.
        weights: the same.
        lengths: of the whole sequences, known from the start, [B], each >= 1.
        lone_node: as in `tree_reduce_tokens`.
        precision: the same.
        backend: the same.

    Raises:
        ValueError: as `tree_reduce_tokens` does.
    """

    def __init__(
        self,
        table: Tensor,
        weights: MergeWeights,
        *,
        lengths: Tensor,
        lone_node: str = "zero_left",
        precision: str | None = None,
        backend: str = "auto",
    ) -> None:
        check_identity(weights, lone_node)
        self.lengths = check_lengths(lengths, len(lengths), int(lengths.max()))
        self.table, self.weights, self.lone_node = table, weights, lone_node
        self.num_tokens = 0
        self._results: list[Tensor] = []
        states = table[None]
        extra = padding(weights, states) if needs_padding(lone_node) else None
        most = group_merges(states, operator_name(weights.operator))
        with torch.no_grad():
            execution = Execution(0.0, precision, backend, recompute=True)
            self._made = prepare(states, extra, weights, execution, most)

    @property
    def piece(self) -> int:
        """Pieces have a multiple of so many tokens, but for the last one."""
        return CHUNK["cpu" if self.table.device.type == "cpu" else "cuda"]

    @torch.no_grad()
    def push(self, tokens: Tensor) -> None:
        """Take the next tokens of every sequence.

        Args:
            tokens: int64 [B, n]; those beyond a length are not read.

        Raises:
            ValueError: a shape disagrees, the piece before had a length that only a last one may
                have, or the table has no row for a token; nothing is changed then.
        """
        check_tokens(self.table, tokens, self.weights, 0.0)
        if len(tokens) != len(self.lengths):
            raise ValueError(
                f"tokens: {len(tokens)} sequences, but there are {len(self.lengths)} of them."
            )
        if self.num_tokens % self.piece:
            raise ValueError(
                f"tokens: more of them after {self.num_tokens}, but pieces before the last one "
                f"have a multiple of {self.piece} tokens."
            )
        stretch = self._stretch(self.num_tokens, tokens.shape[1])
        results = reduce_stretch(
            token_leaves(stretch, tokens, self.table.shape[0], 0.0, is_shared=True), self._made
        )
        self._results.append(results.view(len(tokens), stretch.num_chunks, -1, results.shape[2]))
        self.num_tokens += tokens.shape[1]

    @torch.no_grad()
    def roots(self) -> Tensor:
        """Return the root states, [B, E], when all tokens are there.

        Raises:
            ValueError: some are missing.
        """
        if self.num_tokens < max(self.lengths):
            raise ValueError(
                f"roots: {self.num_tokens} tokens were read, but a sequence has "
                f"{max(self.lengths)}."
            )
        results = torch.cat(self._results, dim=1).flatten(0, 2)[None]
        return join(results, self._stretch(0, self.num_tokens), self._made)[0]

    def _stretch(self, start: int, room: int) -> Stretch:
        height = self.piece.bit_length() - 1
        return Stretch(tuple(self.lengths), self.lone_node, height, start, room)
