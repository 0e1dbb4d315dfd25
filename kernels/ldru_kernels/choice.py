"""Which backend runs a call, in which precision, and whether hidden layers are kept."""

from __future__ import annotations

import torch
from torch import Tensor

BACKENDS = ("auto", "torch", "triton")
PRECISIONS = ("bf16", "ieee", "tf32")

# hidden layers of more bytes than this are computed again in the backward pass
_MOST_KEPT = 2**30

_OWN_OPERANDS = {torch.bfloat16: "bf16", torch.float16: "fp16"}
# torch.set_float32_matmul_precision's words
_OF_MATMUL_PRECISION = {"highest": "ieee", "high": "tf32", "medium": "bf16"}


def choose_operands(precision: str | None, dtype: torch.dtype) -> str:
    """Return what the factors of matrix products are rounded to; sums are float32 or wider.

    Args:
        precision: one of `PRECISIONS`, or None for the dtype's own: half-precision states as they
            are, float32 as `torch.set_float32_matmul_precision` says.
        dtype: of the states.

    Raises:
        ValueError: no precision has this name, or float64 states are to be rounded.
    """
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(
            f"precision: no precision is called '{precision}'. Known: {', '.join(PRECISIONS)}."
        )
    if dtype == torch.float64:
        if precision in ("bf16", "tf32"):
            raise ValueError(f"precision: '{precision}' would round float64 leaves; use 'ieee'.")
        return "ieee"
    if precision is None:
        return (
            _OWN_OPERANDS.get(dtype) or _OF_MATMUL_PRECISION[torch.get_float32_matmul_precision()]
        )
    return precision


def choose_backend(backend: str, leaves: Tensor, operator: str) -> str:
    """Return "torch" or "triton".

    Args:
        backend: one of `BACKENDS`.
        leaves: [P, N, E].
        operator: its name.

    Raises:
        ValueError: no backend has this name, or Triton is asked for what it does not take.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"backend: no backend is called '{backend}'. Known: {', '.join(BACKENDS)}."
        )
    return "torch" if backend == "auto" else backend


def keeps_hidden(recompute: bool | None, num_elements: int, dtype: torch.dtype) -> bool:
    """Return whether the backward pass finds the hidden layers instead of computing them again.

    Args:
        recompute: as the caller wants it; None decides by size.
        num_elements: of all hidden layers.
        dtype: that they are kept in.
    """
    if recompute is not None:
        return not recompute
    return num_elements * dtype.itemsize <= _MOST_KEPT
