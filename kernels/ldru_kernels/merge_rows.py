"""A batch of merges with its backward pass written out, in plain PyTorch.

`reference.parent_states` says what is computed; here the same steps write into buffers that the
caller may keep, and the vector-Jacobian products read them. kernels/README.md derives them. All
tensors have a leading population P, and n rows: pairs [P, n, 2E], matrices [P, in, out]. "Hidden"
is what a merge computes on its way and its backward pass needs: tensors [P, n, units * E].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ldru_kernels.reference import NORM_EPS

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Products:
    """Matrix products whose operands are first rounded to ``operands``, accumulated exactly.

    None rounds nothing. Half-precision operands give float32 results.
    """

    operands: torch.dtype | None

    def round(self, x: Tensor) -> Tensor:
        """Return an operand as the products see it."""
        if self.operands is None or x.dtype == self.operands:
            return x
        # a CPU has no half-precision product with float32 results: the rounded numbers, as float32
        return x.to(self.operands) if x.is_cuda else x.to(self.operands).to(x.dtype)

    def affine(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        """Write ``x @ weight + bias`` to ``out``; ``weight`` is rounded already."""
        x = self.round(x)
        if x.dtype == out.dtype:
            return torch.baddbmm(bias, x, weight, out=out)
        return torch.add(_wide_product(x, weight), bias, out=out)

    def matmul(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return ``x @ weight``; ``weight`` is rounded already."""
        x = self.round(x)
        return torch.bmm(x, weight) if self.operands is None else _wide_product(x, weight)

    def add_outer(self, into: Tensor, x: Tensor, d: Tensor) -> None:
        """Add ``x^T d`` to the gradient of a matrix."""
        x, d = self.round(x), self.round(d)
        if x.dtype == into.dtype:
            into.baddbmm_(x.mT, d)
        else:
            into.add_(_wide_product(x.mT, d))


def _wide_product(x: Tensor, y: Tensor) -> Tensor:
    if x.is_cuda and x.dtype in (torch.bfloat16, torch.float16):
        wide: Tensor = torch.bmm(x, y, out_dtype=torch.float32)
        return wide
    return torch.bmm(x, y)


class Rows(Protocol):
    """An operator on rows; ``units`` are the widths of its hidden tensors, in multiples of E.

    The last hidden tensor is the merged state.
    """

    @property
    def units(self) -> tuple[int, ...]:
        """Widths of the hidden tensors."""
        ...

    def forward(self, pairs: Tensor, w: Weights, p: Products, hidden: list[Tensor]) -> None:
        """Fill in the hidden tensors."""
        ...

    def backward(
        self, d: Tensor, pairs: Tensor, hidden: list[Tensor], context: Backward, out: Tensor
    ) -> None:
        """Write the gradient of ``pairs`` to ``out``, from that of the merged state.

        Those of the weights go to ``context``.
        """
        ...


class Backward:
    """What the gradients of a block are computed with and added to.

    The upper levels of a tree are small. Their shares of the weights' gradients wait until there
    are enough rows for one product.

    Args:
        weights: rounded as ``products`` does it.
        gradients: to be added to.
        products: how.
        most_rows: that wait; those of one block may be more.
    """

    def __init__(
        self, weights: Weights, gradients: Weights, products: Products, most_rows: int
    ) -> None:
        self.weights, self.gradients, self.products = weights, gradients, products
        self.most_rows = most_rows
        self._outer: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
        self._sums: dict[str, list[Tensor]] = {}
        self._rows = 0

    def affine(self, d: Tensor, x: Tensor, weight: str, bias: str) -> Tensor:
        """Go back through ``x @ weight + bias`` and return the gradient of x.

        Neither d nor x may change afterwards.
        """
        self._outer.setdefault((weight, bias), []).append((x, d))
        return self.products.matmul(d, self.weights[weight].mT)

    def sum(self, d: Tensor, vector: str) -> None:
        """Add the sum of d over its rows to the gradient of a vector; d may not change."""
        self._sums.setdefault(vector, []).append(d)

    def end_block(self, num_rows: int) -> None:
        """Say that a block of so many rows is done."""
        self._rows += num_rows
        if self._rows >= self.most_rows:
            self.flush()

    def flush(self) -> None:
        """Add what waits."""
        for (weight, bias), pairs in self._outer.items():
            x, d = (_joined(list(part)) for part in zip(*pairs, strict=True))
            self.products.add_outer(self.gradients[weight], x, d)
            self.gradients[bias] += d.sum(1, keepdim=True)
        for vector, parts in self._sums.items():
            self.gradients[vector] += _joined(parts).sum(1, keepdim=True)
        self._outer, self._sums, self._rows = {}, {}, 0


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _relu_backward(d: Tensor, positive: Tensor) -> Tensor:
    """Set d to 0 where the relu's result was 0."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(d, positive, 0, grad_input=d)
    return masked


class MlpRows:
    """`weights.Mlp`."""

    units = (2, 4, 2, 1, 1)

    def forward(self, pairs: Tensor, w: Weights, p: Products, hidden: list[Tensor]) -> None:
        """See `Rows`."""
        first, second, gates, total, merged = hidden
        p.affine(pairs, w["w1"], w["b1"], first).relu_()
        p.affine(first, w["w2"], w["b2"], second).relu_()
        p.affine(second, w["w3"], w["b3"], gates)
        p.affine(gates * pairs, w["v"], w["a_left"] + w["a_right"], total)
        p.affine(total, w["w_out"], w["b_out"], merged)

    def backward(
        self, d: Tensor, pairs: Tensor, hidden: list[Tensor], context: Backward, out: Tensor
    ) -> None:
        """See `Rows`."""
        first, second, gates, total, _ = hidden
        d_total = context.affine(d, total, "w_out", "b_out")
        d_values = context.affine(d_total, gates * pairs, "v", "a")
        d_second = context.affine(d_values * pairs, second, "w3", "b3")
        d_first = context.affine(_relu_backward(d_second, second), first, "w2", "b2")
        d_pairs = context.affine(_relu_backward(d_first, first), pairs, "w1", "b1")
        torch.addcmul(d_pairs, d_values, gates, out=out)


class GatedRecursiveCellRows:
    """`weights.GatedRecursiveCell`."""

    units = (4, 4, 1, 1)

    def forward(self, pairs: Tensor, w: Weights, p: Products, hidden: list[Tensor]) -> None:
        """See `Rows`."""
        first, cell, total, merged = hidden
        p.affine(pairs, w["w1"], w["b1"], first)
        p.affine(F.gelu(first), w["w2"], w["b2"], cell)
        left, right = pairs.chunk(2, dim=-1)
        keep_left, keep_right, write, content = cell.chunk(4, dim=-1)
        torch.mul(keep_left.sigmoid(), left, out=total)
        total.addcmul_(keep_right.sigmoid(), right).addcmul_(write.sigmoid(), content)
        _norm(total, w["norm_weight"], w["norm_bias"], merged)

    def backward(
        self, d: Tensor, pairs: Tensor, hidden: list[Tensor], context: Backward, out: Tensor
    ) -> None:
        """See `Rows`."""
        first, cell, total, _ = hidden
        d_total = _norm_backward(d, total, "norm_weight", "norm_bias", context)
        left, right = pairs.chunk(2, dim=-1)
        *gates, content = cell.chunk(4, dim=-1)
        opened = [gate.sigmoid() for gate in gates]
        d_gates = [
            d_total * value * is_open * (1 - is_open)
            for value, is_open in zip((left, right, content), opened, strict=True)
        ]
        d_cell = torch.cat([*d_gates, d_total * opened[2]], dim=-1)
        d_active = context.affine(d_cell, F.gelu(first), "w2", "b2")
        d_first: Tensor = torch.ops.aten.gelu_backward(d_active, first)
        d_pairs = context.affine(d_first, pairs, "w1", "b1")
        torch.add(d_pairs, torch.cat([d_total * opened[0], d_total * opened[1]], dim=-1), out=out)


class GatedSumRows:
    """`weights.GatedSum`."""

    units = (1, 1)

    def forward(self, pairs: Tensor, w: Weights, p: Products, hidden: list[Tensor]) -> None:
        """See `Rows`."""
        gate, merged = hidden
        p.affine(pairs, w["weight"], w["bias"], gate).sigmoid_()
        left, right = pairs.chunk(2, dim=-1)
        torch.lerp(right, left, gate, out=merged)

    def backward(
        self, d: Tensor, pairs: Tensor, hidden: list[Tensor], context: Backward, out: Tensor
    ) -> None:
        """See `Rows`."""
        gate, _ = hidden
        left, right = pairs.chunk(2, dim=-1)
        d_gate = d * (left - right) * gate * (1 - gate)
        d_pairs = context.affine(d_gate, pairs, "weight", "bias")
        torch.add(d_pairs, torch.cat([d * gate, d * (1 - gate)], dim=-1), out=out)


class LinearRows:
    """`weights.Linear`."""

    units = (1,)

    def forward(self, pairs: Tensor, w: Weights, p: Products, hidden: list[Tensor]) -> None:
        """See `Rows`."""
        p.affine(pairs, w["weight"], w["bias"], hidden[0])

    def backward(
        self, d: Tensor, pairs: Tensor, hidden: list[Tensor], context: Backward, out: Tensor
    ) -> None:
        """See `Rows`."""
        out.copy_(context.affine(d, pairs, "weight", "bias"))


class ElementwiseSumRows:
    """`weights.ElementwiseSum`."""

    units = (1,)

    def forward(self, pairs: Tensor, w: Weights, p: Products, hidden: list[Tensor]) -> None:
        """See `Rows`."""
        left, right = pairs.chunk(2, dim=-1)
        torch.add(left, right, out=hidden[0])

    def backward(
        self, d: Tensor, pairs: Tensor, hidden: list[Tensor], context: Backward, out: Tensor
    ) -> None:
        """See `Rows`."""
        torch.cat([d, d], dim=-1, out=out)


ROWS: dict[str, Rows] = {
    "elementwise_sum": ElementwiseSumRows(),
    "gated_sum": GatedSumRows(),
    "grc": GatedRecursiveCellRows(),
    "linear": LinearRows(),
    "mlp": MlpRows(),
}


def hidden_units(operator: str) -> tuple[int, ...]:
    """Return the widths of what `parents` fills in, in multiples of E."""
    return (*ROWS[operator].units, 4, 1)


def parents(
    operator: str, pairs: Tensor, w: Weights, p: Products, hidden: list[Tensor], out: Tensor | None
) -> None:
    """Fill in the hidden tensors, and ``out`` [P, n, E] with the parents before dropout."""
    *own, active, summed = hidden
    ROWS[operator].forward(pairs, w, p, own)
    p.affine(own[-1], w["node_ffn.w1"], w["node_ffn.b1"], active).relu_()
    p.affine(active, w["node_ffn.w2"], w["node_ffn.b2"], summed).add_(own[-1])
    if out is not None:
        _norm(summed, w["node_norm.weight"], w["node_norm.bias"], out)


def parents_backward(
    operator: str,
    d: Tensor,
    pairs: Tensor,
    hidden: list[Tensor],
    context: Backward,
    out: Tensor,
) -> None:
    """Write the gradient of the pairs to ``out``, [P, n, 2E], the weights' to ``context``."""
    *own, active, summed = hidden
    d_summed = _norm_backward(d, summed, "node_norm.weight", "node_norm.bias", context)
    d_active = context.affine(d_summed, active, "node_ffn.w2", "node_ffn.b2")
    d_active = _relu_backward(d_active, active)
    d_merged = context.affine(d_active, own[-1], "node_ffn.w1", "node_ffn.b1")
    ROWS[operator].backward(d_merged.add_(d_summed), pairs, own, context, out)
    context.end_block(pairs.shape[1])


def _norm(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    normed = F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
    torch.addcmul(bias, normed, weight, out=out)


def _norm_backward(d: Tensor, x: Tensor, weight: str, bias: str, context: Backward) -> Tensor:
    """Go back through a layer norm and return the gradient of x."""
    normed, mean, scale = torch.native_layer_norm(x, x.shape[-1:], None, None, NORM_EPS)
    context.sum(d * normed, weight)
    context.sum(d, bias)
    d_normed = d * context.weights[weight]
    d_x: Tensor = torch.ops.aten.native_layer_norm_backward(
        d_normed, x, x.shape[-1:], mean, scale, None, None, [True, False, False]
    )[0]
    return d_x
