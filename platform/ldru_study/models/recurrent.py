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
        # walking on over the padding takes half the time of a packed sequence on a CPU
        states, _ = self.cell(self._symbols(tokens))
        return self._readout(last_states(states, lengths))

    def stream(self, lengths: Tensor) -> RecurrentStream:
        """Begin to read strings of ``lengths``, int64 [B], piece by piece."""
        return RecurrentStream(self, lengths)

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

    def _symbols(self, tokens: Tensor) -> Tensor:
        return F.one_hot(tokens, self.cell.input_size).to(self.classifier.weight.dtype)

    def _readout(self, last: Tensor) -> Tensor:
        logits: Tensor = self.classifier(F.relu(last))
        return logits


class RecurrentStream:
    """Strings that a recurrent model reads piece by piece; see `ldru_study.models.registry.Stream`.

    Holds the state, and of strings that have ended the last one.
    """

    def __init__(self, model: Recurrent, lengths: Tensor) -> None:
        self.model, self.lengths, self.num_tokens = model, lengths, 0
        self._state: Tensor | tuple[Tensor, Tensor] | None = None
        weight = model.classifier.weight
        self._last = weight.new_zeros(len(lengths), model.cell.hidden_size)

    @torch.no_grad()
    def push(self, tokens: Tensor) -> None:
        """Take the next tokens; see `ldru_study.models.registry.Stream`."""
        states, self._state = self.model.cell(self.model._symbols(tokens), self._state)
        places = self.lengths - 1 - self.num_tokens
        ends = (places >= 0) & (places < tokens.shape[1])
        self._last[ends] = states[ends, places[ends]]
        self.num_tokens += tokens.shape[1]

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Return the logits; see `ldru_study.models.registry.Stream`."""
        return self.model._readout(self._last)
