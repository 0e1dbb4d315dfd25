"""What several models are made of: initial weights as JAX draws them, and the readout."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# standard deviation of a standard normal variable truncated to [-2, 2]
_TRUNCATED_STD = 0.87962566103423978


def truncated_normal(*shape: int, std: float) -> Tensor:
    """Draw from a normal distribution of ``std`` truncated at 2 ``std``; not corrected for it."""
    return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std)


def variance_scaling(
    num_in: int, num_out: int, *, scale: float = 1.0, mode: Literal["fan_in", "fan_avg"] = "fan_in"
) -> Tensor:
    """Draw a matrix [in, out] of variance ``scale`` / fan from a truncated normal distribution.

    Scale 1 with ``fan_in`` is LeCun normal, with ``fan_avg`` Glorot normal.

    Source: ``jax.nn.initializers.variance_scaling`` with distribution "truncated_normal".
    """
    fan = num_in if mode == "fan_in" else (num_in + num_out) / 2
    return truncated_normal(num_in, num_out, std=math.sqrt(scale / fan) / _TRUNCATED_STD)


class Affine(nn.Module):
    """``x @ weight + bias``, weight [in, out] LeCun normal, bias 0."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(variance_scaling(num_in, num_out))
        self.bias = nn.Parameter(torch.zeros(num_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return F.linear(x, self.weight.mT, self.bias)
