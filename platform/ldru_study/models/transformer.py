"""The attention baseline: a post-norm Transformer encoder that reads the last token.

Source: Vaswani et al. 2017; sizes as in Delétang et al. 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ldru_study.models.attention import AttentionLayer
from ldru_study.models.layers import Affine, last_states, truncated_normal
from ldru_study.models.positions import distance_bias, sinusoids
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
        self.layers = nn.ModuleList(
            AttentionLayer(config.width, config.heads, config.positions, config.dropout)
            for _ in range(config.layers)
        )
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
        if self.config.looped:
            read = self._looped(x, positions, lengths, mask)
        else:
            for layer in self.layers[:-1]:
                x = self._through(layer, x, positions, x, positions, mask)
            # only one place of the last layer is read
            mask = self._mask(last, num_tokens, is_real)
            queries = last_states(x, lengths)[:, None]
            read = self._through(self.layers[-1], queries, last, x, positions, mask)[:, 0]
        logits: Tensor = self.classifier(read)
        return logits

    def _looped(self, x: Tensor, positions: Tensor, lengths: Tensor, mask: Tensor | None) -> Tensor:
        """Run every string through all layers ceil(log2 T) times, T its own length."""
        num_loops = (int(lengths.max()) - 1).bit_length()
        # strings of one token are looped in vain, so that every weight has a gradient, if only 0
        for loop in range(max(num_loops, 1)):
            states = x
            for layer in self.layers:
                states = self._through(layer, states, positions, states, positions, mask)
            x = torch.where((lengths > 2**loop)[:, None, None], states, x)
        return last_states(x, lengths)

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
