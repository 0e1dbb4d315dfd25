"""The named tensors of a merge: what each operator owns, and of what shape.

Matrices are stored [in, out] and used as ``x @ w``. E is the number of state features; l and r
are the left and the right child.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ldru_kernels.operators import FORMULAS


class Mlp(NamedTuple):
    """Gated sum whose unbounded gates come from a network over both children.

    ``gl, gr = split(relu(relu([l; r] w1 + b1) w2 + b2) w3 + b3)``, then
    ``((gl * l) v_left + a_left + (gr * r) v_right + a_right) w_out + b_out``.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    w3: Tensor
    b3: Tensor
    v_left: Tensor
    v_right: Tensor
    a_left: Tensor
    a_right: Tensor
    w_out: Tensor
    b_out: Tensor


class GatedRecursiveCell(NamedTuple):
    """Layer norm of ``sigmoid(f1) * l + sigmoid(f2) * r + sigmoid(i) * c``.

    ``[f1; f2; i; c] = gelu([l; r] w1 + b1) w2 + b2`` with the exact gelu.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    norm_weight: Tensor
    norm_bias: Tensor


class TanhGatedRecursiveCell(GatedRecursiveCell):
    """`GatedRecursiveCell` with the gelu that `torch` calls ``approximate="tanh"``.

    JAX's own default: ``x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2``.
    """

    __slots__ = ()


class GatedSum(NamedTuple):
    """``g * l + (1 - g) * r`` with ``g = sigmoid([l; r] weight + bias)``."""

    weight: Tensor
    bias: Tensor


class Linear(NamedTuple):
    """``[l; r] weight + bias``."""

    weight: Tensor
    bias: Tensor


class ElementwiseSum(NamedTuple):
    """``l + r``; no weights."""


class FeedForward(NamedTuple):
    """``relu(x w1 + b1) w2 + b2``, E -> 4E -> E."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


class Norm(NamedTuple):
    """Scale and offset of a layer norm over E."""

    weight: Tensor
    bias: Tensor


Operator: TypeAlias = Mlp | GatedRecursiveCell | GatedSum | Linear | ElementwiseSum
_WRITTEN_OUT: dict[str, type[Operator]] = {
    "elementwise_sum": ElementwiseSum,
    "gated_sum": GatedSum,
    "grc": GatedRecursiveCell,
    "grc_tanh": TanhGatedRecursiveCell,
    "linear": Linear,
    "mlp": Mlp,
}
for _name in FORMULAS.keys() & _WRITTEN_OUT.keys():
    raise TypeError(f"ldru_kernels/operators/{_name}.py: there is an operator '{_name}' already")
OPERATORS: dict[str, type[Operator]] = {
    **_WRITTEN_OUT,
    **{name: formula.weights for name, formula in FORMULAS.items()},
}


class MergeWeights(NamedTuple):
    """All weights of a tree: shared by every merge at every level.

    A population of P trees has P as the first side of every tensor. ``identity`` [E] is the learned
    element of lone-node rule ``identity`` and None elsewhere.
    """

    operator: Operator
    node_ffn: FeedForward
    node_norm: Norm
    identity: Tensor | None = None


# every side of every tensor in multiples of E, in the order of the fields
_SIDES: dict[type[Operator | FeedForward | Norm], tuple[tuple[int, ...], ...]] = {
    ElementwiseSum: (),
    GatedSum: ((2, 1), (1,)),
    **dict.fromkeys(
        (GatedRecursiveCell, TanhGatedRecursiveCell), ((2, 4), (4,), (4, 4), (4,), (1,), (1,))
    ),
    Linear: ((2, 1), (1,)),
    Mlp: (
        *((2, 2), (2,), (2, 4), (4,), (4, 2), (2,)),
        *((1, 1), (1, 1), (1,), (1,), (1, 1), (1,)),
    ),
    **{formula.weights: formula.sides for formula in FORMULAS.values()},
    FeedForward: ((1, 4), (4,), (4, 1), (1,)),
    Norm: ((1,), (1,)),
}


def shapes(kind: type[Operator | FeedForward | Norm], width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of ``kind`` at ``width`` features, by field name."""
    return {
        name: tuple(side * width for side in sides)
        for name, sides in zip(kind._fields, _SIDES[kind], strict=True)
    }


def operator_name(operator: Operator) -> str:
    """Return the name of the operator in `OPERATORS`."""
    return next(name for name, kind in OPERATORS.items() if type(operator) is kind)


def listed(weights: MergeWeights) -> list[Tensor]:
    """Return every tensor but the identity: fields of the operator, the node FFN and the norm."""
    return [*weights.operator, *weights.node_ffn, *weights.node_norm]


def member(weights: MergeWeights, index: int) -> MergeWeights:
    """Return the weights of one member of a population."""
    identity = None if weights.identity is None else weights.identity[index]
    return MergeWeights(
        type(weights.operator)(*(tensor[index] for tensor in weights.operator)),
        FeedForward(*(tensor[index] for tensor in weights.node_ffn)),
        Norm(*(tensor[index] for tensor in weights.node_norm)),
        identity,
    )


def check_weights(weights: MergeWeights, leaves: Tensor, *, population: int | None = None) -> None:
    """Refuse weights that do not fit ``leaves`` [..., E].

    Args:
        weights: to be checked; with a population every tensor has P as its first side.
        leaves: whose features, dtype and device the weights must have. Under autocast, which casts
            both, the dtype is free.
        population: P, or None.

    Raises:
        ValueError: the operator is unknown, or a tensor's shape, dtype or device disagrees; the
            message names it.
    """
    if type(weights.operator) not in OPERATORS.values():
        raise ValueError(
            f"weights.operator: {type(weights.operator).__name__} is no operator. "
            f"Known: {', '.join(kind.__name__ for kind in OPERATORS.values())}."
        )
    is_cast = torch.is_autocast_enabled(leaves.device.type)
    first = () if population is None else (population,)
    dtype, device = leaves.dtype, leaves.device
    for name, tensor, shape in _expected(weights, leaves.shape[-1]):
        shape = first + shape
        if tensor.shape == shape and tensor.device == device and (is_cast or tensor.dtype == dtype):
            continue
        for what, found, wanted in (
            ("shape", tuple(tensor.shape), shape),
            ("dtype", tensor.dtype, tensor.dtype if is_cast else dtype),
            ("device", tensor.device, device),
        ):
            if found != wanted:
                raise ValueError(
                    f"weights.{name}: {what} {found}, but leaves of shape {list(leaves.shape)}, "
                    f"{leaves.dtype} on {leaves.device} need {wanted}."
                )


def _expected(weights: MergeWeights, width: int) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
    for part in ("operator", "node_ffn", "node_norm"):
        group: Operator | FeedForward | Norm = getattr(weights, part)
        for name, shape in shapes(type(group), width).items():
            yield f"{part}.{name}", getattr(group, name), shape
    if weights.identity is not None:
        yield "identity", weights.identity, (width,)
