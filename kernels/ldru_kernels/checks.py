"""What every public op refuses, with one message each."""

from __future__ import annotations

import torch
from torch import Tensor

from ldru_kernels.weights import MergeWeights, check_weights


def check_inputs(
    leaves: Tensor, weights: MergeWeights, lengths: Tensor | None, dropout: float
) -> list[int]:
    """Return the length of every sequence.

    Raises:
        ValueError: for the first argument that is out of line.
    """
    if leaves.dim() != 3 or not leaves.is_floating_point() or 0 in leaves.shape:
        raise ValueError(
            f"leaves: shape {list(leaves.shape)}, {leaves.dtype}; "
            "need floating point [B, T, E] with no empty side."
        )
    check_weights(weights, leaves)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: {dropout} is not in [0, 1).")
    return check_lengths(lengths, *leaves.shape[:2])


def check_lengths(lengths: Tensor | None, batch: int, num_tokens: int) -> list[int]:
    """Return the length of every sequence of [B, T], T where ``lengths`` is None.

    Raises:
        ValueError: wrong shape or dtype, or a length is not in 1..T.
    """
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
    for what, found, wanted in (
        ("shape", list(root.shape), [leaves.shape[-1]]),
        ("dtype", root.dtype, leaves.dtype),
        ("device", root.device, leaves.device),
    ):
        if found != wanted:
            raise ValueError(f"root: {what} {found}, but these leaves need {wanted}.")
