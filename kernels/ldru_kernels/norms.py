"""How large states and their gradients are at every level: does the signal get through a tree?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ldru_kernels.checks import check_identity, check_lengths, check_tokens
from ldru_kernels.chunks import Stretch, group_merges, reduce_stretch, token_leaves
from ldru_kernels.frontend import Execution, padding, prepare
from ldru_kernels.levels import needs_padding
from ldru_kernels.parts import build_chunks, build_join, build_zero_tree
from ldru_kernels.reference import parent_states
from ldru_kernels.schedule import Schedule, build_schedule
from ldru_kernels.weights import MergeWeights, operator_name

# tokens whose nodes are all looked at; of a longer sequence, those of evenly spaced chunks below
# the chunks' height, so many of them
_MOST_TOKENS, _HEIGHT, _MOST_CHUNKS = 2**14, 10, 16

# one number from the roots of the first sequences, [n, E]
Loss = Callable[[Tensor], Tensor]


class LevelNorms(NamedTuple):
    """Of every level, leaves first and the last merge at the end, float32 [D + 1] each.

    ``states`` is the root mean square of the norms of the level's nodes. ``gradients`` is the norm
    of the loss's gradient with respect to all nodes of a level, of one sequence in the root mean
    square.
    """

    states: Tensor
    gradients: Tensor


def level_norms(
    table: Tensor,
    tokens: Tensor,
    weights: MergeWeights,
    loss: Loss,
    *,
    lengths: Tensor,
    lone_node: str = "zero_left",
) -> LevelNorms:
    """Return the norms of the levels of `tree_reduce_tokens`, without dropout.

    It looks at the first sequences that have 2^14 tokens together. If the first one alone is
    longer, it is reduced in chunks, and what is below their roots is an estimate from 16 of them.

    Args:
        table: as in `tree_reduce_tokens`, without a population.
        tokens: as in `tree_reduce_tokens`.
        weights: the same.
        loss: the sum of the losses of the first n sequences, from their roots, [n, E].
        lengths: as in `tree_reduce_tokens`.
        lone_node: as in `tree_reduce_tokens`.

    Raises:
        ValueError: as `tree_reduce_tokens` does.
    """
    check_tokens(table, tokens, weights, 0.0)
    check_identity(weights, lone_node)
    counted = check_lengths(lengths, *tokens.shape)
    states = table.detach()
    extra = padding(weights, states[None])[0] if needs_padding(lone_node) else states[:0]
    fits = int((np.cumsum(counted) <= _MOST_TOKENS).sum())
    if not fits:
        stretch = Stretch((counted[0],), lone_node, _HEIGHT, 0, counted[0])
        return _of_chunks(stretch, states, tokens[:1, : counted[0]], weights, extra.detach(), loss)
    counted = counted[:fits]
    tokens = tokens[:fits, : max(counted)].to(table.device)
    is_read = torch.arange(tokens.shape[1]) < torch.tensor(counted)[:, None]
    is_read = is_read.to(table.device)
    leaves = states[tokens.where(is_read, 0).flatten()]
    walked = _walk(
        build_schedule(counted, tokens.shape[1], lone_node), leaves, extra.detach(), weights, loss
    )
    norms = _norms([walked[0]._replace(state=leaves[is_read.flatten()]), *walked[1:]])
    return LevelNorms(norms.states, norms.gradients / fits**0.5)


def _of_chunks(
    stretch: Stretch,
    table: Tensor,
    tokens: Tensor,
    weights: MergeWeights,
    extra: Tensor,
    loss: Loss,
) -> LevelNorms:
    """Return the norms of one long sequence: exact above its chunks, of some of them below."""
    rows = stretch.rows
    leaves = token_leaves(stretch, tokens, len(table), 0.0, is_shared=True)
    with torch.no_grad():
        execution = Execution(0.0, None, "auto", recompute=True)
        most = group_merges(table[None], operator_name(weights.operator))
        made = prepare(table[None], extra[None], weights, execution, most)
        results = reduce_stretch(leaves, made)[0]
        above = extra
        if stretch.lone_node == "pad_power_of_two":
            zero_tree = build_zero_tree(stretch.height)
            above = _run(zero_tree, extra, weights)[0]
    join = build_join(
        stretch.num_tokens.tolist(),
        len(results),
        stretch.lone_node,
        is_open=[False],
        heights=(stretch.height, None),
        digits=stretch.digits,
    )
    top = _walk(join, results, above, weights, loss)
    # a short chunk is not like the others
    complete = (rows.num_tokens == stretch.size).nonzero()[0]
    places = np.linspace(0, len(complete) - 1, min(_MOST_CHUNKS, len(complete)))
    sample = complete[places.astype(np.int64)]
    chosen = torch.from_numpy(rows.firsts[sample])[:, None] + torch.arange(stretch.size)
    below = build_chunks(
        [stretch.size] * len(sample),
        stretch.size,
        stretch.lone_node,
        [True] * len(sample),
        stretch.digits,
    )
    each = 1 + len(stretch.digits)
    d_roots = top[0].gradient[torch.from_numpy(sample).to(table.device) * each]

    def passed_on(found: Tensor) -> Tensor:
        return (found[::each] * d_roots).sum()

    symbols = tokens.cpu()[0, chosen.flatten()].to(table.device)
    lower = _norms(_walk(below, table[symbols], extra, weights, passed_on))
    upper = _norms(top[1:])
    share = (len(complete) / len(sample)) ** 0.5
    return LevelNorms(
        torch.cat([lower.states, upper.states]),
        torch.cat([lower.gradients * share, upper.gradients]),
    )


class _Level(NamedTuple):
    """The states of a level's nodes and their gradients, [N, E] each."""

    state: Tensor
    gradient: Tensor


def _walk(
    schedule: Schedule, leaves: Tensor, extra: Tensor, weights: MergeWeights, loss: Loss
) -> list[_Level]:
    """Return the leaves [N, E] of a schedule, and the parents of each of its levels."""
    with torch.enable_grad():
        leaves = leaves.detach().requires_grad_()
        results, levels = _run(schedule, torch.cat([leaves, extra]), weights)
        found = [leaves, *levels]
        gradients = torch.autograd.grad(loss(results), found)
    return [_Level(a.detach(), b) for a, b in zip(found, gradients, strict=True)]


def _run(schedule: Schedule, inputs: Tensor, weights: MergeWeights) -> tuple[Tensor, list[Tensor]]:
    """Run a schedule in plain PyTorch, where every level is a tensor that has a gradient."""
    nodes, levels = inputs, []
    for level in schedule.levels:
        left, right = (torch.from_numpy(side).to(inputs.device) for side in level)
        levels.append(parent_states(torch.cat([nodes[left], nodes[right]], dim=1), weights))
        nodes = torch.cat([nodes, levels[-1]])
    return nodes[torch.from_numpy(schedule.roots).to(inputs.device)], levels


def _norms(levels: list[_Level]) -> LevelNorms:
    return LevelNorms(
        torch.stack([level.state.float().square().sum(1).mean().sqrt() for level in levels]),
        torch.stack([level.gradient.float().norm() for level in levels]),
    )
