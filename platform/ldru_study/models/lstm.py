"""Long short-term memory on one-hot tokens."""

from __future__ import annotations

import torch
from torch import nn

from ldru_study.models.layers import variance_scaling
from ldru_study.models.recurrent import Recurrent
from ldru_study.spec.model import LstmConfig


class Lstm(Recurrent):
    """Long short-term memory; both matrices as one LeCun normal matrix over [x; h], forget bias 1.

    Source: Jozefowicz et al., ICML 2015, for the forget bias.
    """

    def __init__(self, config: LstmConfig, num_symbols: int, num_classes: int) -> None:
        width = config.width
        super().__init__(nn.LSTM(num_symbols, width, batch_first=True), num_classes)
        both = variance_scaling(num_symbols + width, 4 * width)
        # torch orders the gates input, forget, cell, output
        bias = torch.zeros(4, width)
        bias[1] = 1
        self.set_weights(both[:num_symbols], both[num_symbols:], bias.flatten())
