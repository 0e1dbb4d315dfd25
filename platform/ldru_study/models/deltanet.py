"""DeltaNet: linear attention whose memory is corrected, key by key, by Householder products.

Source: Yang et al. 2024, arXiv 2406.06484; strengths up to 2 Grazzi et al. 2024, arXiv 2411.12537;
several products per token Siems et al. 2025, arXiv 2502.10297 (DeltaProduct).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ldru_study.models.layers import (
    Affine,
    BlockStack,
    FeedForward,
    ShortConvolution,
    variance_scaling,
)
from ldru_study.models.recurrences import delta_rule
from ldru_study.spec.linear_recurrences import TAPS, DeltaNetConfig


class DeltaNet(BlockStack):
    """Embedding, pre-norm blocks of recurrence and FFN, norm, affine readout of the last state."""

    def __init__(self, config: DeltaNetConfig, num_symbols: int, num_classes: int) -> None:
        blocks = (_Block(config) for _ in range(config.layers))
        super().__init__(config.width, num_symbols, num_classes, blocks, is_normed=True)


class _Block(nn.Module):
    """Recurrence, then a ReLU FFN, each on a normed input with a residual around it.

    Queries, keys and values are products and short convolutions; queries and keys have norm 1.
    What every head reads is normed before the heads are mixed.
    """

    def __init__(self, config: DeltaNetConfig) -> None:
        super().__init__()
        width, products = config.width, config.householders
        self.heads, self.householders = config.heads, products
        self.largest_strength = 2 if config.negative_eigenvalues else 1
        self.mixer_norm = nn.LayerNorm(width)
        self.w_query = nn.Parameter(variance_scaling(width, width))
        self.w_key = nn.Parameter(variance_scaling(width, products * width))
        self.w_value = nn.Parameter(variance_scaling(width, products * width))
        self.query_filter = ShortConvolution(width, TAPS)
        self.key_filter = ShortConvolution(products * width, TAPS)
        self.value_filter = ShortConvolution(products * width, TAPS)
        self.strength = Affine(width, products * config.heads)
        self.read_norm = nn.RMSNorm(width // config.heads, eps=1e-5)
        self.w_out = nn.Parameter(variance_scaling(width, width))
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, E] to [B, T, E]."""
        x = x + self._mix(self.mixer_norm(x))
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out

    def _mix(self, x: Tensor) -> Tensor:
        query = self._products(self.query_filter(x @ self.w_query), 1)[:, :, :, 0]
        key = self._products(self.key_filter(x @ self.w_key), self.householders)
        value = self._products(self.value_filter(x @ self.w_value), self.householders)
        strength = self.strength(x).sigmoid() * self.largest_strength
        strength = self._products(strength, self.householders)[..., 0]
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        read = delta_rule(query, key, value, strength)
        mixed: Tensor = self.read_norm(read).transpose(1, 2).flatten(2) @ self.w_out
        return mixed

    def _products(self, x: Tensor, num_products: int) -> Tensor:
        """Cut the features of [B, T, n E] by product and head, [B, H, T, n, E / H]."""
        return x.view(*x.shape[:2], num_products, self.heads, -1).permute(0, 3, 1, 2, 4)
