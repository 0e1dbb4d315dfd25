"""Weights as the backends want them: by name, and with maps that follow each other made one.

Operator `mlp` has two affine maps in a row, of the gated children and of their sum:
``(x v + a) w_out + b_out = x (v w_out) + (a w_out + b_out)``, where v is v_left above v_right and a
is a_left + a_right. The right side takes 4 E^2 instead of 6 E^2 FLOPs per merge. So six fields give
way to two, called "v" [2E, E] and "b" [E].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ldru_kernels.weights import OPERATORS, FeedForward, Mlp, Norm, shapes

# the fields of `weights.Mlp` that give way
_OUTER = slice(Mlp._fields.index("v_left"), len(Mlp._fields))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what sums and nonlinearities are computed in, for states of a dtype."""
    return dtype if dtype == torch.float64 else torch.float32


@lru_cache(maxsize=64)
def layout(operator: str, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of `weights.listed`, in their order.

    Fields of the operator stand under their own names, the others as ``node_ffn.w1`` and so on.
    """
    found = shapes(OPERATORS[operator], width)
    for prefix, kind in (("node_ffn.", FeedForward), ("node_norm.", Norm)):
        found |= {prefix + name: shape for name, shape in shapes(kind, width).items()}
    return found


@lru_cache(maxsize=64)
def folded_layout(operator: str, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what `folded` returns, in its order; see `layout`."""
    found = list(layout(operator, width).items())
    if operator == "mlp":
        found[_OUTER] = [("v", (2 * width, width)), ("b", (width,))]
    return dict(found)


@lru_cache(maxsize=64)
def num_folded(operator: str, width: int) -> int:
    """Return S', how many numbers `folded` returns per member of a population."""
    return sum(math.prod(shape) for shape in folded_layout(operator, width).values())


def unpack(packed: Tensor, operator: str, width: int) -> dict[str, Tensor]:
    """Return views of [P, S'] as `folded` names and shapes them."""
    found = folded_layout(operator, width)
    parts = torch.split(packed, [math.prod(shape) for shape in found.values()], dim=1)
    pieces = zip(found.items(), parts, strict=True)
    return {name: part.view(len(packed), -1, shape[-1]) for (name, shape), part in pieces}


@contextmanager
def _unrounded() -> Iterator[None]:
    """Let torch round no factor of a float32 product, on a GPU or on a CPU with bfloat16 units.

    What the precision of an op rounds are states and weights; a product of two maps is a weight.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@_unrounded()
def fold(weights: list[Tensor], operator: str, dtype: torch.dtype) -> list[Tensor]:
    """Return what takes the place of maps that follow each other: v and b, or nothing.

    Args:
        weights: of `weights.listed`, with or without a population.
        operator: its name.
        dtype: of the states, to which weights of another dtype are rounded first.

    Returns:
        Tensors [P, 2E, E] and [P, 1, E] in compute dtype, where P is 1 without a population.
    """
    if operator != "mlp":
        return []
    maps = _outer_maps(weights, dtype)
    return [torch.bmm(maps.v, maps.w_out), torch.baddbmm(maps.b_out, maps.a, maps.w_out)]


def folded(
    weights: list[Tensor], outer: list[Tensor], operator: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return all weights by name, matrices [P, in, out] and vectors [P, 1, out], in compute dtype.

    Args:
        weights: as in `fold`.
        outer: what `fold` returned.
        operator: as in `fold`.
        dtype: the same.
    """
    tensors = _wide(weights, dtype)
    if outer:
        tensors[_OUTER] = outer
    population = _population(weights)
    names = folded_layout(operator, weights[-1].shape[-1])
    return {
        name: tensor.view(population, -1, tensor.shape[-1])
        for name, tensor in zip(names, tensors, strict=True)
    }


@_unrounded()
def unfold(
    d_folded: Tensor, weights: list[Tensor], operator: str, dtype: torch.dtype
) -> list[Tensor]:
    """Return what the gradients of the fields that gave way are made of, if any.

    Args:
        d_folded: gradients of what `folded` returned, packed, [P, S'].
        weights: as in `fold`.
        operator: as in `fold`.
        dtype: the same.

    Returns:
        The gradients of v_left above v_right, of a_left or a_right, and of w_out, in the shapes of
        `_OuterMaps`; that of b_out is that of b.
    """
    if operator != "mlp":
        return []
    maps = _outer_maps(weights, dtype)
    gradients = unpack(d_folded, operator, maps.w_out.shape[-1])
    d_v, d_b = gradients["v"], gradients["b"]
    back = maps.w_out.mT
    return [
        torch.bmm(d_v, back),
        torch.bmm(d_b, back),
        torch.baddbmm(maps.a.mT * d_b, maps.v.mT, d_v),
    ]


def gradients_of(
    weights: list[Tensor], d_folded: Tensor, d_outer: list[Tensor], operator: str
) -> list[Tensor]:
    """Return the gradient of every tensor of ``weights``, in its shape and dtype.

    Args:
        weights: as in `fold`.
        d_folded: packed, [P, S'].
        d_outer: of `unfold`.
        operator: its name.
    """
    found = list(unpack(d_folded, operator, weights[-1].shape[-1]).values())
    if d_outer:
        d_v, d_a, d_w_out = d_outer
        d_left, d_right = d_v.chunk(2, dim=1)
        begin = _OUTER.start
        # a tensor each: who scales or adds to gradients in place would do so twice
        d_biases = [d_a, d_a.clone()]
        found[begin : begin + 2] = [d_left, d_right, *d_biases, d_w_out, found[begin + 1]]
    return [
        gradient.reshape(weight.shape).to(weight.dtype)
        for gradient, weight in zip(found, weights, strict=True)
    ]


class _OuterMaps(NamedTuple):
    """Maps that follow each other: v [P, 2E, E], a [P, 1, E], w_out [P, E, E], b_out [P, 1, E]."""

    v: Tensor
    a: Tensor
    w_out: Tensor
    b_out: Tensor


def _outer_maps(weights: list[Tensor], dtype: torch.dtype) -> _OuterMaps:
    population, width = _population(weights), weights[-1].shape[-1]
    maps = _wide(weights[_OUTER], dtype)
    v_left, v_right, a_left, a_right, w_out, b_out = maps
    return _OuterMaps(
        torch.cat([v_left, v_right], dim=-2).view(population, 2 * width, width),
        (a_left + a_right).view(population, 1, width),
        w_out.reshape(population, width, width),
        b_out.reshape(population, 1, width),
    )


def _wide(weights: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return weights rounded to ``dtype``, in compute dtype."""
    wide = compute_dtype(dtype)
    if wide == dtype and all(tensor.dtype == dtype for tensor in weights):
        return list(weights)
    return [tensor.to(dtype).to(wide) for tensor in weights]


def _population(weights: list[Tensor]) -> int:
    # the last one is a vector, [E] or [P, E]
    return len(weights[-1]) if weights[-1].dim() == 2 else 1
