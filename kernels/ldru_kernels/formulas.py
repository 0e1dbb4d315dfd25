"""What the formulas of operators are made of, with or without a population."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NORM_EPS = 1e-5


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``x @ weight + bias`` for a weight that is stored [in, out].

    Weights of a population, [P, in, out] and [P, out], take x [P, n, in].
    """
    if weight.dim() == 3:
        return torch.baddbmm(bias[:, None], x, weight)
    return F.linear(x, weight.mT, bias)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the layer norm over the last side; of a population, [P, n, E] with [P, E]."""
    if weight.dim() == 2:
        weight, bias = weight[:, None], bias[:, None]
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * weight + bias
