"""Matrix products of a batch of merges: what their factors are rounded to, and who computes them.

PyTorch leaves float32 products on a CPU to MKL, which does not use AVX-512 on processors of other
makers. oneDNN, which PyTorch has too and its compiler calls, does: kernels/README.md has figures.
Its results are fresh tensors, which are copied to where they belong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# multiplications from which oneDNN's higher cost per call pays, read off the same figures. It has
# to transpose a factor of x^T d first, for which a matrix as narrow as _NARROW is not worth it
_FEWEST, _FEWEST_OUTER, _NARROW = 2**22, 2**23, 64
# oneDNN makes and keeps code for every number of rows that it meets: it gets multiples of so many,
# and what is left over, which is little, goes to MKL. Where equal subtrees are merged once every
# step has other numbers of rows
_ROWS = 128


@dataclass(frozen=True)
class Products:
    """Matrix products whose operands are first rounded to ``operands``, accumulated exactly.

    None rounds nothing. Half-precision operands give float32 results. Weights are rounded already.
    All tensors have a leading population P.
    """

    operands: torch.dtype | None

    def round(self, x: Tensor) -> Tensor:
        """Return an operand as the products see it."""
        if self.operands is None or x.dtype == self.operands:
            return x
        # a CPU has no half-precision product with float32 results: the rounded numbers, as float32
        return x.to(self.operands) if x.is_cuda else x.to(self.operands).to(x.dtype)

    def affine(
        self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, *, relu: bool = False
    ) -> Tensor:
        """Write ``x @ weight + bias``, or the relu of it, to ``out``."""
        if self.operands is not None:
            torch.add(_wide_product(self.round(x), weight), bias, out=out)
            return out.relu_() if relu else out
        num_fast = _rows_for_onednn(x, weight.shape[2], _FEWEST)
        if num_fast:
            for into, rows, matrix, vector in zip(out, x, weight, bias, strict=True):
                fast = _linear(rows[:num_fast], matrix.mT, vector[0], relu=relu)
                into[:num_fast].copy_(fast)
        if num_fast < x.shape[1]:
            rest = torch.baddbmm(bias, x[:, num_fast:], weight, out=out[:, num_fast:])
            if relu:
                rest.relu_()
        return out

    def back(self, d: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        """Write ``d @ weight^T`` to ``out``."""
        if self.operands is not None:
            return out.copy_(_wide_product(self.round(d), weight.mT))
        num_fast = _rows_for_onednn(d, weight.shape[1], _FEWEST)
        if num_fast:
            for into, rows, matrix in zip(out, d, weight, strict=True):
                into[:num_fast].copy_(_linear(rows[:num_fast], matrix))
        if num_fast < d.shape[1]:
            torch.bmm(d[:, num_fast:], weight.mT, out=out[:, num_fast:])
        return out

    def outer(self, x: Tensor, d: Tensor, into: Tensor, *, adds: bool) -> None:
        """Write ``x^T d`` to the gradient of a matrix, or add it."""
        num_rows, num_columns = into.shape[1:]
        if self.operands is not None:
            found = _wide_product(self.round(x).mT, self.round(d))
            into.add_(found) if adds else into.copy_(found)
            return
        num_fast = 0
        if max(num_rows, num_columns) > _NARROW:
            num_fast = _rows_for_onednn(x, num_columns, _FEWEST_OUTER)
        if num_fast:
            factors = zip(x[:, :num_fast], d[:, :num_fast], strict=True)
            found = torch.stack([_outer(*pair) for pair in factors])
            into.add_(found) if adds else into.copy_(found)
            adds = True
        if num_fast == x.shape[1]:
            return
        if adds:
            into.baddbmm_(x[:, num_fast:].mT, d[:, num_fast:])
        else:
            torch.bmm(x.mT, d, out=into)


def _wide_product(x: Tensor, y: Tensor) -> Tensor:
    if x.is_cuda and x.dtype in (torch.bfloat16, torch.float16):
        wide: Tensor = torch.bmm(x, y, out_dtype=torch.float32)
        return wide
    return torch.bmm(x, y)


def _rows_for_onednn(x: Tensor, num_columns: int, fewest: int) -> int:
    """Return how many rows of x [P, n, in], the first ones, oneDNN is to multiply."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or not has_onednn():
        return 0
    num_rows = x.shape[1] // _ROWS * _ROWS
    return num_rows if len(x) * num_rows * x.shape[2] * num_columns >= fewest else 0


@lru_cache(maxsize=1)
def has_onednn() -> bool:
    """Whether PyTorch has oneDNN's products here, and they use AVX-512."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Return ``x @ weight^T + bias``, or the relu of it."""
    op: Any = torch.ops.mkldnn._linear_pointwise
    found: Tensor = op(x, weight, bias, "relu" if relu else "none", [], "")
    return found


def _outer(x: Tensor, d: Tensor) -> Tensor:
    """Return ``x^T d``; the narrower factor is what has to be transposed."""
    if d.shape[1] < x.shape[1]:
        return _linear(d.mT, x.mT).mT
    return _linear(x.mT, d.mT)
