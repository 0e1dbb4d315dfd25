"""A selective state-space model in the manner of Mamba-2: one decay per head and token.

Source: Dao and Gu 2024, arXiv 2405.21060; negative eigenvalues Grazzi et al. 2024, arXiv
2411.12537.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldru_study.models.layers import (
    BlockStack,
    ShortConvolution,
    variance_scaling,
)
from ldru_study.models.recurrences import selective_scan
from ldru_study.spec.linear_recurrences import TAPS, Mamba2Config

# steps at the beginning lie between these, every order of magnitude as likely
_SMALLEST_STEP, _LARGEST_STEP = 1e-3, 0.1
_LARGEST_RATE = 16.0


class Mamba2(BlockStack):
    """Embedding, pre-norm blocks, norm, affine readout of the last state."""

    def __init__(self, config: Mamba2Config, num_symbols: int, num_classes: int) -> None:
        blocks = (_Block(config) for _ in range(config.layers))
        super().__init__(config.width, num_symbols, num_classes, blocks, is_normed=True)


class _Block(nn.Module):
    """``x + W_out RMSNorm(y * silu(z))`` on a normed input; y is what the heads read.

    With u, B and C convolved maps of the input, d its steps and a head's rate A > 0,
    ``S_t = a_t S_{t-1} + d_t u_t B_t^T`` and ``y_t = S_t C_t + D u_t``, where ``a = exp(-d A)``, or
    ``2 exp(-d A) - 1`` with negative eigenvalues.
    """

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        width, inner, heads = config.width, 2 * config.width, config.heads
        self.sizes = (inner, inner + 2 * config.state, heads)
        self.parts = (inner, config.state, config.state)
        self.heads, self.has_negative = heads, config.negative_eigenvalues
        self.input_norm = nn.LayerNorm(width)
        self.w_in = nn.Parameter(variance_scaling(width, sum(self.sizes)))
        self.filter = ShortConvolution(self.sizes[1], TAPS, has_bias=True)
        low, high = math.log(_SMALLEST_STEP), math.log(_LARGEST_STEP)
        steps = torch.empty(heads).uniform_(low, high).exp()
        # softplus of the bias is the step
        self.step_bias = nn.Parameter(steps.expm1().log())
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1, _LARGEST_RATE).log())
        self.skip = nn.Parameter(torch.ones(heads))
        self.read_norm = nn.RMSNorm(inner, eps=1e-5)
        self.w_out = nn.Parameter(variance_scaling(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, E] to [B, T, E]."""
        gate, convolved, steps = (self.input_norm(x) @ self.w_in).split(self.sizes, dim=2)
        values, write, read = self.filter(convolved).split(self.parts, dim=2)
        values = values.reshape(*values.shape[:2], self.heads, -1)
        steps = F.softplus(steps + self.step_bias)
        decay = (-steps * self.log_rate.exp()).exp()
        if self.has_negative:
            decay = 2 * decay - 1
        y = selective_scan(decay, steps[..., None] * values, write, read)
        y = (y + self.skip[:, None] * values).flatten(2)
        out: Tensor = x + self.read_norm(y * F.silu(gate)) @ self.w_out
        return out
