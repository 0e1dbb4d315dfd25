"""The named tensors of a merge: what each operator owns, and of what shape.

Matrices are stored [in, out] and used as ``x @ w``. E is the number of state features; l and r
are the left and the right child.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor


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
OPERATORS: dict[str, type[Operator]] = {
    "elementwise_sum": ElementwiseSum,
    "gated_sum": GatedSum,
    "grc": GatedRecursiveCell,
    "linear": Linear,
    "mlp": Mlp,
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
    GatedRecursiveCell: ((2, 4), (4,), (4, 4), (4,), (1,), (1,)),
    Linear: ((2, 1), (1,)),
    Mlp: (
        *((2, 2), (2,), (2, 4), (4,), (4, 2), (2,)),
        *((1, 1), (1, 1), (1,), (1,), (1, 1), (1,)),
    ),
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


# where `fold` merged fields of an operator into others, the sides of what is left
_FOLDED = {
    "mlp": {
        **dict(zip(Mlp._fields[:6], _SIDES[Mlp][:6], strict=True)),
        **{"v": (2, 1), "b": (1,)},
    }
}


@lru_cache(maxsize=64)
def layout(operator: str, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor but the identity, in the order of `pack`'s result.

    Fields of the operator stand under their own names, the others as ``node_ffn.w1`` and so on.
    """
    return _layout(shapes(OPERATORS[operator], width), width)


@lru_cache(maxsize=64)
def folded_layout(operator: str, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the order of `fold`'s result; see `layout`."""
    if operator not in _FOLDED:
        return layout(operator, width)
    sides = _FOLDED[operator]
    return _layout(
        {name: tuple(side * width for side in of_name) for name, of_name in sides.items()}, width
    )


def _layout(of_operator: dict[str, tuple[int, ...]], width: int) -> dict[str, tuple[int, ...]]:
    found = dict(of_operator)
    for prefix, kind in (("node_ffn.", FeedForward), ("node_norm.", Norm)):
        found |= {prefix + name: shape for name, shape in shapes(kind, width).items()}
    return found


def pack(weights: MergeWeights, *, population: bool) -> Tensor:
    """Return all weights but the identity in one tensor, [P, S] in the order of `layout`.

    P is 1 without a population.
    """
    groups = (weights.operator, weights.node_ffn, weights.node_norm)
    first = 1 if population else 0
    flat = [tensor.flatten(first) for group in groups for tensor in group]
    return torch.cat(flat, dim=-1).view(-1, sum(part.shape[-1] for part in flat))


def unpack(packed: Tensor, found: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return views of [P, S] by name: matrices [P, in, out], vectors [P, 1, out].

    Args:
        packed: of `pack` or `fold`.
        found: of `layout` or `folded_layout`.
    """
    parts = torch.split(packed, [math.prod(shape) for shape in found.values()], dim=1)
    pieces = zip(found.items(), parts, strict=True)
    return {name: part.view(len(packed), -1, shape[-1]) for (name, shape), part in pieces}


def fold(packed: Tensor, operator: str, width: int) -> Tensor:
    """Return weights that compute the same with fewer products per merge.

    Operator `mlp` has two affine maps in a row, of the gated children and of their sum:
    ``(x v + a) w_out + b_out = x (v w_out) + (a w_out + b_out)``, where v is v_left above v_right
    and a is a_left + a_right.

    Args:
        packed: of `pack`, [P, S].
        operator: its name.
        width: E.

    Returns:
        [P, S'] in the order of `folded_layout`, never ``packed`` itself.
    """
    if operator not in _FOLDED:
        return packed.clone()
    maps = _outer_maps(packed, operator, width)
    v, b = maps.v @ maps.w_out, torch.baddbmm(maps.b_out, maps.a, maps.w_out)
    return torch.cat([packed[:, : maps.begin], v.flatten(1), b.flatten(1), maps.rest], dim=1)


def unfold(d_folded: Tensor, packed: Tensor, operator: str, width: int) -> Tensor:
    """Return the gradient of ``packed``, [P, S], from that of `fold`'s result."""
    if operator not in _FOLDED:
        return d_folded
    maps = _outer_maps(packed, operator, width)
    end = d_folded.shape[1] - maps.rest.shape[1]
    d_outer = d_folded[:, maps.begin : end].view(len(packed), -1, width)
    d_v, d_b = torch.split(d_outer, [2 * width, 1], dim=1)
    d_a = (d_b @ maps.w_out.mT).flatten(1)
    d_w_out = torch.baddbmm(maps.a.mT @ d_b, maps.v.mT, d_v)
    parts = [(d_v @ maps.w_out.mT).flatten(1), d_a, d_a, d_w_out.flatten(1), d_b.flatten(1)]
    return torch.cat([d_folded[:, : maps.begin], *parts, d_folded[:, end:]], dim=1)


class _OuterMaps(NamedTuple):
    """What `fold` merges: v [P, 2E, E], a [P, 1, E], w_out [P, E, E], b_out [P, 1, E].

    ``begin`` is where they begin in the packed weights, ``rest`` [P, .] what follows them.
    """

    begin: int
    v: Tensor
    a: Tensor
    w_out: Tensor
    b_out: Tensor
    rest: Tensor


def _outer_maps(packed: Tensor, operator: str, width: int) -> _OuterMaps:
    sizes = {name: math.prod(shape) for name, shape in layout(operator, width).items()}
    names = list(sizes)
    begin = sum(sizes[name] for name in names[: names.index("v_left")])
    parts = [begin, 2 * width * width, 2 * width, width * width, width]
    _, v, a, w_out, b_out, rest = torch.split(packed, [*parts, packed.shape[1] - sum(parts)], dim=1)
    return _OuterMaps(
        begin,
        v.view(-1, 2 * width, width),
        a.view(-1, 2, width).sum(1, keepdim=True),
        w_out.view(-1, width, width),
        b_out.view(-1, 1, width),
        rest,
    )


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
    for name, tensor, shape in _expected(weights, leaves.shape[-1]):
        for what, found, wanted in (
            ("shape", tuple(tensor.shape), first + shape),
            ("dtype", tensor.dtype, tensor.dtype if is_cast else leaves.dtype),
            ("device", tensor.device, leaves.device),
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
