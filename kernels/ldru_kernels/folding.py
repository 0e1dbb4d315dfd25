"""Weights as the backends want them: one tensor, with maps that follow each other made one.

Operator `mlp` has two affine maps in a row, of the gated children and of their sum:
``(x v + a) w_out + b_out = x (v w_out) + (a w_out + b_out)``, where v is v_left above v_right and a
is a_left + a_right. The right side takes 4 E^2 instead of 6 E^2 FLOPs per merge.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ldru_kernels.weights import OPERATORS, FeedForward, Mlp, Norm, shapes

# fields of `weights.Mlp` that `fold` replaces by v [2E, E] and b [E]
_FIRST_OUTER = Mlp._fields.index("v_left")


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
    """Return the shapes of the tensors in `fold`'s result, in their order; see `layout`."""
    found = layout(operator, width)
    if operator != "mlp":
        return found
    outer = {"v": (2 * width, width), "b": (width,)}
    names = list(found)
    first, last = names[:_FIRST_OUTER], names[len(Mlp._fields) :]
    return {name: found[name] for name in first} | outer | {name: found[name] for name in last}


def size_of(found: dict[str, tuple[int, ...]]) -> int:
    """Return how many numbers a layout has."""
    return sum(math.prod(shape) for shape in found.values())


def unpack(packed: Tensor, found: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return views of [P, S] by name: matrices [P, in, out], vectors [P, 1, out].

    Args:
        packed: all tensors of a layout behind each other.
        found: the layout.
    """
    parts = torch.split(packed, [math.prod(shape) for shape in found.values()], dim=1)
    pieces = zip(found.items(), parts, strict=True)
    return {name: part.view(len(packed), -1, shape[-1]) for (name, shape), part in pieces}


def fold(weights: list[Tensor], operator: str, dtype: torch.dtype) -> Tensor:
    """Return weights that compute the same, in compute dtype: [P, S'] as in `folded_layout`.

    Args:
        weights: of `weights.listed`; P is 1 without a population.
        operator: its name.
        dtype: of the states, to which weights of another dtype are rounded first.
    """
    # the last one is a vector, [E] or [P, E]
    population = len(weights[-1]) if weights[-1].dim() == 2 else 1
    rounded = _rounded(weights, dtype)
    parts = [tensor.reshape(population, -1) for tensor in rounded]
    if operator == "mlp":
        maps = _outer_maps(rounded, population)
        v, b = maps.v @ maps.w_out, torch.baddbmm(maps.b_out, maps.a, maps.w_out)
        parts[_FIRST_OUTER : len(Mlp._fields)] = [v.flatten(1), b.flatten(1)]
    return torch.cat(parts, dim=1)


def unfold(d_folded: Tensor, weights: list[Tensor], operator: str, dtype: torch.dtype) -> Tensor:
    """Return the gradients of all weights, [P, S] as in `layout`, from that of `fold`'s result.

    Args:
        d_folded: [P, S'].
        weights: as `fold` got them, and so on.
        operator: the same.
        dtype: the same.
    """
    if operator != "mlp":
        return d_folded
    maps = _outer_maps(_rounded(weights, dtype), len(d_folded))
    width = maps.w_out.shape[-1]
    begin = sum(tensor.numel() for tensor in weights[:_FIRST_OUTER]) // len(d_folded)
    sizes = [begin, 2 * width * width, width]
    first, d_v, d_b, last = torch.split(d_folded, [*sizes, d_folded.shape[1] - sum(sizes)], dim=1)
    d_v, d_b = d_v.view(-1, 2 * width, width), d_b.view(-1, 1, width)
    d_a = (d_b @ maps.w_out.mT).flatten(1)
    d_w_out = torch.baddbmm(maps.a.mT @ d_b, maps.v.mT, d_v)
    outer = [(d_v @ maps.w_out.mT).flatten(1), d_a, d_a, d_w_out.flatten(1), d_b.flatten(1)]
    return torch.cat([first, *outer, last], dim=1)


class _OuterMaps(NamedTuple):
    """Maps that follow each other: v [P, 2E, E], a [P, 1, E], w_out [P, E, E], b_out [P, 1, E]."""

    v: Tensor
    a: Tensor
    w_out: Tensor
    b_out: Tensor


def _outer_maps(weights: list[Tensor], population: int) -> _OuterMaps:
    v_left, v_right, a_left, a_right, w_out, b_out = weights[_FIRST_OUTER : len(Mlp._fields)]
    width = w_out.shape[-1]
    return _OuterMaps(
        torch.cat([v_left, v_right], dim=-2).view(population, 2 * width, width),
        (a_left + a_right).view(population, 1, width),
        w_out.reshape(population, width, width),
        b_out.reshape(population, 1, width),
    )


def _rounded(weights: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    wide = compute_dtype(dtype)
    if all(tensor.dtype == wide == dtype for tensor in weights):
        return weights
    return [tensor.to(dtype).to(wide) for tensor in weights]
