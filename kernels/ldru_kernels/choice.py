"""Which backend runs a call, in which precision, and whether hidden layers are kept."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("auto", "torch", "triton")
PRECISIONS = ("bf16", "ieee", "tf32")

# forward and backward pass of both backends, measured side by side
TABLE = "measured.json"
_WIDEST = 128

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


def choose_backend(
    backend: str,
    operator: str,
    leaves: Tensor,
    operands: str,
    size: int,
    *,
    node_noise: float = 0.0,
) -> str:
    """Return "torch" or "triton".

    "auto" is the faster one where both were measured on the same kind of device, in the same
    precision and at the same E, at the nearest number of merges; elsewhere it is "torch".

    Args:
        backend: one of `BACKENDS`.
        operator: its name.
        leaves: [P, N, E], of the dtype that is computed in.
        operands: of `choose_operands`.
        size: P M, the number of merges.
        node_noise: standard deviation of the noise on parents.

    Raises:
        ValueError: no backend has this name, or Triton is asked for what it does not take.
    """
    if backend not in BACKENDS:
        raise ValueError(
            f"backend: no backend is called '{backend}'. Known: {', '.join(BACKENDS)}."
        )
    if backend == "auto":
        if leaves.device.type != "cuda" or why_not_triton(operator, leaves, node_noise):
            return "torch"
        device = torch.cuda.get_device_name(leaves.device)
        faster: str = _faster(device, operands, leaves.shape[2], size)
        return faster
    if backend == "triton":
        reason = why_not_triton(operator, leaves, node_noise)
        if reason:
            raise ValueError(f"backend: 'triton' {reason}; use 'torch' or 'auto'.")
    return backend


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def why_not_triton(operator: str, leaves: Tensor, node_noise: float = 0.0) -> str:
    """Return why the Triton backend cannot take a call, or nothing."""
    width = leaves.shape[2]
    if operator != "mlp":
        return f"knows operator 'mlp' and not '{operator}'"
    if node_noise:
        return f"draws no noise, and node_noise is {node_noise:g}"
    if leaves.dtype == torch.float64:
        return "computes in float32, and the leaves are float64"
    if width % 16 or width > _WIDEST:
        return f"takes E in multiples of 16 up to {_WIDEST}, and this is {width}"
    if find_spec("triton") is None:
        return "needs the package triton, which is not installed"
    if leaves.device.type != "cuda":
        from ldru_kernels.triton_path import interprets

        if not interprets():
            return (
                f"needs a CUDA device, and the leaves are on {leaves.device.type} (with "
                "TRITON_INTERPRET=1 in the environment from the start it runs there, slowly)"
            )
    return ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _faster(device: str, operands: str, width: int, size: int) -> str:
    def distance(row: dict[str, Any]) -> float:
        return abs(math.log2(row["merges"]) - math.log2(max(size, 1)))

    rows = [
        row
        for row in _measured()
        if (row["device"], row["operands"], row["width"]) == (device, operands, width)
    ]
    if not rows:
        return "torch"
    nearest = min(rows, key=distance)
    return "triton" if nearest["triton_ms"] < nearest["torch_ms"] else "torch"


@lru_cache(maxsize=1)
def _measured() -> list[dict[str, Any]]:
    """Return the rows that `python -m ldru_kernels.bench --write-table` wrote."""
    rows: list[dict[str, Any]] = json.loads(files("ldru_kernels").joinpath(TABLE).read_text())
    return rows


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
