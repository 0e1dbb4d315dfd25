"""What the recurrences of `ldru_study.models.recurrences` mean: one token after the other.

Same names, arguments and results as there. B batch, T tokens, H heads, D and E features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_scan(decay: Tensor, inputs: Tensor) -> Tensor:
    """Return ``h_t = decay_t * h_{t-1} + inputs_t`` for all t, h_0 = 0."""
    state, states = torch.zeros_like(inputs[:, 0]), []
    for t in range(inputs.shape[1]):
        state = decay[:, t if decay.shape[1] > 1 else 0] * state + inputs[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


def selective_scan(decay: Tensor, values: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """Return ``S_t read_t`` where ``S_t = decay_t S_{t-1} + values_t write_t^T``, S_0 = 0."""
    batch, num_tokens, heads, width = values.shape
    state, results = values.new_zeros(batch, heads, width, write.shape[-1]), []
    for t in range(num_tokens):
        written = values[:, t, :, :, None] * write[:, t, None, None]
        state = decay[:, t, :, None, None] * state + written
        results.append((state * read[:, t, None, None]).sum(-1))
    return torch.stack(results, dim=1)


def delta_rule(query: Tensor, key: Tensor, value: Tensor, strength: Tensor) -> Tensor:
    """Return ``S_t q_t`` where each of a token's products turns S into S + b (v - S k) k^T."""
    batch, heads, num_tokens, num_products, width = key.shape
    state, results = value.new_zeros(batch, heads, value.shape[-1], width), []
    for t in range(num_tokens):
        for n in range(num_products):
            k = key[:, :, t, n]
            error = value[:, :, t, n] - (state @ k[..., None])[..., 0]
            state = state + strength[:, :, t, n, None, None] * error[..., None] * k[..., None, :]
        results.append((state @ query[:, :, t, :, None])[..., 0])
    return torch.stack(results, dim=2)


def affine_reduce(matrices: Tensor, offsets: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return h_T where ``h_t = matrices[x_t] h_{t-1} + offsets[x_t]``, h_0 = 0."""
    state = offsets.new_zeros(len(tokens), offsets.shape[1])
    for t in range(tokens.shape[1]):
        symbol = tokens[:, t]
        after = (matrices[symbol] @ state[..., None])[..., 0] + offsets[symbol]
        state = torch.where((t < lengths)[:, None], after, state)
    return state
