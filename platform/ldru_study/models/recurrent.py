"""What the sequential baselines share: a cell of torch's over one-hot tokens, and the readout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldru_study.models.layers import Affine, last_states


class Recurrent(nn.Module):
    """A cell over the tokens; the readout is affine in relu(h_T)."""

    def __init__(self, cell: nn.RNN | nn.LSTM | nn.GRU, num_classes: int) -> None:
        super().__init__()
        self.cell = cell
        self.classifier = Affine(cell.hidden_size, num_classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C]; see `ldru_study.models`."""
        symbols = F.one_hot(tokens, self.cell.input_size).to(self.classifier.weight.dtype)
        # walking on over the padding takes half the time of a packed sequence on a CPU
        states, _ = self.cell(symbols)
        logits: Tensor = self.classifier(F.relu(last_states(states, lengths)))
        return logits

    def set_weights(self, w_input: Tensor, w_hidden: Tensor, bias: Tensor) -> None:
        """Set matrices [in, out] and the bias; torch adds two biases, the second starts at 0."""
        self.cell.load_state_dict(
            {
                "weight_ih_l0": w_input.mT,
                "weight_hh_l0": w_hidden.mT,
                "bias_ih_l0": bias,
                "bias_hh_l0": torch.zeros_like(bias),
            }
        )
