"""SD-SSM: a state-space model whose dense transitions are mixed from a dictionary by the token.

Source: Terzic et al. 2025, arXiv 2412.19350.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldru_study.models.layers import Affine, truncated_normal, variance_scaling
from ldru_study.models.recurrences import affine_reduce
from ldru_study.spec.linear_recurrences import SdSsmConfig

# of the norm that columns have 1 of
_ORDER = 1.2


class SdSsm(nn.Module):
    """``h_t = A_t h_{t-1} + B x_t``, readout affine in LN(h_T).

    ``A_t = sum_k softmax(W x_t)_k A_k``, then every column is divided by its p-norm, p = 1.2. The
    dictionary begins as the identity plus a LeCun normal matrix each, so that a fresh state
    outlives some tokens.
    """

    def __init__(self, config: SdSsmConfig, num_symbols: int, num_classes: int) -> None:
        super().__init__()
        width = config.width
        self.side = -2 if config.normalise == "column" else -1
        self.embedding = nn.Embedding(num_symbols, width)
        self.embedding.weight = nn.Parameter(truncated_normal(num_symbols, width, std=1))
        self.w_choice = nn.Parameter(variance_scaling(width, config.matrices))
        dictionary = [
            torch.eye(width) + variance_scaling(width, width) for _ in range(config.matrices)
        ]
        self.dictionary = nn.Parameter(torch.stack(dictionary))
        self.w_in = nn.Parameter(variance_scaling(width, width))
        self.norm = nn.LayerNorm(width)
        self.classifier = Affine(width, num_classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C]; see `ldru_study.models`."""
        # a transition depends on its symbol alone
        symbols = self.embedding.weight
        weights = (symbols @ self.w_choice).softmax(dim=1)
        matrices = torch.einsum("vk,kij->vij", weights, self.dictionary)
        norms = torch.linalg.vector_norm(matrices, _ORDER, dim=self.side, keepdim=True)
        states = affine_reduce(matrices / norms, symbols @ self.w_in, tokens, lengths)
        logits: Tensor = self.classifier(self.norm(states))
        return logits
