"""The public reduction: every sequence to one state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ldru_kernels.checks import (
    check_identity,
    check_inputs,
    check_lengths,
    check_offsets,
    check_symbols,
    check_tokens,
)
from ldru_kernels.chunks import (
    GivenLeaves,
    Stretch,
    chunk_height,
    reduce_in_chunks,
    token_leaves,
    whole,
)
from ldru_kernels.dropout import leaf_numbers, mask, new_seed
from ldru_kernels.frontend import Execution, padding, run
from ldru_kernels.levels import needs_padding
from ldru_kernels.ops import tokens_plan, tree_plan
from ldru_kernels.weights import MergeWeights


def tree_reduce(
    leaves: Tensor,
    weights: MergeWeights,
    *,
    lengths: Tensor | None = None,
    lone_node: str = "zero_left",
    offsets: Sequence[int] = (),
    dropout: float = 0.0,
    node_noise: float = 0.0,
    precision: str | None = None,
    backend: str = "auto",
    recompute: bool | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Combine every sequence to one state by a balanced tree of merges.

    Only real nodes are merged: sequences of different lengths are packed, never padded. Leaves
    beyond a sequence's length are not read and get gradient 0. Gradients repeat to the bit. Under
    autocast, leaves and weights are cast to its dtype.

    Args:
        leaves: leaf states, [B, T, E], floating point, B >= 1, T >= 1. T = 1 merges nothing. A
            population of P models that run side by side takes [P, B, T, E].
        weights: of the same E, dtype and device; for a population, [P, ...] each.
        lengths: tokens that count in each sequence, int64 [B], each in 1..T; None means all T. On
            the CPU they cost no synchronisation.
        lone_node: what becomes of the last node of a level with an odd count, one of
            `LONE_NODE_RULES`; `ldru_kernels.schedule.build_schedule` defines them.
        offsets: where the pairs of each level begin, at node 0 or 1, from the leaves up and for all
            sequences; 0 for the levels that are not named. What becomes of a first node that is
            alone stands there too. Such trees have no chunks. Not in a compiled graph.
        dropout: probability of zeroing a feature of a parent state, in [0, 1). The seed is drawn
            from torch's generator; 0, as in evaluation, draws nothing.
        node_noise: standard deviation of the Gaussian noise that is added to every feature of a
            parent state, the root's too, after dropout. Leaves have none. It is drawn as dropout
            is, and needs the torch backend.
        precision: of the factors of matrix products, whose sums are float32 or wider: "ieee" does
            not round float32, "tf32" rounds to 10 bits where the GPU's matrix units do (elsewhere
            it is "ieee"), "bf16" to 7 bits. None: half-precision leaves as they are, float32 as
            `torch.set_float32_matmul_precision` says.
        backend: "torch", "triton", or "auto" for the faster one by measurement.
        recompute: whether the backward pass computes hidden layers again instead of keeping
            them: memory of a few states per token instead of about sixteen, at 4/3 of the products.
            None keeps them up to 1 GiB.
        chunk: tokens, a power of two, of the chunks whose roots alone are kept when sequences are
            longer; what is below is computed again in the backward pass, group by group, so that
            memory hardly grows with T. Brackets and masks stay the same. None: `chunks.CHUNK` where
            that was measured to pay and ``recompute`` is not False. Not in a compiled graph.

    Returns:
        Root states, [B, E] or [P, B, E], in the dtype of ``leaves`` (under autocast, its dtype).

    Raises:
        ValueError: a shape, dtype or device disagrees (the message names the odd one out), a length
            is not in 1..T, the rule or the operator is unknown, the identity element is missing
            or superfluous, offsets do not go with the rule or with chunks, or the backend cannot
            take the call.

    Source: arXiv 2605.26035, section 3.
    """
    check_inputs(leaves, weights, dropout, node_noise)
    check_identity(weights, lone_node)
    trees = leaves if leaves.dim() == 4 else leaves[None]
    execution = Execution(dropout, precision, backend, recompute, node_noise)
    how = _How(lone_node, lengths, chunk, execution, check_offsets(offsets, leaves.shape[-2]))
    roots = _reduce(trees, weights, how)
    return roots if leaves.dim() == 4 else roots[0]


def tree_reduce_tokens(
    table: Tensor,
    tokens: Tensor,
    weights: MergeWeights,
    *,
    lengths: Tensor | None = None,
    lone_node: str = "zero_left",
    offsets: Sequence[int] = (),
    dropout: float = 0.0,
    node_noise: float = 0.0,
    precision: str | None = None,
    backend: str = "auto",
    recompute: bool | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Combine every sequence to one state where a leaf depends on its token alone.

    The same as ``tree_reduce(table[tokens], ...)`` to rounding, but equal subtrees of a batch are
    merged once and collect the gradients of all their places. With dropout or noise no two places
    are equal, and every leaf is a state of its own.

    Args:
        table: leaf state of every token, [V, E], floating point; of a population, [P, V, E].
        tokens: int64 [B, T], each in 0..V-1, B >= 1, T >= 1; those beyond a length are not read.
            Members of a population share them.
        weights: of the same E, dtype and device; for a population, [P, ...] each.
        lengths: as in `tree_reduce`.
        lone_node: as in `tree_reduce`.
        offsets: as in `tree_reduce`.
        dropout: as in `tree_reduce`, of leaves too.
        node_noise: as in `tree_reduce`, not of leaves.
        precision: as in `tree_reduce`.
        backend: as in `tree_reduce`.
        recompute: as in `tree_reduce`.
        chunk: as in `tree_reduce`; leaf states are made chunk by chunk too, and equal subtrees are
            found among the chunks of a group.

    Returns:
        Root states, [B, E] or [P, B, E], in the dtype of ``table`` (under autocast, its dtype).

    Raises:
        ValueError: as `tree_reduce` does, and for a token that the table has no row for.
    """
    check_tokens(table, tokens, weights, dropout, node_noise)
    check_identity(weights, lone_node)
    execution = Execution(dropout, precision, backend, recompute, node_noise)
    how = _How(lone_node, lengths, chunk, execution, check_offsets(offsets, tokens.shape[1]))
    roots = _reduce_tokens(table if table.dim() == 3 else table[None], tokens, weights, how)
    return roots if table.dim() == 3 else roots[0]


class _How(NamedTuple):
    """The arguments that both ops share."""

    lone_node: str
    lengths: Tensor | None
    chunk: int | None
    execution: Execution
    offsets: tuple[int, ...]

    def height(self, batch: int, num_tokens: int, device: torch.device) -> int | None:
        if self.offsets:
            if self.chunk is not None:
                raise ValueError(
                    "chunk: with offsets, subtrees are not those of chunks; leave one of them out."
                )
            return None
        keeps = self.execution.recompute is False
        return chunk_height(self.chunk, batch, num_tokens, device, keeps=keeps)

    def stretch(self, batch: int, num_tokens: int, height: int) -> Stretch:
        counted = check_lengths(self.lengths, batch, num_tokens)
        is_random = self.execution.is_random
        return whole(counted, num_tokens, self.lone_node, height, is_random=is_random)


def _reduce(trees: Tensor, weights: MergeWeights, how: _How) -> Tensor:
    """Return the roots of leaves [P, B, T, E]."""
    population, batch, num_tokens, _ = trees.shape
    height = how.height(population * batch, num_tokens, trees.device)
    if height is None:
        return _reduce_at_once(trees, weights, how)
    states = trees.flatten(1, 2)
    extra = padding(weights, states) if needs_padding(how.lone_node) else None
    leaves = GivenLeaves(how.stretch(batch, num_tokens, height))
    return reduce_in_chunks(leaves, states, extra, weights, how.execution)


def _reduce_at_once(
    trees: Tensor, weights: MergeWeights, how: _How, seed: Tensor | None = None
) -> Tensor:
    states = trees.flatten(1, 2)
    extra = padding(weights, states) if needs_padding(how.lone_node) else None
    plan = tree_plan(how.lengths, trees, how.lone_node, how.offsets)
    return run(plan, states, extra, weights, how.execution, seed)


def _reduce_tokens(table: Tensor, tokens: Tensor, weights: MergeWeights, how: _How) -> Tensor:
    """Return the roots of tokens [B, T] with a table [P, V, E]."""
    batch, num_tokens = tokens.shape
    population, num_symbols, _ = table.shape
    dropout, is_random = how.execution.dropout, how.execution.is_random
    height = how.height(population * batch, num_tokens, table.device)
    if height is None and is_random:
        seed = new_seed(table.device)
        trees = _own_leaves(table, tokens, how.lengths, dropout, seed)
        return _reduce_at_once(trees, weights, how, seed)
    extra = padding(weights, table) if needs_padding(how.lone_node) else None
    if height is None:
        plan = tokens_plan(
            how.lengths, tokens, num_symbols, how.lone_node, table.device, how.offsets
        )
        return run(plan, table, extra, weights, how.execution)
    stretch = how.stretch(batch, num_tokens, height)
    leaves = token_leaves(stretch, tokens, num_symbols, dropout, is_shared=not is_random)
    return reduce_in_chunks(leaves, table, extra, weights, how.execution)


def _own_leaves(
    table: Tensor, tokens: Tensor, lengths: Tensor | None, dropout: float, seed: Tensor
) -> Tensor:
    """Return a leaf state for every place, [P, B, T, E], with masks of their own if any."""
    batch, num_tokens = tokens.shape
    device, num_symbols = table.device, table.shape[1]
    if lengths is None:
        lengths = torch.full((batch,), num_tokens)
    lengths = lengths.to(device)
    places = torch.arange(num_tokens, device=device)
    is_real = places < lengths[:, None]
    symbols = tokens.to(device).masked_fill(~is_real, 0)
    check_symbols(symbols, num_symbols)
    found = [F.embedding(symbols, of_member) for of_member in table]
    leaves = found[0][None] if len(found) == 1 else torch.stack(found)
    if not dropout:
        return leaves
    numbers = leaf_numbers((lengths.cumsum(0) - lengths)[:, None] + places).flatten()
    kept = mask(seed, len(table), numbers, table.shape[2], dropout, table.dtype)
    return leaves * kept.view(leaves.shape)
