"""S5: a state-space model with diagonal complex transitions that no token changes.

Source: Smith et al. 2023, arXiv 2208.04933.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldru_study.models.layers import BlockStack, truncated_normal, variance_scaling
from ldru_study.models.recurrences import diagonal_scan, in_float32
from ldru_study.spec.linear_recurrences import S5Config

# steps are drawn between these, every order of magnitude as likely
_SMALLEST_STEP, _LARGEST_STEP = 1e-3, 0.1


class S5(BlockStack):
    """Embedding, blocks, affine readout of the last state."""

    def __init__(self, config: S5Config, num_symbols: int, num_classes: int) -> None:
        blocks = (_Block(config) for _ in range(config.layers))
        super().__init__(config.width, num_symbols, num_classes, blocks, is_normed=False)


class _Block(nn.Module):
    """``LN(x + dropout(gelu(y)))`` with ``s' = Lambda s + B x``, ``y = 2 Re(C s) + D x``.

    One of every conjugate pair of states is kept. Lambda, B and C begin as the normal part of
    HiPPO-LegS in its eigenbasis. Inputs are held for a step of learned length (zero-order hold):
    ``s_t = exp(Lambda d) s_{t-1} + (exp(Lambda d) - 1) / Lambda B x_t``.
    """

    def __init__(self, config: S5Config) -> None:
        super().__init__()
        width, pairs = config.width, config.state // 2
        self.dropout = config.dropout
        eigenvalues, basis = _hippo(config.state)
        self.log_decay = nn.Parameter((-eigenvalues.real).log())
        self.frequency = nn.Parameter(eigenvalues.imag.clone())
        into = torch.complex(variance_scaling(width, config.state), torch.zeros(()))
        out = torch.complex(*variance_scaling(config.state, 2 * width).chunk(2, dim=1))
        # a complex parameter as its real and imaginary parts: optimisers know real numbers
        self.w_in = nn.Parameter(torch.view_as_real((into @ basis.conj()).contiguous()))
        self.w_out = nn.Parameter(torch.view_as_real((basis.mT @ out).contiguous()))
        self.w_skip = nn.Parameter(truncated_normal(width, std=1))
        low, high = math.log(_SMALLEST_STEP), math.log(_LARGEST_STEP)
        self.log_step = nn.Parameter(torch.empty(pairs).uniform_(low, high))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, E] to [B, T, E]."""
        dynamics = torch.stack([self.log_decay, self.frequency, self.log_step])
        y = _response(x, dynamics, self.w_in, self.w_out, self.w_skip)
        out: Tensor = self.norm(x + F.dropout(F.gelu(y), self.dropout, self.training))
        return out


@in_float32
def _response(x: Tensor, dynamics: Tensor, w_in: Tensor, w_out: Tensor, w_skip: Tensor) -> Tensor:
    """Return y of `_Block`, [B, T, E]; complex numbers have no narrower form than float32."""
    log_decay, frequency, log_step = dynamics
    eigenvalues = torch.complex(-log_decay.exp(), frequency)
    decay = (eigenvalues * log_step.exp()).exp()
    written_by = torch.view_as_complex(w_in) * ((decay - 1) / eigenvalues)
    written = torch.complex(x @ written_by.real, x @ written_by.imag)
    states = diagonal_scan(decay[None, None], written)
    read = states.real @ w_out[..., 0] - states.imag @ w_out[..., 1]
    return 2 * read + w_skip * x


@lru_cache(maxsize=8)
def _hippo(size: int) -> tuple[Tensor, Tensor]:
    """Return half of the eigenvalues of HiPPO-N, and their eigenvectors, [P] and [2P, P].

    ``-1/2 I + S`` with ``S_nk = 1/2 sqrt((2n + 1)(2k + 1))``, negative where n > k. Of every
    conjugate pair the one with the positive imaginary part is returned.

    Source: Smith et al. 2023, section 4.3 and appendix B.1.
    """
    roots = np.sqrt(2 * np.arange(size) + 1)
    outer = np.outer(roots, roots) / 2
    skew = np.triu(outer, 1) - np.tril(outer, -1)
    frequencies, vectors = np.linalg.eigh(-1j * skew)
    half = slice(size // 2, None)
    eigenvalues, vectors = -0.5 + 1j * frequencies[half], vectors[:, half]
    # an eigenvector's phase is free, and libraries differ: the first component is to be positive
    vectors = vectors * np.exp(-1j * np.angle(vectors[0]))
    dtype = torch.complex64
    return torch.tensor(eigenvalues, dtype=dtype), torch.tensor(vectors, dtype=dtype)
