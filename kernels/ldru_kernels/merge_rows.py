"""A batch of merges with its backward pass written out, in plain PyTorch.

`reference.parent_states` says what is computed; here the same steps write into buffers by name, and
the vector-Jacobian products read them. kernels/README.md derives them. All tensors have a leading
population P, and n rows: pairs [P, n, 2E], matrices [P, in, out]. "Hidden" is what a merge computes
on its way and its backward pass needs, "scratch" the gradients on the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ldru_kernels.formulas import NORM_EPS
from ldru_kernels.operators import FORMULAS, Formula
from ldru_kernels.products import Products

Weights = dict[str, Tensor]
# the rows at hand by name, [P, n, units * E] each
Rows = dict[str, Tensor]


class Affine(NamedTuple):
    """A matrix and its bias, and the rows of its input and of the gradient of its output."""

    weight: str
    bias: str
    x: str
    d: str


class Operator(NamedTuple):
    """An operator on rows.

    ``hidden`` and ``scratch`` give widths in multiples of E. ``forward`` fills in the hidden rows
    from "pairs", at last "merged". ``prepare`` adds rows that the backward pass needs and that
    depend on no gradient. ``backward`` writes the gradient of the pairs to its last argument, from
    "d_merged", and leaves in the scratch rows what ``affine`` names. ``sums`` names rows whose
    product sums up to the gradient of a vector. ``gradients`` gives those of all weights instead.
    """

    hidden: dict[str, int]
    scratch: dict[str, int]
    affine: tuple[Affine, ...]
    sums: dict[str, tuple[str, ...]]
    forward: Callable[[Rows, Weights, Products], None]
    prepare: Callable[[Rows], None]
    backward: Callable[[Rows, Weights, Products, Tensor], None]
    gradients: Callable[[Rows, Weights], Weights] | None = None


def _mlp(x: Rows, w: Weights, p: Products) -> None:
    p.affine(x["pairs"], w["w1"], w["b1"], x["first"], relu=True)
    p.affine(x["first"], w["w2"], w["b2"], x["second"], relu=True)
    p.affine(x["second"], w["w3"], w["b3"], x["gates"])
    p.affine(x["gates"] * x["pairs"], w["v"], w["b"], x["merged"])


def _mlp_prepare(x: Rows) -> None:
    x["values"] = x["gates"] * x["pairs"]


def _mlp_backward(x: Rows, w: Weights, p: Products, out: Tensor) -> None:
    d_values = p.back(x["d_merged"], w["v"], x["d_values"])
    torch.mul(d_values, x["pairs"], out=x["d_gates"])
    _mask(p.back(x["d_gates"], w["w3"], x["d_second"]), x["second"])
    _mask(p.back(x["d_second"], w["w2"], x["d_first"]), x["first"])
    p.back(x["d_first"], w["w1"], out).addcmul_(d_values, x["gates"])


def _grc(x: Rows, w: Weights, p: Products, *, gelu: str) -> None:
    p.affine(x["pairs"], w["w1"], w["b1"], x["first"])
    p.affine(F.gelu(x["first"], approximate=gelu), w["w2"], w["b2"], x["cell"])
    left, right = x["pairs"].chunk(2, dim=-1)
    keep_left, keep_right, write, content = x["cell"].chunk(4, dim=-1)
    total = torch.mul(keep_left.sigmoid(), left, out=x["total"])
    total.addcmul_(keep_right.sigmoid(), right).addcmul_(write.sigmoid(), content)
    normed = F.layer_norm(total, total.shape[-1:], eps=NORM_EPS)
    torch.addcmul(w["norm_bias"], normed, w["norm_weight"], out=x["merged"])


def _grc_prepare(x: Rows, *, gelu: str) -> None:
    x["active"] = F.gelu(x["first"], approximate=gelu)
    _prepare_norm(x, "total")


def _grc_backward(x: Rows, w: Weights, p: Products, out: Tensor, *, gelu: str) -> None:
    d_total = _norm_backward(x, "total", x["d_merged"], w["norm_weight"])
    left, right = x["pairs"].chunk(2, dim=-1)
    *gates, content = x["cell"].chunk(4, dim=-1)
    opened = [gate.sigmoid() for gate in gates]
    d_gates = [
        d_total * value * is_open * (1 - is_open)
        for value, is_open in zip((left, right, content), opened, strict=True)
    ]
    torch.cat([*d_gates, d_total * opened[2]], dim=-1, out=x["d_cell"])
    d_active = p.back(x["d_cell"], w["w2"], x["d_first"])
    torch.ops.aten.gelu_backward.grad_input(
        d_active, x["first"], approximate=gelu, grad_input=d_active
    )
    d_pairs = p.back(x["d_first"], w["w1"], out)
    d_pairs += torch.cat([d_total * opened[0], d_total * opened[1]], dim=-1)


def _nothing_to_prepare(x: Rows) -> None:
    pass


def _gated_sum(x: Rows, w: Weights, p: Products) -> None:
    gate = p.affine(x["pairs"], w["weight"], w["bias"], x["gate"]).sigmoid_()
    left, right = x["pairs"].chunk(2, dim=-1)
    torch.lerp(right, left, gate, out=x["merged"])


def _gated_sum_backward(x: Rows, w: Weights, p: Products, out: Tensor) -> None:
    d, gate = x["d_merged"], x["gate"]
    left, right = x["pairs"].chunk(2, dim=-1)
    torch.mul(d * (left - right), gate * (1 - gate), out=x["d_gate"])
    d_pairs = p.back(x["d_gate"], w["weight"], out)
    d_pairs += torch.cat([d * gate, d * (1 - gate)], dim=-1)


def _linear(x: Rows, w: Weights, p: Products) -> None:
    p.affine(x["pairs"], w["weight"], w["bias"], x["merged"])


def _linear_backward(x: Rows, w: Weights, p: Products, out: Tensor) -> None:
    p.back(x["d_merged"], w["weight"], out)


def _elementwise_sum(x: Rows, w: Weights, p: Products) -> None:
    left, right = x["pairs"].chunk(2, dim=-1)
    torch.add(left, right, out=x["merged"])


def _elementwise_sum_backward(x: Rows, w: Weights, p: Products, out: Tensor) -> None:
    out.copy_(torch.cat([x["d_merged"], x["d_merged"]], dim=-1))


def _grc_operator(gelu: str) -> Operator:
    """Return the cell with one of the forms that torch knows gelu in."""
    return Operator(
        hidden={"first": 4, "cell": 4, "total": 1, "merged": 1},
        scratch={"d_first": 4, "d_cell": 4},
        affine=(
            Affine("w1", "b1", "pairs", "d_first"),
            Affine("w2", "b2", "active", "d_cell"),
        ),
        sums={"norm_weight": ("d_merged", "normed total"), "norm_bias": ("d_merged",)},
        forward=partial(_grc, gelu=gelu),
        prepare=partial(_grc_prepare, gelu=gelu),
        backward=partial(_grc_backward, gelu=gelu),
    )


def _by_formula(formula: Formula) -> Operator:
    """Return an operator on rows whose derivatives torch finds, from the pairs once more.

    Its own products round no factor, whatever the precision of the pass.
    """
    names = dict(zip(formula.weights._fields, formula.sides, strict=True))

    def own(w: Weights) -> tuple[Tensor, ...]:
        # a vector stands there as [P, 1, out]
        return tuple(w[name] if len(sides) == 2 else w[name][:, 0] for name, sides in names.items())

    def merge(pairs: Tensor, *tensors: Tensor) -> Tensor:
        return formula.merge(pairs, formula.weights(*tensors))

    def forward(x: Rows, w: Weights, p: Products) -> None:
        x["merged"].copy_(merge(x["pairs"], *own(w)))

    # autograd sleeps inside of an op, `torch.func` does not
    def backward(x: Rows, w: Weights, p: Products, out: Tensor) -> None:
        tensors = own(w)
        pull = torch.func.vjp(lambda pairs: merge(pairs, *tensors), x["pairs"])[1]
        out.copy_(pull(x["d_merged"])[0])

    def gradients(x: Rows, w: Weights) -> Weights:
        if not names:
            return {}
        pull = torch.func.vjp(lambda *tensors: merge(x["pairs"], *tensors), *own(w))[1]
        found = zip(names, pull(x["d_merged"]), strict=True)
        return {name: d.view_as(w[name]) for name, d in found}

    return Operator(
        hidden={"merged": 1},
        scratch={},
        affine=(),
        sums={},
        forward=forward,
        prepare=_nothing_to_prepare,
        backward=backward,
        gradients=gradients,
    )


OPERATORS = {
    "elementwise_sum": Operator(
        hidden={"merged": 1},
        scratch={},
        affine=(),
        sums={},
        forward=_elementwise_sum,
        prepare=_nothing_to_prepare,
        backward=_elementwise_sum_backward,
    ),
    "gated_sum": Operator(
        hidden={"gate": 1, "merged": 1},
        scratch={"d_gate": 1},
        affine=(Affine("weight", "bias", "pairs", "d_gate"),),
        sums={},
        forward=_gated_sum,
        prepare=_nothing_to_prepare,
        backward=_gated_sum_backward,
    ),
    "grc": _grc_operator("none"),
    "grc_tanh": _grc_operator("tanh"),
    "linear": Operator(
        hidden={"merged": 1},
        scratch={},
        affine=(Affine("weight", "bias", "pairs", "d_merged"),),
        sums={},
        forward=_linear,
        prepare=_nothing_to_prepare,
        backward=_linear_backward,
    ),
    "mlp": Operator(
        hidden={"first": 2, "second": 4, "gates": 2, "merged": 1},
        scratch={"d_values": 2, "d_gates": 2, "d_second": 4, "d_first": 2},
        affine=(
            Affine("w1", "b1", "pairs", "d_first"),
            Affine("w2", "b2", "first", "d_second"),
            Affine("w3", "b3", "second", "d_gates"),
            Affine("v", "b", "values", "d_merged"),
        ),
        sums={},
        forward=_mlp,
        prepare=_mlp_prepare,
        backward=_mlp_backward,
    ),
    **{name: _by_formula(formula) for name, formula in FORMULAS.items()},
}

# around the operator: node FFN with its residual, and layer norm
_NODE_HIDDEN = {"inner": 4, "summed": 1}
_NODE_SCRATCH = {"d": 1, "d_summed": 1, "d_inner": 4, "d_merged": 1}
_NODE_AFFINE = (
    Affine("node_ffn.w1", "node_ffn.b1", "merged", "d_inner"),
    Affine("node_ffn.w2", "node_ffn.b2", "inner", "d_summed"),
)
_NODE_SUMS = {"node_norm.weight": ("d", "normed summed"), "node_norm.bias": ("d",)}


def hidden_units(operator: str) -> dict[str, int]:
    """Return the widths of what `parents` fills in, in multiples of E."""
    return OPERATORS[operator].hidden | _NODE_HIDDEN


def scratch_units(operator: str) -> dict[str, int]:
    """Return the widths of what `parents_backward` reads and writes besides."""
    return OPERATORS[operator].scratch | _NODE_SCRATCH


def parents(operator: str, x: Rows, w: Weights, p: Products, out: Tensor | None) -> None:
    """Fill in the hidden rows from "pairs", and ``out`` [P, n, E], the parents before dropout."""
    OPERATORS[operator].forward(x, w, p)
    p.affine(x["merged"], w["node_ffn.w1"], w["node_ffn.b1"], x["inner"], relu=True)
    p.affine(x["inner"], w["node_ffn.w2"], w["node_ffn.b2"], x["summed"]).add_(x["merged"])
    if out is not None:
        normed = F.layer_norm(x["summed"], x["summed"].shape[-1:], eps=NORM_EPS)
        torch.addcmul(w["node_norm.bias"], normed, w["node_norm.weight"], out=out)


def prepare_backward(operator: str, x: Rows) -> None:
    """Add the rows that the backward pass needs and that depend on no gradient."""
    _prepare_norm(x, "summed")
    OPERATORS[operator].prepare(x)


def parents_backward(operator: str, x: Rows, w: Weights, p: Products, out: Tensor) -> None:
    """Write the gradient of the pairs to ``out``, [P, n, 2E], from "d", that of the parents.

    The rows then have what `add_gradients` needs.
    """
    d_summed = _norm_backward(x, "summed", x["d"], w["node_norm.weight"])
    x["d_summed"].copy_(d_summed)
    _mask(p.back(d_summed, w["node_ffn.w2"], x["d_inner"]), x["inner"])
    p.back(x["d_inner"], w["node_ffn.w1"], x["d_merged"]).add_(d_summed)
    OPERATORS[operator].backward(x, w, p, out)


def add_gradients(
    operator: str, x: Rows, w: Weights, p: Products, gradients: Weights, *, adds: bool = True
) -> None:
    """Write what rows contribute to the gradients of the weights, or add it."""
    op = OPERATORS[operator]
    sums = op.sums | _NODE_SUMS
    for matrix in (*op.affine, *_NODE_AFFINE):
        p.outer(x[matrix.x], x[matrix.d], gradients[matrix.weight], adds=adds)
        sums[matrix.bias] = (matrix.d,)
    for vector, names in sums.items():
        rows = x[names[0]] if len(names) == 1 else x[names[0]] * x[names[1]]
        if adds:
            gradients[vector] += rows.sum(1, keepdim=True)
        else:
            torch.sum(rows, 1, keepdim=True, out=gradients[vector])
    if op.gradients is not None:
        for name, gradient in op.gradients(x, w).items():
            if adds:
                gradients[name] += gradient
            else:
                gradients[name].copy_(gradient)


def _mask(d: Tensor, positive: Tensor) -> None:
    """Set d to 0 where the relu's result was 0."""
    torch.ops.aten.threshold_backward.grad_input(d, positive, 0, grad_input=d)


def _prepare_norm(x: Rows, name: str) -> None:
    normed, mean, scale = torch.native_layer_norm(x[name], x[name].shape[-1:], None, None, NORM_EPS)
    x |= {f"normed {name}": normed, f"mean {name}": mean, f"scale {name}": scale}


def _norm_backward(x: Rows, name: str, d: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of rows from that of their norm times ``weight``."""
    # torch reads the last two as if they were contiguous, which slices of a population are not
    d_x: Tensor = torch.ops.aten.native_layer_norm_backward(
        d * weight,
        x[name],
        x[name].shape[-1:],
        x[f"mean {name}"].contiguous(),
        x[f"scale {name}"].contiguous(),
        None,
        None,
        [True, False, False],
    )[0]
    return d_x
