"""The gated recurrent unit on one-hot tokens."""

from __future__ import annotations

import torch
from torch import nn

from ldru_study.models.layers import variance_scaling
from ldru_study.models.recurrent import Recurrent
from ldru_study.spec.model import GruConfig


class Gru(Recurrent):
    """Gated recurrent unit; both matrices as one LeCun normal matrix over [x; h], biases 0.

    ``h' = (1 - z) * tanh(W_n x + b_n + r * (U_n h + c_n)) + z * h``.

    Source: Cho et al. 2014, in the variant whose reset gate r acts after the product with U_n.
    """

    def __init__(self, config: GruConfig, num_symbols: int, num_classes: int) -> None:
        width = config.width
        super().__init__(nn.GRU(num_symbols, width, batch_first=True), num_classes)
        both = variance_scaling(num_symbols + width, 3 * width)
        self.set_weights(both[:num_symbols], both[num_symbols:], torch.zeros(3 * width))
