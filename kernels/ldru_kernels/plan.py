"""A schedule as the tensors that every backend runs: who merges whom, and who reads whom.

States of all nodes stand in one buffer, the inputs first and then the parents in the order of
their merges, so that a level writes rows that lie together. Gradients stand in a buffer of edges,
one row per read of a node: first one per result, then two per merge, left and right child. Each
edge is written once, and a node's gradient is the sum over its readers in a fixed order, so that
the backward pass needs no atomic addition and repeats to the bit.
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ldru_kernels.levels import Nodes
from ldru_kernels.phases import Phase, find_phases
from ldru_kernels.schedule import Schedule

# a scan has at most 2 log2 T + 2, and T is below 2^31
_MOST_LEVELS = 64
# plans of this many merges together are about 100 MiB; the latest is kept whatever its size
_MOST_CACHED = 2**22

# how the gradient of a stage's nodes is read, where not from edges that lie together
ONE_EACH, ANY = -1, -2


class Stage(NamedTuple):
    """A row of ``Plan.stages`` with where its nodes, reader entries and merges begin.

    ``first_merge`` is negative for inputs.
    """

    size: int
    first_child: int
    num_readers: int
    reader: int
    first_node: int
    first_reader: int
    first_merge: int


class Plan(NamedTuple):
    """What the ops take: N inputs, M merges in L levels, R results.

    ``children`` int32 [M, 2] and ``results`` int32 [R] are nodes. ``readers`` int32 [R + 2M] are
    the edges that read node 0, then node 1, ...; those of node n begin at ``reader_starts[n]``,
    int32 [N + M + 1]. ``bounds`` int32 are merges that part phases into groups; see `Phase`.
    ``numbers`` int32 [M] are what dropout and noise know the merges by, words of 32 bits, in plans
    that are parts of others; it is empty where merge k is number k.

    Three tensors stay on the CPU, because they steer the host. ``num_extra`` int64 []: how many of
    the inputs, the last K, are no leaves. ``phases`` int64 [., 4]: see `Phase`; a level in none of
    them has a launch of its own. ``stages`` int64 [1 + K + L, 4]: the leaves, each further input,
    each level: its number of nodes; the first child where a level's children lie together,
    otherwise -1; its number of reader entries; and the first of its readers where they lie
    together, one for each node, otherwise `ONE_EACH` or `ANY`.
    """

    children: Tensor
    results: Tensor
    readers: Tensor
    reader_starts: Tensor
    bounds: Tensor
    numbers: Tensor
    num_extra: Tensor
    phases: Tensor
    stages: Tensor

    def stage_lists(self) -> tuple[list[Stage], list[Stage]]:
        """Return the stages of inputs and of levels, without those that `pad` added."""
        rows: list[list[int]] = self.stages.tolist()
        num_stages = 1 + int(self.num_extra)
        num_inputs = sum(row[0] for row in rows[:num_stages])
        found, node, reader = [], 0, 0
        for size, first_child, num_readers, first in rows:
            found.append(
                Stage(size, first_child, num_readers, first, node, reader, node - num_inputs)
            )
            node, reader = node + size, reader + num_readers
        return found[:num_stages], [stage for stage in found[num_stages:] if stage.size]

    @property
    def num_inputs(self) -> int:
        """N."""
        return sum(stage.size for stage in self.stage_lists()[0])

    @property
    def level_sizes(self) -> list[int]:
        """The number of merges of every level."""
        return [stage.size for stage in self.stage_lists()[1]]

    def phase_list(self) -> list[Phase]:
        """Return the phases, without those that `pad` added."""
        return [Phase(*row) for row in self.phases.tolist() if row[1]]

    def numbered(self, numbers: Nodes) -> Plan:
        """Return the plan as a part of another, whose merges have these numbers, int64 [M]."""
        return self._replace(numbers=_int32(numbers).to(self.children.device))

    def to(self, device: torch.device) -> Plan:
        """Return the plan on ``device``, but for what steers the host."""
        moved = [tensor.to(device) for tensor in self[:NUM_ON_DEVICE]]
        return Plan._make([*moved, *self[NUM_ON_DEVICE:]])


# the first fields stand on the device of the states
NUM_ON_DEVICE = 6


class PlanCache:
    """The latest plans, of `_MOST_CACHED` merges together."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
        # counted as plans come and go: thousands of small ones are kept, and one comes every step
        self._num_merges = 0
        self._lock = Lock()

    def get(self, key: tuple[Any, ...]) -> Plan | None:
        """Return the plan of ``key``, now the latest, or None."""
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
            return self._plans.get(key)

    def put(self, key: tuple[Any, ...], plan: Plan) -> None:
        """Keep a plan, and drop the oldest ones beyond the limit."""
        with self._lock:
            if key in self._plans:
                return
            self._plans[key] = plan
            self._num_merges += len(plan.children)
            while len(self._plans) > 1 and self._num_merges > _MOST_CACHED:
                _, oldest = self._plans.popitem(last=False)
                self._num_merges -= len(oldest.children)


_cache = PlanCache()


def plan_for(
    build: Callable[..., Schedule],
    lengths: Sequence[int],
    num_tokens: int,
    device: torch.device,
    **options: Any,
) -> Plan:
    """Return the plan of a batch, with its tensors on ``device``.

    Args:
        build: `build_schedule` or its like; a function that is defined once, for the cache.
        lengths: [B], each in 1..num_tokens.
        num_tokens: T, the leaves that a sequence has room for.
        device: of the leaves.
        options: further arguments of ``build``, which can be hashed.
    """
    counted = tuple(lengths)
    key = (build, counted, num_tokens, str(device), tuple(options.items()))
    if (known := _cache.get(key)) is not None:
        return known
    # a tensor made in inference mode could not serve a later backward pass
    with torch.inference_mode(mode=False):
        schedule = build(counted, num_tokens, **options)
        num_extra = schedule.num_inputs - len(counted) * num_tokens
        has_phases = device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
        num_sequences = len(counted) if has_phases else None
        plan = make_plan(schedule, num_extra, num_sequences).to(device)
    _cache.put(key, plan)
    return plan


def make_plan(
    schedule: Schedule,
    num_extra: int,
    num_sequences: int | None = None,
    *,
    has_readers: bool = True,
    is_shared: bool = False,
) -> Plan:
    """Return the plan of any schedule, on the CPU.

    Args:
        schedule: of fewer than 2^30 nodes.
        num_extra: K, the inputs that are no leaves, the last ones.
        num_sequences: B, for phases, where each sequence has its own and as many leaves; None where
            they share leaves or nobody asks for phases.
        has_readers: whether there will be a backward pass, which the readers are for.
        is_shared: whether equal subtrees were merged once, so that children hardly ever lie
            together and nobody looks.

    Raises:
        ValueError: the schedule has too many nodes.
    """
    num_nodes = schedule.num_inputs + schedule.num_merges
    if num_nodes >= 2**30:
        raise ValueError(f"{num_nodes} nodes are too many for one call; split the batch.")
    num_leaves = schedule.num_inputs - num_extra
    sizes = [num_leaves] + [1] * num_extra + [len(left) for left, _ in schedule.levels]
    ends = np.array([0, *itertools.accumulate(sizes)])
    read = np.empty(2 * schedule.num_merges, dtype=np.int64)
    for side in (0, 1):
        pieces = [level[side] for level in schedule.levels]
        np.concatenate([np.empty(0, np.int64), *pieces], out=read[side::2])
    first_level = 1 + num_extra
    stages = np.full((len(sizes), 4), -1)
    stages[:, 0] = sizes
    if not is_shared:
        bounds_of_levels = 2 * (ends[first_level:] - schedule.num_inputs)
        stages[first_level:, 1] = _range_starts(read, bounds_of_levels)
    children, readers, starts = read, np.empty(0, np.int64), np.empty(0, np.int64)
    if has_readers:
        # the edges are numbered as they stand here, so that a stable sort keeps their order
        read = np.concatenate([schedule.roots, read])
        # numpy sorts short integers by their digits
        keys = read.astype(np.uint16) if num_nodes <= 2**16 else read
        readers = np.argsort(keys, kind="stable")
        counts = np.bincount(read, minlength=num_nodes)
        starts = np.concatenate([[0], counts.cumsum()])
        num_single = np.concatenate([[0], (counts == 1).cumsum()])[ends]
        together = _range_starts(readers, starts[ends])
        together[together < 0] = ONE_EACH
        stages[:, 2] = np.diff(starts[ends])
        stages[:, 3] = np.where(np.diff(num_single) == stages[:, 0], together, ANY)
    phases: list[Phase] = []
    bounds = np.empty(0, np.int64)
    if num_sequences is not None:
        phases, bounds = find_phases(schedule, num_leaves // num_sequences, num_sequences)
    return Plan(
        _int32(children).view(-1, 2),
        _int32(schedule.roots),
        _int32(readers),
        _int32(starts),
        _int32(bounds),
        torch.empty(0, dtype=torch.int32),
        torch.from_numpy(np.array(num_extra)),
        torch.from_numpy(np.array(phases, np.int64).reshape(-1, 4)),
        torch.from_numpy(stages),
    )


def largest_sizes(
    batch: int, num_tokens: int, num_inputs: int, num_results: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a plan that any lengths of a batch fit in.

    A tree of T leaves makes T - 1 merges and at most one of a lone node per level, a scan fewer
    than 2 T, a batch at most one of paddings per level. The bounds of phases are hardly more than
    the merges; `pad` leaves out phases whose bounds are.
    """
    num_merges = 2 * batch * num_tokens + _MOST_LEVELS
    return {
        "children": (num_merges, 2),
        "results": (num_results,),
        "readers": (num_results + 2 * num_merges,),
        "reader_starts": (num_inputs + num_merges + 1,),
        "bounds": (num_merges + _MOST_LEVELS * (batch + 1),),
        "numbers": (0,),
        "num_extra": (),
        "phases": (_MOST_LEVELS, 4),
        "stages": (3 + _MOST_LEVELS, 4),
    }


def pad(plan: Plan, sizes: dict[str, tuple[int, ...]]) -> Plan:
    """Return a plan of larger sizes, for compiled graphs; nothing that is added is ever read."""
    if len(plan.bounds) > sizes["bounds"][0]:
        # every level then has a launch of its own
        plan = plan._replace(bounds=plan.bounds[:0], phases=plan.phases[:0])
    grown = {}
    for name, tensor in plan._asdict().items():
        grown[name] = tensor.new_zeros(sizes[name])
        grown[name][tuple(slice(side) for side in tensor.shape)] = tensor
    return Plan(**grown)


def _int32(numbers: Nodes) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int32))


def _range_starts(numbers: Nodes, bounds: Nodes) -> Nodes:
    """Return, for every part of ``numbers``, its first one where each next is 1 more, or -1.

    Args:
        numbers: int64 [N].
        bounds: of the K parts, int64 [K + 1] from 0 to N.
    """
    if not len(numbers):
        return np.full(len(bounds) - 1, -1)
    steps = np.concatenate([[0], (np.diff(numbers) == 1).cumsum()])
    first, last = np.minimum(bounds[:-1], len(numbers) - 1), np.maximum(bounds[1:] - 1, 0)
    is_range = (steps[last] - steps[first] == last - first) & (bounds[1:] > bounds[:-1])
    return np.where(is_range, numbers[first], -1)
