"""The public reduction: every sequence to one state."""

from __future__ import annotations

import torch
from torch import Tensor

from ldru_kernels.checks import check_identity, check_inputs
from ldru_kernels.frontend import Execution, padding, run
from ldru_kernels.levels import needs_padding
from ldru_kernels.ops import tokens_plan, tree_plan
from ldru_kernels.weights import MergeWeights, check_weights


def tree_reduce(
    leaves: Tensor,
    weights: MergeWeights,
    *,
    lengths: Tensor | None = None,
    lone_node: str = "zero_left",
    dropout: float = 0.0,
    precision: str | None = None,
    backend: str = "auto",
    recompute: bool | None = None,
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
        dropout: probability of zeroing a feature of a parent state, in [0, 1). The seed is drawn
            from torch's generator; 0, as in evaluation, draws nothing.
        precision: of the factors of matrix products, whose sums are float32 or wider: "ieee" does
            not round float32, "tf32" rounds to 10 bits where the GPU's matrix units do (elsewhere
            it is "ieee"), "bf16" to 7 bits. None: half-precision leaves as they are, float32 as
            `torch.set_float32_matmul_precision` says.
        backend: "torch", "triton", or "auto" for the faster one by measurement.
        recompute: whether the backward pass computes hidden layers again instead of keeping
            them: memory of a few states per token instead of about sixteen, at 4/3 of the products.
            None keeps them up to 1 GiB.

    Returns:
        Root states, [B, E] or [P, B, E], in the dtype of ``leaves`` (under autocast, its dtype).

    Raises:
        ValueError: a shape, dtype or device disagrees (the message names the odd one out), a length
            is not in 1..T, the rule or the operator is unknown, the identity element is missing
            or superfluous, or the backend cannot take the call.

    Source: arXiv 2605.26035, section 3.
    """
    check_inputs(leaves, weights, dropout)
    check_identity(weights, lone_node)
    trees = leaves if leaves.dim() == 4 else leaves[None]
    plan = tree_plan(lengths, trees, lone_node)
    states = trees.flatten(1, 2)
    extra = padding(weights, states) if needs_padding(lone_node) else None
    roots = run(plan, states, extra, weights, Execution(dropout, precision, backend, recompute))
    return roots if leaves.dim() == 4 else roots[0]


def tree_reduce_tokens(
    table: Tensor,
    tokens: Tensor,
    weights: MergeWeights,
    *,
    lengths: Tensor | None = None,
    lone_node: str = "zero_left",
    precision: str | None = None,
    backend: str = "auto",
    recompute: bool | None = None,
) -> Tensor:
    """Combine every sequence to one state where a leaf depends on its token alone.

    The same as ``tree_reduce(table[tokens], ...)`` to rounding, but equal subtrees of a batch are
    merged once and collect the gradients of all their places. There is no dropout: it would have
    to fall on all places of a subtree alike.

    Args:
        table: leaf state of every token, [V, E], floating point; of a population, [P, V, E].
        tokens: int64 [B, T], each in 0..V-1, B >= 1, T >= 1; those beyond a length are not read.
            Members of a population share them.
        weights: of the same E, dtype and device; for a population, [P, ...] each.
        lengths: as in `tree_reduce`.
        lone_node: as in `tree_reduce`.
        precision: as in `tree_reduce`.
        backend: as in `tree_reduce`.
        recompute: as in `tree_reduce`.

    Returns:
        Root states, [B, E] or [P, B, E], in the dtype of ``table`` (under autocast, its dtype).

    Raises:
        ValueError: as `tree_reduce` does, and for a token that the table has no row for.
    """
    if table.dim() not in (2, 3) or not table.is_floating_point() or 0 in table.shape:
        raise ValueError(
            f"table: shape {list(table.shape)}, {table.dtype}; need floating point [V, E], "
            "or [P, V, E] for a population."
        )
    if tokens.dim() != 2 or tokens.dtype != torch.int64 or 0 in tokens.shape:
        raise ValueError(f"tokens: shape {list(tokens.shape)}, {tokens.dtype}; need int64 [B, T].")
    check_weights(weights, table, population=table.shape[0] if table.dim() == 3 else None)
    check_identity(weights, lone_node)
    states = table if table.dim() == 3 else table[None]
    plan = tokens_plan(lengths, tokens, states.shape[1], lone_node, table.device)
    extra = padding(weights, states) if needs_padding(lone_node) else None
    roots = run(plan, states, extra, weights, Execution(0.0, precision, backend, recompute))
    return roots if table.dim() == 3 else roots[0]
