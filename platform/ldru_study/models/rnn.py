"""The Elman network with ReLU on one-hot tokens."""

from __future__ import annotations

import torch
from torch import nn

from ldru_study.models.layers import variance_scaling
from ldru_study.models.recurrent import Recurrent
from ldru_study.spec.model import RnnConfig


class Rnn(Recurrent):
    """``h = relu(W_i x + W_h h + b)``, both matrices LeCun normal, b 0."""

    def __init__(self, config: RnnConfig, num_symbols: int, num_classes: int) -> None:
        width = config.width
        cell = nn.RNN(num_symbols, width, nonlinearity="relu", batch_first=True)
        super().__init__(cell, num_classes)
        w_input, w_hidden = variance_scaling(num_symbols, width), variance_scaling(width, width)
        self.set_weights(w_input, w_hidden, torch.zeros(width))
