"""What every public op refuses, with one message each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ldru_kernels.weights import MergeWeights, check_weights


def check_inputs(
    leaves: Tensor, weights: MergeWeights, dropout: float, node_noise: float = 0.0
) -> None:
    """Refuse leaves, weights, a dropout or a noise that no op can take.

    Raises:
        ValueError: for the first argument that is out of line.
    """
    if leaves.dim() not in (3, 4) or not leaves.is_floating_point() or 0 in leaves.shape:
        raise ValueError(
            f"leaves: shape {list(leaves.shape)}, {leaves.dtype}; need floating point "
            "[B, T, E], or [P, B, T, E] for a population, with no empty side."
        )
    check_weights(weights, leaves, population=leaves.shape[0] if leaves.dim() == 4 else None)
    check_dropout(dropout)
    check_noise(node_noise)


def check_tokens(
    table: Tensor, tokens: Tensor, weights: MergeWeights, dropout: float, node_noise: float = 0.0
) -> None:
    """Refuse a table, tokens, weights, a dropout or a noise that no op can take.

    Raises:
        ValueError: for the first argument that is out of line.
    """
    if table.dim() not in (2, 3) or not table.is_floating_point() or 0 in table.shape:
        raise ValueError(
            f"table: shape {list(table.shape)}, {table.dtype}; need floating point [V, E], "
            "or [P, V, E] for a population."
        )
    if tokens.dim() != 2 or tokens.dtype != torch.int64 or 0 in tokens.shape:
        raise ValueError(f"tokens: shape {list(tokens.shape)}, {tokens.dtype}; need int64 [B, T].")
    check_weights(weights, table, population=table.shape[0] if table.dim() == 3 else None)
    check_dropout(dropout)
    check_noise(node_noise)


def check_dropout(dropout: float) -> None:
    """Refuse what is no probability of staying alive.

    Raises:
        ValueError: so it is.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: {dropout} is not in [0, 1).")


def check_noise(node_noise: float) -> None:
    """Refuse what is no standard deviation.

    Raises:
        ValueError: so it is.
    """
    if not 0 <= node_noise < math.inf:
        raise ValueError(f"node_noise: {node_noise} is no standard deviation: finite, at least 0.")


def check_offsets(offsets: Sequence[int], num_tokens: int) -> tuple[int, ...]:
    """Return the offsets that say anything about trees of T tokens: up to the last 1.

    Raises:
        ValueError: one is neither 0 nor 1, or a compiler, which would begin anew with each of
            them, meets one.
    """
    if not offsets:
        return ()
    if any(offset not in (0, 1) for offset in offsets):
        raise ValueError(f"offsets: {list(offsets)}; need 0 or 1 for every level.")
    if any(offsets) and torch.compiler.is_compiling():
        raise ValueError("offsets: a compiled graph has none; leave them out, or do not compile.")
    # at most as many levels have more than two nodes
    said = tuple(offsets[: (num_tokens - 1).bit_length()])
    while said and not said[-1]:
        said = said[:-1]
    return said


def check_symbols(symbols: Tensor, num_symbols: int) -> None:
    """Refuse tokens, all of which are read, that a table has no row for.

    Raises:
        ValueError: so it is.
    """
    if torch.compiler.is_compiling():
        # the host may not look; the embedding says it
        return
    low, high = (int(bound) for bound in torch.aminmax(symbols))
    if low < 0 or high >= num_symbols:
        raise ValueError(
            f"tokens: from {low} to {high}; the table has rows 0 to {num_symbols - 1}."
        )


def check_lengths(lengths: Tensor | None, batch: int, num_tokens: int) -> list[int]:
    """Return the length of every sequence of [B, T], T where ``lengths`` is None.

    Raises:
        ValueError: wrong shape or dtype, or a length is not in 1..T.
    """
    if lengths is None:
        return [num_tokens] * batch
    if lengths.shape != (batch,) or lengths.dtype != torch.int64:
        raise ValueError(
            f"lengths: shape {list(lengths.shape)}, {lengths.dtype}; need int64 [{batch}], "
            "which all members of a population share."
        )
    counted: list[int] = lengths.tolist()
    if min(counted) < 1 or max(counted) > num_tokens:
        raise ValueError(
            f"lengths: from {min(counted)} to {max(counted)}; leaves hold 1 to {num_tokens} tokens."
        )
    return counted


def check_identity(weights: MergeWeights, lone_node: str) -> None:
    """Refuse an identity element that the lone-node rule lacks or does not know.

    Raises:
        ValueError: so it is.
    """
    if (weights.identity is None) == (lone_node == "identity"):
        has = "no" if weights.identity is None else "an"
        raise ValueError(f"weights.identity: lone_node '{lone_node}' with {has} identity element.")


def check_root(root: Tensor, leaves: Tensor) -> None:
    """Refuse a root element that is no state like those of ``leaves`` [..., E].

    Raises:
        ValueError: its shape, dtype or device disagrees.
    """
    wanted_shape = [leaves.shape[-1]] if leaves.dim() < 4 else [leaves.shape[0], leaves.shape[-1]]
    for what, found, wanted in (
        ("shape", list(root.shape), wanted_shape),
        ("dtype", root.dtype, leaves.dtype),
        ("device", root.device, leaves.device),
    ):
        if found != wanted:
            raise ValueError(f"root: {what} {found}, but these leaves need {wanted}.")
