"""The attention baseline: a post-norm Transformer encoder that reads the last token.

Source: Vaswani et al. 2017; sizes as in Delétang et al. 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ldru_study.models.layers import Affine, truncated_normal, variance_scaling
from ldru_study.models.positions import distance_bias, rotate, sinusoids
from ldru_study.spec.model import TransformerConfig


class Transformer(nn.Module):
    """Embedding times sqrt(E), full attention among the real tokens, affine readout.

    Embeddings start with unit variance after scaling.
    """

    def __init__(self, config: TransformerConfig, num_symbols: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        # a training's choice between memory and time; changes no result
        self.recomputes_layers = False
        self.embedding = nn.Embedding(num_symbols, config.width)
        self.embedding.weight = nn.Parameter(
            truncated_normal(num_symbols, config.width, std=config.width**-0.5)
        )
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.classifier = Affine(config.width, num_classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C]; see `ldru_study.models`."""
        num_tokens = tokens.shape[1]
        positions = torch.arange(num_tokens, device=tokens.device)[None]
        last = lengths[:, None] - 1
        # strings of one length need no mask, which would cost [T, T] scores of memory
        is_ragged = int(lengths.min()) < num_tokens
        is_real = positions <= last if is_ragged else None

        x = self.embedding(tokens) * math.sqrt(self.config.width)
        if self.config.positions == "sinusoidal":
            x = x + sinusoids(positions, self.config.width).to(x.dtype)
        x = F.dropout(x, self.config.dropout, self.training)
        mask = self._mask(positions, num_tokens, is_real)
        for layer in self.layers[:-1]:
            x = self._through(layer, x, positions, x, positions, mask)
        # only one place of the last layer is read
        mask = self._mask(last, num_tokens, is_real)
        read = x[torch.arange(len(x), device=x.device), last[:, 0]][:, None]
        read = self._through(self.layers[-1], read, last, x, positions, mask)
        logits: Tensor = self.classifier(read[:, 0])
        return logits

    def _through(self, layer: nn.Module, *arguments: Tensor | None) -> Tensor:
        """Call a layer; its states are kept for the backward pass or made again."""
        if self.recomputes_layers and torch.is_grad_enabled():
            # the other way of recomputing fails where ZeRO shares out gradients
            states: Tensor = checkpoint(layer, *arguments, use_reentrant=False)
        else:
            states = layer(*arguments)
        return states

    def _mask(self, queries: Tensor, num_keys: int, is_real: Tensor | None) -> Tensor | None:
        """Return what is added to, or which are left of, the scores, [B, H, Q, T] or broadcast."""
        real = None if is_real is None else is_real[:, None, None, :]
        if self.config.positions != "alibi":
            return real
        bias = distance_bias(queries, num_keys, self.config.heads).to(self.classifier.weight.dtype)
        return bias if real is None else bias.masked_fill(~real, -math.inf)


class _Layer(nn.Module):
    """Attention and a ReLU FFN of 4E, each followed by residual and norm; weights Glorot normal.

    The four attention maps have no biases: a key's would have no effect on a softmax.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.w_query = nn.Parameter(variance_scaling(width, width, mode="fan_avg"))
        self.w_key = nn.Parameter(variance_scaling(width, width, mode="fan_avg"))
        self.w_value = nn.Parameter(variance_scaling(width, width, mode="fan_avg"))
        self.w_out = nn.Parameter(variance_scaling(width, width, mode="fan_avg"))
        self.attention_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(Affine(width, 4 * width), nn.ReLU(), Affine(4 * width, width))
        self.ffn_norm = nn.LayerNorm(width)

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """Return the new states of ``queries`` [B, Q, E], which attend to ``x`` [B, T, E]."""
        query, key = self._heads(queries @ self.w_query), self._heads(x @ self.w_key)
        if self.config.positions == "rope":
            query, key = rotate(query, query_positions), rotate(key, positions)
        value = self._heads(x @ self.w_value)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = self._dropout(read.transpose(1, 2).flatten(2) @ self.w_out)
        states = self.attention_norm(queries + attended)
        out: Tensor = self.ffn_norm(states + self._dropout(self.ffn(states)))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """Cut the features of [B, T, E] into heads, [B, H, T, E / H]."""
        return x.view(*x.shape[:2], self.config.heads, -1).transpose(1, 2)

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)
