"""Recurrences that are affine in the state, in forms whose depth grows with log T or T / 32.

What they mean stands in `ldru_study.models.sequential`. B batch, T tokens, H heads, D and E
features. None divides by a decay or takes its logarithm, so that a state may be forgotten at once
and a long string cannot overflow where its states do not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# the most tokens that are taken together: a chunk's products grow with its square
_CHUNK = 32


def in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function of tensors compute in float32 or wider, also under autocast.

    Its result has the narrowest of its floating-point arguments' dtypes.
    """

    @functools.wraps(function)
    def wrapped(*tensors: Tensor) -> Tensor:
        floats = [x.dtype for x in tensors if x.is_floating_point()]
        wide = functools.reduce(torch.promote_types, floats, torch.float32)
        with torch.autocast(tensors[0].device.type, enabled=False):
            result = function(*(x.to(wide) if x.is_floating_point() else x for x in tensors))
        return result.to(min(floats, key=lambda dtype: dtype.itemsize))

    return wrapped


def diagonal_scan(decay: Tensor, inputs: Tensor) -> Tensor:
    """Return the states ``h_t = decay_t * h_{t-1} + inputs_t`` for all t, h_0 = 0.

    Args:
        decay: broadcasts to ``inputs``, real or complex.
        inputs: [B, T, ...] of the same dtype, T >= 1.

    Returns:
        States in the shape of ``inputs``.

    Source: Blelloch 1990, section 1.4; the backward pass is the same recurrence from the end,
    ``g_t = d_t + conj(decay_{t+1}) g_{t+1}``.
    """
    # of the sides only that of the tokens is needed in full
    sides = [decay.shape[0], inputs.shape[1], *decay.shape[2:]]
    states: Tensor = _DiagonalScan.apply(decay.expand(sides), inputs)  # type: ignore[no-untyped-call]
    return states


class _DiagonalScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor) -> Tensor:
        states = _scan(decay, inputs)
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor, Tensor]:
        decay, states = ctx.saved_tensors
        # what the last state passes on to no successor is not read
        after = torch.roll(decay.conj(), -1, dims=1)
        d_inputs = _scan(after, d_states, is_reversed=True)
        d_decay = torch.zeros_like(d_inputs)
        d_decay[:, 1:] = d_inputs[:, 1:] * states[:, :-1].conj()
        return d_decay.sum_to_size(decay.shape), d_inputs


def _scan(decay: Tensor, inputs: Tensor, *, is_reversed: bool = False) -> Tensor:
    """Combine neighbours, scan the pairs, and fill in the states between them.

    Reversed, the scan begins with the last token.
    """
    num_tokens = inputs.shape[1]
    if num_tokens == 1:
        return inputs
    # the tokens of the pairs, then those whose predecessor is the second of a pair
    if is_reversed:
        odd = num_tokens % 2
        start, first, second = -1, slice(1 + odd, None, 2), slice(odd, num_tokens - 1, 2)
        rest, before = slice(1 - odd, num_tokens - 2, 2), slice(1 - odd, None)
    else:
        start, first, second = 0, slice(0, num_tokens - 1, 2), slice(1, None, 2)
        rest, before = slice(2, None, 2), slice(0, (num_tokens - 1) // 2)
    pairs = torch.addcmul(inputs[:, second], decay[:, second], inputs[:, first])
    after = _scan(decay[:, second] * decay[:, first], pairs, is_reversed=is_reversed)
    states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    states[:, start], states[:, second] = inputs[:, start], after
    states[:, rest] = torch.addcmul(inputs[:, rest], decay[:, rest], after[:, before])
    return states


@in_float32
def selective_scan(decay: Tensor, values: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """Return ``S_t read_t`` where ``S_t = decay_t S_{t-1} + values_t write_t^T``, S_0 = 0.

    Args:
        decay: a number per head, [B, T, H].
        values: [B, T, H, D].
        write: shared by the heads, [B, T, E].
        read: [B, T, E].

    Returns:
        [B, T, H, D].

    Source: Dao and Gu 2024, section 6 (the chunked form); decays may be 0 or negative here.
    """
    num_tokens = values.shape[1]
    # heads before tokens, [B, N, H, S, ...] for N chunks of S tokens; write and read have no heads
    decay, values = (_chunks(x).transpose(2, 3) for x in (decay, values))
    write, read = (_chunks(x)[:, :, None] for x in (write, read))
    size = decay.shape[-1]
    # what of a write at s is left at t: the states of a recurrence that begins with 1 at s
    begins = torch.eye(size, dtype=decay.dtype, device=decay.device)
    flat = decay.flatten(0, 2)[..., None]
    left = diagonal_scan(flat, begins.expand(len(flat), size, size)).view(*decay.shape, size)
    within = (read @ write.mT * left) @ values

    # what of the state before the chunk is left at t
    kept = left[..., 0] * decay[..., :1]
    written = (left[..., -1, :, None] * values).mT @ write
    states = diagonal_scan(kept[..., -1, None, None], written)
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
    carried = kept[..., None] * (read @ before.mT)
    return (within + carried).transpose(2, 3).flatten(1, 2)[:, :num_tokens]


@in_float32
def delta_rule(query: Tensor, key: Tensor, value: Tensor, strength: Tensor) -> Tensor:
    """Return ``S_t q_t`` where each of a token's products turns S into S + b (v - S k) k^T.

    That is ``S (I - b k k^T) + b v k^T``, a generalised Householder transformation of the state,
    which begins with 0 and goes through the n products of a token before it is read.

    Args:
        query: [B, H, T, D].
        key: of norm 1, [B, H, T, n, D].
        value: [B, H, T, n, E].
        strength: b, in [0, 2], [B, H, T, n].

    Returns:
        [B, H, T, E].

    Source: Yang et al. 2024, section 3.2 (the UT transform); within a chunk the errors
    ``u_i = b_i (v_i - S_0 k_i - sum_{j<i} (k_i . k_j) u_j)`` solve a triangular system.
    """
    num_tokens, num_products = key.shape[2:4]
    # beyond the end nothing is written
    query, key, value, strength = (
        _chunks(x.transpose(1, 2)).transpose(2, 3).transpose(1, 2)
        for x in (query, key, value, strength)
    )
    size = query.shape[3]
    key, value, strength = (x.flatten(3, 4) for x in (key, value, strength))
    weighted = strength[..., None] * key
    # unitriangular: the solver does not read the diagonal
    system = (weighted @ key.mT).tril(-1)
    sides = torch.cat([strength[..., None] * value, weighted], dim=-1)
    solved = torch.linalg.solve_triangular(system, sides, upper=False, unitriangular=True)
    errors, of_state = solved.split([value.shape[-1], key.shape[-1]], dim=-1)

    # a query sees the products of its own token and of those before it in the chunk
    places = torch.arange(size, device=key.device)
    is_before = places.repeat_interleave(num_products) <= places[:, None]
    scores = (query @ key.mT) * is_before

    state = value.new_zeros(*key.shape[:2], key.shape[-1], value.shape[-1])
    results = []
    for chunk in range(key.shape[2]):
        written = errors[:, :, chunk] - of_state[:, :, chunk] @ state
        results.append(query[:, :, chunk] @ state + scores[:, :, chunk] @ written)
        state = state + key[:, :, chunk].mT @ written
    return torch.cat(results, dim=2)[:, :, :num_tokens]


@in_float32
def affine_reduce(matrices: Tensor, offsets: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return h_T where ``h_t = matrices[x_t] h_{t-1} + offsets[x_t]``, h_0 = 0.

    A balanced tree over the tokens merges neighbours ``(A, a), (B, b)`` to ``(B A, B a + b)``,
    equal pairs of a level once.

    Args:
        matrices: of every symbol, [V, E, E].
        offsets: of every symbol, [V, E].
        tokens: int64 [B, T].
        lengths: tokens that count in each string, int64 [B], each in 1..T.

    Returns:
        [B, E].
    """
    # one symbol more that changes nothing stands beyond the end
    nothing = len(matrices)
    identity = torch.eye(offsets.shape[1], dtype=offsets.dtype, device=offsets.device)
    matrices = torch.cat([matrices, identity[None]])
    offsets = torch.cat([offsets, torch.zeros_like(offsets[:1])])
    is_real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    nodes = tokens.where(is_real, nothing)
    # a level at least, so that the matrices have a gradient, if only 0
    for _ in range(max((nodes.shape[1] - 1).bit_length(), 1)):
        if nodes.shape[1] % 2:
            nodes = F.pad(nodes, (0, 1), value=nothing)
        num_nodes = len(matrices)
        pairs = nodes[:, ::2] * num_nodes + nodes[:, 1::2]
        # the pair of two that change nothing has the largest number: it comes last again
        last = pairs.new_full((1,), num_nodes**2 - 1)
        distinct, nodes = torch.unique(torch.cat([pairs.flatten(), last]), return_inverse=True)
        left, right = distinct // num_nodes, distinct % num_nodes
        offsets = (matrices[right] @ offsets[left, :, None])[..., 0] + offsets[right]
        matrices = matrices[right] @ matrices[left]
        nodes, nothing = nodes[:-1].view_as(pairs), len(distinct) - 1
    return offsets[nodes[:, 0]]


def _chunks(x: Tensor) -> Tensor:
    """Cut [B, T, ...] into [B, N, S, ...], chunks of equal size; zeros fill the last one."""
    num_tokens = x.shape[1]
    num_chunks = -(-num_tokens // _CHUNK)
    size = -(-num_tokens // num_chunks)
    missing = num_chunks * size - num_tokens
    if missing:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
    return x.reshape(x.shape[0], -1, size, *x.shape[2:])
