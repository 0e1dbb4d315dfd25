"""RegularGPT: windows of states become one state each, round by round, with one shared layer.

Source: Chi et al. 2023, arXiv 2305.03796.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldru_study.models.attention import AttentionLayer
from ldru_study.models.layers import Affine, truncated_normal
from ldru_study.spec.model import RegularGptConfig


class RegularGpt(nn.Module):
    """Embedding times sqrt(E), then rounds until one state is left, affine readout.

    A round pads the states on the left to a multiple of the window c with a learned vector, lets
    each attend to itself and the c - 1 before it, with a learned bias per head and offset, and
    keeps every c-th counted from the end. States that are not kept are not computed.
    """

    def __init__(self, config: RegularGptConfig, num_symbols: int, num_classes: int) -> None:
        super().__init__()
        width = config.width
        self.window, self.dropout = config.window, config.dropout
        self.embedding = nn.Embedding(num_symbols, width)
        self.embedding.weight = nn.Parameter(truncated_normal(num_symbols, width, std=width**-0.5))
        # as large as an embedding after its scaling
        self.padding = nn.Parameter(truncated_normal(width, std=1))
        self.layer = AttentionLayer(width, config.heads, "none", config.dropout)
        self.offset_bias = nn.Parameter(torch.zeros(config.heads, 1, config.window))
        self.classifier = Affine(width, num_classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C]; see `ldru_study.models`."""
        x = self.embedding(_ending_together(tokens, lengths)) * math.sqrt(self.padding.shape[0])
        x = F.dropout(x, self.dropout, self.training)
        counts = lengths
        # a round at least, if in vain, so that every weight has a gradient, if only 0
        for _ in range(max(self._num_rounds(x.shape[1]), 1)):
            merged = self._round(x, counts)
            # what one state is left of already waits for the others
            x = torch.where((counts > 1)[:, None, None], merged, x[:, -merged.shape[1] :])
            counts = -(-counts // self.window)
        logits: Tensor = self.classifier(x[:, 0])
        return logits

    def _num_rounds(self, count: int) -> int:
        rounds = 0
        while count > 1:
            count, rounds = -(-count // self.window), rounds + 1
        return rounds

    def _round(self, x: Tensor, counts: Tensor) -> Tensor:
        """Return the states of all windows, [B, ceil(T / c), E]; the last ``counts`` are real."""
        missing = -x.shape[1] % self.window
        x = F.pad(x, (0, 0, missing, 0))
        from_end = torch.arange(x.shape[1], 0, -1, device=x.device)
        x = torch.where((from_end <= counts[:, None])[..., None], x, self.padding)
        windows = x.view(-1, self.window, x.shape[-1])
        # the offsets' biases are all that knows of positions
        places = torch.arange(self.window, device=x.device)[None]
        states: Tensor = self.layer(
            windows[:, -1:], places[:, -1:], windows, places, self.offset_bias[None]
        )
        return states.view(len(x), -1, x.shape[-1])


def _ending_together(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Move every string to the right end of its row; what stands before it means nothing."""
    num_tokens = tokens.shape[1]
    places = torch.arange(num_tokens, device=tokens.device) - (num_tokens - lengths[:, None])
    return tokens.gather(1, places.clamp(min=0))
