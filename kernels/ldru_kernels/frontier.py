"""How a schedule runs level by level: each step holds only the nodes that are still to be read.

One growing buffer of all nodes would be copied at every level, O(T log T); the frontiers of a
balanced tree shrink by half, so that their sum is O(T), and without gradients a level's states
are freed as soon as the next stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ldru_kernels.schedule import Schedule, build_schedule

# 64 plans of this many leaves are about 60 MiB
_LARGEST_CACHED = 2**15


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


def plan_for(lengths: Sequence[int], num_tokens: int, lone_node: str, device: torch.device) -> Plan:
    """Return the plan of a batch, with its tensors on ``device``; see `build_schedule`."""
    key = (tuple(lengths), num_tokens, lone_node, str(device))
    if len(lengths) * num_tokens > _LARGEST_CACHED:
        return _plan_for.__wrapped__(*key)
    return _plan_for(*key)


@lru_cache(maxsize=64)
def _plan_for(lengths: tuple[int, ...], num_tokens: int, lone_node: str, device: str) -> Plan:
    # a tensor made in inference mode could not serve a later backward pass
    with torch.inference_mode(mode=False):
        plan = follow(build_schedule(lengths, num_tokens, lone_node))
        steps = tuple(Step(step.reads.to(device), step.num_kept) for step in plan.steps)
        return Plan(steps, plan.roots.to(device))


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
