"""The public reduction: every sequence to one state, one batched merge per level of the tree."""

from __future__ import annotations

import torch
from torch import Tensor

from ldru_kernels.checks import check_inputs
from ldru_kernels.frontier import plan_for, run
from ldru_kernels.schedule import build_schedule, needs_padding
from ldru_kernels.weights import MergeWeights


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
    if (weights.identity is None) == (lone_node == "identity"):
        has = "no" if weights.identity is None else "an"
        raise ValueError(f"weights.identity: lone_node '{lone_node}' with {has} identity element.")
    plan = plan_for(build_schedule, counted, leaves.shape[1], leaves.device, lone_node=lone_node)
    inputs = leaves.flatten(0, 1)
    if needs_padding(lone_node):
        extra = leaves.new_zeros(1, leaves.shape[2])
        if weights.identity is not None:
            extra = weights.identity[None]
        inputs = torch.cat([inputs, extra])
    return run(plan, inputs, weights, dropout)
