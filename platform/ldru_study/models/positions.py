"""How a Transformer's token knows its place: sinusoids, rotations, distances.

Every function is a formula of the position, so none has a longest length.
"""

from __future__ import annotations

import torch
from torch import Tensor

# the ratio of the slowest to the fastest wavelength
_BASE = 10_000.0


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return sines then cosines of ``positions`` [...] at width / 2 frequencies, [..., width].

    Source: Vaswani et al. 2017, section 3.5, with all sines before all cosines.
    """
    angles = _angles(positions, width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate feature pairs (i, i + D/2) of ``x`` [B, H, T, D] by angles that grow with position.

    Args:
        x: queries or keys; D even.
        positions: [B, T] or [1, T].

    Source: Su et al. 2021 (RoFormer), equation 34.
    """
    angles = _angles(positions, x.shape[-1])[:, None]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def turned_back(weights: Tensor, positions: Tensor) -> Tensor:
    """Turn weights of the sinusoids of i - j into weights of those of j.

    ``weights . sinusoids(i - j) = turned_back(weights, i) . sinusoids(j)``, because
    sin(i - j) = sin i cos j - cos i sin j and cos(i - j) = cos i cos j + sin i sin j.

    Args:
        weights: of sines, then cosines, [B, H, T, E].
        positions: i, [B, T] or [1, T].
    """
    angles = _angles(positions, weights.shape[-1])[:, None]
    cos, sin = angles.cos().to(weights.dtype), angles.sin().to(weights.dtype)
    of_sines, of_cosines = weights.chunk(2, dim=-1)
    return torch.cat([of_cosines * sin - of_sines * cos, of_sines * sin + of_cosines * cos], dim=-1)


def distance_bias(positions: Tensor, num_keys: int, num_heads: int) -> Tensor:
    """Return -slope |i - j| for queries at ``positions`` [B, Q] and all keys, [B, H, Q, T].

    Slopes fall geometrically from 2^(-8/H) to 2^-8 over the heads.

    Source: Press et al. 2022 (ALiBi), section 3, made symmetric for full attention.
    """
    keys = torch.arange(num_keys, device=positions.device)
    distances = (positions[:, None, :, None] - keys).abs()
    heads = torch.arange(1, num_heads + 1, device=positions.device)
    slopes = torch.exp2(-8 * heads / num_heads)
    return -slopes[:, None, None] * distances


def _angles(positions: Tensor, width: int) -> Tensor:
    pairs = torch.arange(width // 2, device=positions.device)
    return positions[..., None] * _BASE ** (-2 * pairs / width)
