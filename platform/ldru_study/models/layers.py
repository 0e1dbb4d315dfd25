"""What several models are made of: initial weights as JAX draws them, affine maps, convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterable
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


class FeedForward(nn.Sequential):
    """``relu(x w1 + b1) w2 + b2``, E -> 4E -> E."""

    def __init__(self, width: int) -> None:
        super().__init__(Affine(width, 4 * width), nn.ReLU(), Affine(4 * width, width))


class ShortConvolution(nn.Module):
    """A filter of its own over the last tokens of each feature, then silu: ``silu(w * x + b)``.

    Args:
        width: features.
        taps: tokens that a filter sees, the current one included.
        has_bias: whether there is a b.
    """

    def __init__(self, width: int, taps: int, *, has_bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(truncated_normal(taps, width, std=taps**-0.5))
        self.bias = nn.Parameter(torch.zeros(width)) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, E] to [B, T, E]; before the first token stand zeros."""
        taps, num_tokens = len(self.weight), x.shape[1]
        padded = F.pad(x, (0, 0, taps - 1, 0))
        # a few products of whole strings: depthwise convolutions of torch's are slow on a CPU
        seen = (padded[:, tap : tap + num_tokens] * self.weight[tap] for tap in range(taps))
        total = sum(seen, start=x.new_zeros(()) if self.bias is None else self.bias)
        return F.silu(total)


def last_states(states: Tensor, lengths: Tensor) -> Tensor:
    """Return the state of every string's last token, [B, E] of [B, T, E]."""
    return states[torch.arange(len(states), device=states.device), lengths - 1]


class BlockStack(nn.Module):
    """Embedding of unit variance, blocks over all places, affine readout of the last state.

    Args:
        width: E.
        num_symbols: V.
        num_classes: C.
        blocks: [B, T, E] to the same; made here one by one, after the embedding has its weights.
        is_normed: a LayerNorm stands before the readout.
    """

    def __init__(
        self,
        width: int,
        num_symbols: int,
        num_classes: int,
        blocks: Iterable[nn.Module],
        *,
        is_normed: bool,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_symbols, width)
        self.embedding.weight = nn.Parameter(truncated_normal(num_symbols, width, std=1))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width) if is_normed else nn.Identity()
        self.classifier = Affine(width, num_classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C]; see `ldru_study.models`."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classifier(self.norm(last_states(x, lengths)))
        return logits
