"""How a schedule runs level by level: each step holds only the nodes that are still to be read.

One growing buffer of all nodes would be copied at every level, O(T log T); the frontiers of a
balanced tree shrink by half, so that their sum is O(T), and without gradients a level's states
are freed as soon as the next stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ldru_kernels.reference import parent_states
from ldru_kernels.schedule import Schedule
from ldru_kernels.weights import MergeWeights

# 64 plans of this many leaves are about 60 MiB
_LARGEST_CACHED = 2**15
# elements of one block of pairs: its hidden layers, twice as large, stay in cache. Measured
# at E = 32 and 64: evaluation takes 0.5 to 0.7 of the time without blocks, training 0.75 to 0.95
_CPU_BLOCK = 2**17


@dataclass(frozen=True)
class Step:
    """One level: the next frontier is the nodes kept, then the parents made.

    ``reads`` int64 [K + 2N] are rows of the present frontier: K = ``num_kept`` nodes to keep, then
    the children of N merges, left and right in turn.
    """

    reads: Tensor
    num_kept: int


@dataclass(frozen=True)
class Plan:
    """A schedule as steps; ``roots`` int64 [B] are rows of the last frontier."""

    steps: tuple[Step, ...]
    roots: Tensor

    def to(self, device: torch.device) -> Plan:
        """Return the plan with its tensors on ``device``."""
        steps = tuple(Step(step.reads.to(device), step.num_kept) for step in self.steps)
        return Plan(steps, self.roots.to(device))


def plan_for(
    build: Callable[..., Schedule],
    lengths: Sequence[int],
    num_tokens: int,
    device: torch.device,
    **options: str | bool,
) -> Plan:
    """Return the plan of a batch, with its tensors on ``device``.

    Args:
        build: `build_schedule` or `build_scan`; a function that is defined once, for the cache.
        lengths: [B], each in 1..num_tokens.
        num_tokens: T, the leaves that a sequence has room for.
        device: of the leaves.
        options: further arguments of ``build``.
    """
    key = (build, tuple(lengths), num_tokens, str(device), tuple(options.items()))
    if len(lengths) * num_tokens > _LARGEST_CACHED:
        return _plan_for.__wrapped__(*key)
    return _plan_for(*key)


@lru_cache(maxsize=64)
def _plan_for(
    build: Callable[..., Schedule],
    lengths: tuple[int, ...],
    num_tokens: int,
    device: str,
    options: tuple[tuple[str, str | bool], ...],
) -> Plan:
    # a tensor made in inference mode could not serve a later backward pass
    with torch.inference_mode(mode=False):
        return follow(build(lengths, num_tokens, **dict(options))).to(torch.device(device))


def follow(schedule: Schedule) -> Plan:
    """Return the frontiers of any schedule, also one that reads a node more than once."""
    num_nodes = schedule.num_inputs + schedule.num_merges
    # a node is a row of the frontiers from level ``since`` to level ``last_read``
    since, last_read = torch.zeros(num_nodes, dtype=torch.int64), torch.full((num_nodes,), -1)
    first = schedule.num_inputs
    children = [torch.stack(level, dim=1).flatten() for level in schedule.levels]
    for level, nodes in enumerate(children):
        last_read[nodes] = level
        since[first:] = level + 1
        first += len(nodes) // 2
    last_read[schedule.roots] = len(children)
    waiting = (last_read > since).nonzero()[:, 0]

    row_of = torch.arange(num_nodes)
    first = schedule.num_inputs
    steps = []
    for level, nodes in enumerate(children):
        kept = waiting[(since[waiting] <= level) & (last_read[waiting] > level)]
        steps.append(Step(row_of[torch.cat([kept, nodes])], len(kept)))
        num_merges = len(nodes) // 2
        row_of[kept] = torch.arange(len(kept))
        row_of[first : first + num_merges] = len(kept) + torch.arange(num_merges)
        first += num_merges
    return Plan(tuple(steps), row_of[schedule.roots])


def run(plan: Plan, inputs: Tensor, weights: MergeWeights, dropout: float) -> Tensor:
    """Run a plan on states, with one batched merge per level.

    Args:
        plan: of `plan_for`.
        inputs: the states of the schedule's inputs, [num_inputs, E].
        weights: of the same E, dtype and device.
        dropout: probability of zeroing a feature of a parent state.

    Returns:
        The states of the schedule's roots, [R, E].
    """
    frontier = inputs
    for step in plan.steps:
        # an embedding lookup, because its backward pass is deterministic on every device
        read = F.embedding(step.reads, frontier)
        kept, children = read[: step.num_kept], read[step.num_kept :]
        pairs = children.view(-1, 2 * inputs.shape[1])
        frontier = torch.cat([kept, *_parent_blocks(pairs, weights, dropout)])
    return F.embedding(plan.roots, frontier)


def _parent_blocks(pairs: Tensor, weights: MergeWeights, dropout: float) -> list[Tensor]:
    """Return the states of all parents, [N, E], in one or more blocks of rows."""
    num_rows = len(pairs)
    if pairs.device.type == "cpu":
        num_rows = max(1, _CPU_BLOCK // pairs.shape[1])
    return [parent_states(block, weights, dropout) for block in torch.split(pairs, num_rows)]
