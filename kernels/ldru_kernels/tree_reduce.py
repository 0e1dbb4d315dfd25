"""The public reduction: checks, then one batched merge per level of the tree."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ldru_kernels.frontier import plan_for
from ldru_kernels.reference import parent_states
from ldru_kernels.schedule import needs_padding
from ldru_kernels.weights import MergeWeights, check_weights

# elements of one block of pairs: its hidden layers, twice as large, stay in cache. Measured
# at E = 32 and 64: evaluation takes 0.5 to 0.7 of the time without blocks, training 0.75 to 0.95
_CPU_BLOCK = 2**17


def tree_reduce(
    leaves: Tensor,
    weights: MergeWeights,
    *,
    lengths: Tensor | None = None,
    lone_node: str = "zero_left",
    dropout: float = 0.0,
) -> Tensor:
    """Combine every sequence to one state by a balanced tree of merges.

    Only real nodes are merged: sequences of different lengths are packed, never padded. Leaves
    beyond a sequence's length are not read and get gradient 0.

    Args:
        leaves: leaf states, [B, T, E], floating point, B >= 1, T >= 1. T = 1 merges nothing.
        weights: of the same E, dtype and device.
        lengths: tokens that count in each sequence, int64 [B], each in 1..T; None means all T.
        lone_node: what becomes of the last node of a level with an odd count, one of
            `LONE_NODE_RULES`; `ldru_kernels.schedule.build_schedule` defines them.
        dropout: probability of zeroing a feature of a parent state, in [0, 1). Drawn from torch's
            generator; 0, as in evaluation, draws nothing.

    Returns:
        Root states, [B, E], in the dtype of ``leaves``.

    Raises:
        ValueError: a shape, dtype or device disagrees (the message names the odd one out), a length
            is not in 1..T, the rule or the operator is unknown, or the identity element is missing
            or superfluous.

    Source: arXiv 2605.26035, section 3.
    """
    counted = _checked(leaves, weights, lengths, lone_node, dropout)
    plan = plan_for(counted, leaves.shape[1], lone_node, leaves.device)
    frontier = leaves.flatten(0, 1)
    if needs_padding(lone_node):
        extra = leaves.new_zeros(1, leaves.shape[2])
        if weights.identity is not None:
            extra = weights.identity[None]
        frontier = torch.cat([frontier, extra])
    for step in plan.steps:
        # an embedding lookup, because its backward pass is deterministic on every device
        read = F.embedding(step.reads, frontier)
        kept, children = read[: step.num_kept], read[step.num_kept :]
        pairs = children.view(-1, 2 * leaves.shape[2])
        frontier = torch.cat([kept, *_parent_blocks(pairs, weights, dropout)])
    return F.embedding(plan.roots, frontier)


def _parent_blocks(pairs: Tensor, weights: MergeWeights, dropout: float) -> list[Tensor]:
    """Return the states of all parents, [N, E], in one or more blocks of rows."""
    num_rows = len(pairs)
    if pairs.device.type == "cpu":
        num_rows = max(1, _CPU_BLOCK // pairs.shape[1])
    return [parent_states(block, weights, dropout) for block in torch.split(pairs, num_rows)]


def _checked(
    leaves: Tensor,
    weights: MergeWeights,
    lengths: Tensor | None,
    lone_node: str,
    dropout: float,
) -> list[int]:
    """Return the lengths, or raise ValueError for the first argument that is out of line."""
    if leaves.dim() != 3 or not leaves.is_floating_point() or 0 in leaves.shape:
        raise ValueError(
            f"leaves: shape {list(leaves.shape)}, {leaves.dtype}; "
            "need floating point [B, T, E] with no empty side."
        )
    check_weights(weights, leaves)
    if (weights.identity is None) == (lone_node == "identity"):
        has = "no" if weights.identity is None else "an"
        raise ValueError(f"weights.identity: lone_node '{lone_node}' with {has} identity element.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: {dropout} is not in [0, 1).")
    batch, num_tokens, _ = leaves.shape
    if lengths is None:
        return [num_tokens] * batch
    if lengths.shape != (batch,) or lengths.dtype != torch.int64:
        raise ValueError(
            f"lengths: shape {list(lengths.shape)}, {lengths.dtype}; need int64 [{batch}]."
        )
    counted: list[int] = lengths.tolist()
    if min(counted) < 1 or max(counted) > num_tokens:
        raise ValueError(
            f"lengths: from {min(counted)} to {max(counted)}; leaves hold 1 to {num_tokens} tokens."
        )
    return counted
