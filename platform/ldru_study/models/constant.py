"""The model that ignores its input: chance itself, and the platform's own overhead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldru_study.spec.model import ConstantConfig


class Constant(nn.Module):
    """A learned bias, at first 0."""

    def __init__(self, config: ConstantConfig, num_symbols: int, num_classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the same logits for every string; see `ldru_study.models`."""
        return self.bias.expand(len(tokens), -1)
