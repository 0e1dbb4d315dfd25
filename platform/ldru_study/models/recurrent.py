"""The sequential baselines on one-hot tokens: Elman network with ReLU, and LSTM."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldru_study.models.layers import Affine, variance_scaling
from ldru_study.spec.model import LstmConfig, RnnConfig


class _Recurrent(nn.Module):
    """A cell over the tokens; the readout is affine in relu(h_T)."""

    def __init__(self, cell: nn.RNN | nn.LSTM, num_classes: int) -> None:
        super().__init__()
        self.cell = cell
        self.classifier = Affine(cell.hidden_size, num_classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C]; see `ldru_study.models`."""
        # walking on over the padding takes half the time of a packed sequence on a CPU
        states, _ = self.cell(self._symbols(tokens))
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        return self._readout(last)

    def stream(self, lengths: Tensor) -> RecurrentStream:
        """Begin to read strings of ``lengths``, int64 [B], piece by piece."""
        return RecurrentStream(self, lengths)

    def _symbols(self, tokens: Tensor) -> Tensor:
        return F.one_hot(tokens, self.cell.input_size).to(self.classifier.weight.dtype)

    def _readout(self, last: Tensor) -> Tensor:
        logits: Tensor = self.classifier(F.relu(last))
        return logits


class RecurrentStream:
    """Strings that a recurrent model reads piece by piece; see `ldru_study.models.registry.Stream`.

    Holds the state, and of strings that have ended the last one.
    """

    def __init__(self, model: _Recurrent, lengths: Tensor) -> None:
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


class Rnn(_Recurrent):
    """``h = relu(W_i x + W_h h + b)``, both matrices LeCun normal, b 0."""

    def __init__(self, config: RnnConfig, num_symbols: int, num_classes: int) -> None:
        cell = nn.RNN(num_symbols, config.width, nonlinearity="relu", batch_first=True)
        super().__init__(cell, num_classes)
        _set_weights(
            cell,
            variance_scaling(num_symbols, config.width),
            variance_scaling(config.width, config.width),
            torch.zeros(config.width),
        )


class Lstm(_Recurrent):
    """Long short-term memory; both matrices as one LeCun normal matrix over [x; h], forget bias 1.

    Source: Jozefowicz et al., ICML 2015, for the forget bias.
    """

    def __init__(self, config: LstmConfig, num_symbols: int, num_classes: int) -> None:
        width = config.width
        cell = nn.LSTM(num_symbols, width, batch_first=True)
        super().__init__(cell, num_classes)
        both = variance_scaling(num_symbols + width, 4 * width)
        # torch orders the gates input, forget, cell, output
        bias = torch.zeros(4, width)
        bias[1] = 1
        _set_weights(cell, both[:num_symbols], both[num_symbols:], bias.flatten())


def _set_weights(cell: nn.RNN | nn.LSTM, w_input: Tensor, w_hidden: Tensor, bias: Tensor) -> None:
    """Set matrices [in, out] and the bias; torch adds two biases, the second starts at 0."""
    cell.load_state_dict(
        {
            "weight_ih_l0": w_input.mT,
            "weight_hh_l0": w_hidden.mT,
            "bias_ih_l0": bias,
            "bias_hh_l0": torch.zeros_like(bias),
        }
    )
