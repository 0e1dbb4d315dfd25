"""The public reduction: every sequence to one state, one batched merge per level of the tree."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ldru_kernels.checks import check_identity, check_inputs, check_lengths
from ldru_kernels.frontier import follow, plan_for, run
from ldru_kernels.schedule import build_schedule, needs_padding, share_subtrees
from ldru_kernels.weights import MergeWeights, check_weights


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
    counted = check_inputs(leaves, weights, lengths, dropout)
    check_identity(weights, lone_node)
    plan = plan_for(build_schedule, counted, leaves.shape[1], leaves.device, lone_node=lone_node)
    return run(plan, _with_padding(leaves.flatten(0, 1), weights, lone_node), weights, dropout)


def tree_reduce_tokens(
    table: Tensor,
    tokens: Tensor,
    weights: MergeWeights,
    *,
    lengths: Tensor | None = None,
    lone_node: str = "zero_left",
) -> Tensor:
    """Combine every sequence to one state where a leaf depends on its token alone.

    The same as ``tree_reduce(table[tokens], ...)`` to rounding, but equal subtrees of a batch are
    merged once and collect the gradients of all their places. There is no dropout: it would have
    to fall on all places of a subtree alike.

    Args:
        table: leaf state of every token, [V, E], floating point.
        tokens: int64 [B, T], each in 0..V-1, B >= 1, T >= 1; those beyond a length are not read.
        weights: of the same E, dtype and device.
        lengths: as in `tree_reduce`.
        lone_node: as in `tree_reduce`.

    Returns:
        Root states, [B, E], in the dtype of ``table``.

    Raises:
        ValueError: as `tree_reduce` does, and for a token that the table has no row for.
    """
    if table.dim() != 2 or not table.is_floating_point() or 0 in table.shape:
        raise ValueError(
            f"table: shape {list(table.shape)}, {table.dtype}; need floating point [V, E]."
        )
    if tokens.dim() != 2 or tokens.dtype != torch.int64 or 0 in tokens.shape:
        raise ValueError(f"tokens: shape {list(tokens.shape)}, {tokens.dtype}; need int64 [B, T].")
    check_weights(weights, table)
    check_identity(weights, lone_node)
    counted = check_lengths(lengths, *tokens.shape)
    num_symbols, num_tokens = len(table), tokens.shape[1]
    symbols = tokens.cpu()
    is_read = torch.arange(num_tokens) < torch.tensor(counted)[:, None]
    if not bool(((symbols >= 0) & (symbols < num_symbols))[is_read].all()):
        raise ValueError(
            f"tokens: from {int(symbols[is_read].min())} to {int(symbols[is_read].max())}; "
            f"the table has rows 0 to {num_symbols - 1}."
        )
    with torch.inference_mode(mode=False):
        schedule = build_schedule(counted, num_tokens, lone_node)
        # the padding element comes after the leaves, as it comes after the symbols
        padding = torch.full((int(needs_padding(lone_node)),), num_symbols)
        inputs = torch.cat([symbols.flatten(), padding])
        shared = share_subtrees(schedule, inputs, num_symbols + len(padding))
        plan = follow(shared).to(table.device)
    return run(plan, _with_padding(table, weights, lone_node), weights, 0.0)


def _with_padding(states: Tensor, weights: MergeWeights, lone_node: str) -> Tensor:
    """Append the element that lone nodes merge with to [N, E], where the rule has one."""
    if not needs_padding(lone_node):
        return states
    if weights.identity is not None:
        return torch.cat([states, weights.identity[None]])
    return F.pad(states, (0, 0, 0, 1))
