"""What the ops mean: the shortest plain PyTorch, one merge at a time.

Source: arXiv 2605.26035, section 3; the gated recursive cell is Shen et al., arXiv 1910.13466.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ldru_kernels.dropout import is_kept, noise
from ldru_kernels.formulas import affine, layer_norm
from ldru_kernels.operators import FORMULAS
from ldru_kernels.schedule import build_schedule, fold
from ldru_kernels.weights import (
    ElementwiseSum,
    FeedForward,
    GatedRecursiveCell,
    GatedSum,
    Linear,
    MergeWeights,
    Mlp,
    Operator,
    TanhGatedRecursiveCell,
    member,
    operator_name,
)


def feed_forward(x: Tensor, ffn: FeedForward) -> Tensor:
    """Return ``relu(x w1 + b1) w2 + b2``, [..., E]; the residual is the caller's."""
    return affine(F.relu(affine(x, ffn.w1, ffn.b1)), ffn.w2, ffn.b2)


def merge(pairs: Tensor, operator: Operator) -> Tensor:
    """Apply the operator to pairs [l; r], [..., 2E] -> [..., E].

    Two neighbours of a level lie next to each other, so a pair is a view and not a copy.
    """
    left, right = pairs.chunk(2, dim=-1)
    match operator:
        case Mlp() as op:
            hidden = F.relu(affine(F.relu(affine(pairs, op.w1, op.b1)), op.w2, op.b2))
            gate_left, gate_right = affine(hidden, op.w3, op.b3).chunk(2, dim=-1)
            value_left = affine(gate_left * left, op.v_left, op.a_left)
            value_right = affine(gate_right * right, op.v_right, op.a_right)
            return affine(value_left + value_right, op.w_out, op.b_out)
        case GatedRecursiveCell() as op:
            form = "tanh" if isinstance(op, TanhGatedRecursiveCell) else "none"
            active = F.gelu(affine(pairs, op.w1, op.b1), approximate=form)
            cell = affine(active, op.w2, op.b2)
            keep_left, keep_right, write, content = cell.chunk(4, dim=-1)
            total = keep_left.sigmoid() * left + keep_right.sigmoid() * right
            total = total + write.sigmoid() * content
            return layer_norm(total, op.norm_weight, op.norm_bias)
        case GatedSum() as op:
            gate = affine(pairs, op.weight, op.bias).sigmoid()
            return gate * left + (1 - gate) * right
        case Linear() as op:
            return affine(pairs, op.weight, op.bias)
        case ElementwiseSum():
            return left + right
        case _:
            return FORMULAS[operator_name(operator)].merge(pairs, operator)


def parent_states(pairs: Tensor, weights: MergeWeights) -> Tensor:
    """Return the states of the parents of pairs [l; r]: merge, node FFN, norm.

    Args:
        pairs: left and right children side by side, [..., 2E]; [P, n, 2E] for a population.
        weights: of the same E, dtype and device.

    Returns:
        Parent states, [..., E].
    """
    merged = merge(pairs, weights.operator)
    return layer_norm(merged + feed_forward(merged, weights.node_ffn), *weights.node_norm)


def tree_reduce(
    leaves: Tensor,
    weights: MergeWeights,
    *,
    lengths: Tensor | None = None,
    lone_node: str = "zero_left",
    dropout: float = 0.0,
    node_noise: float = 0.0,
    seed: Tensor | None = None,
    offsets: tuple[int, ...] = (),
) -> Tensor:
    """Combine every sequence to one state; the definition of `ldru_kernels.tree_reduce`.

    With a seed of `dropout.new_seed`, the k-th merge of the schedule has the k-th mask and
    the k-th noise.
    """
    if leaves.dim() == 3:
        return _reduce(leaves, weights, 0, lengths, lone_node, dropout, node_noise, seed, offsets)
    roots = [
        _reduce(
            trees, member(weights, p), p, lengths, lone_node, dropout, node_noise, seed, offsets
        )
        for p, trees in enumerate(leaves)
    ]
    return torch.stack(roots)


def _reduce(
    leaves: Tensor,
    weights: MergeWeights,
    p: int,
    lengths: Tensor | None,
    lone_node: str,
    dropout: float,
    node_noise: float,
    seed: Tensor | None,
    offsets: tuple[int, ...],
) -> Tensor:
    batch, num_tokens, width = leaves.shape
    counted = [num_tokens] * batch if lengths is None else lengths.tolist()
    schedule = build_schedule(counted, num_tokens, lone_node, offsets=offsets)
    extra = leaves.new_zeros(width) if weights.identity is None else weights.identity
    numbers = iter(range(schedule.num_merges))

    def join(left: Tensor, right: Tensor) -> Tensor:
        state, number = parent_states(torch.cat([left, right]), weights), next(numbers)
        if seed is None:
            return state
        place = seed, p + 1, torch.tensor([number]), width
        state = state * is_kept(*place, dropout)[p, 0] / (1 - dropout)
        return state + noise(*place, node_noise, state.dtype)[p, 0]

    return torch.stack(fold(schedule, [*leaves.flatten(0, 1), extra], join))


def prefix_scan(
    leaves: Tensor,
    weights: MergeWeights,
    *,
    lengths: Tensor | None = None,
    inclusive: bool = True,
    root: Tensor | None = None,
) -> Tensor:
    """Return the state of every prefix; the definition of `ldru_kernels.prefix_scan`."""
    if leaves.dim() == 4:
        roots = [None] * len(leaves) if root is None else root
        scans = [
            prefix_scan(
                tree, member(weights, p), lengths=lengths, inclusive=inclusive, root=roots[p]
            )
            for p, tree in enumerate(leaves)
        ]
        return torch.stack(scans)

    def join(left: Tensor, right: Tensor) -> Tensor:
        return parent_states(torch.cat([left, right]), weights)

    def block(tokens: Tensor) -> Tensor:
        if len(tokens) == 1:
            return tokens[0]
        left, right = tokens.chunk(2)
        return join(block(left), block(right))

    def prefix(tokens: Tensor) -> Tensor:
        size = len(tokens) & -len(tokens)
        last, before = block(tokens[-size:]), tokens[:-size]
        if len(before):
            return join(prefix(before), last)
        return last if root is None else join(root, last)

    states = torch.zeros_like(leaves)
    if root is not None and not inclusive:
        states[:, 0] = root
    for b, row in enumerate(leaves):
        for t in range(not inclusive, len(row) if lengths is None else int(lengths[b])):
            states[b, t] = prefix(row[: t + inclusive])
    return states
