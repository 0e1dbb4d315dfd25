"""The torch backend: one batch of merges per level, on any device and in any precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ldru_kernels import dropout as drop
from ldru_kernels.merge_rows import (
    Backward,
    Products,
    Weights,
    hidden_units,
    parents,
    parents_backward,
)
from ldru_kernels.plan import ONE_EACH, Plan, Stage
from ldru_kernels.weights import unpack

# elements of one block of pairs on a CPU: its hidden layers, several times as large, stay in
# cache. kernels/README.md has the measurement
_CPU_BLOCK = 2**19
# rows whose products for the weights' gradients wait for more: fewer make slow products, and what
# waits takes memory
_MOST_WAITING = {"cpu": 2**10, "cuda": 2**14}

_OPERANDS = {"ieee": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Settings(NamedTuple):
    """What a pass computes with.

    ``operands`` is what the factors of a matrix product are rounded to, "ieee", "tf32", "bf16" or
    "fp16"; ``keeps_hidden`` whether the backward pass reads hidden layers or computes them again;
    ``backend`` "torch" or "triton".
    """

    operator: str
    dropout: float
    operands: str
    keeps_hidden: bool
    backend: str


class Block(NamedTuple):
    """Merges ``first`` up to ``last`` of a level, at most a cacheful on a CPU."""

    first: int
    last: int
    level: Stage

    @property
    def size(self) -> int:
        """How many merges."""
        return self.last - self.first


def kept_size(settings: Settings, width: int) -> int:
    """Return the elements of hidden layers that are kept per merge, 0 if none are."""
    return (
        sum(hidden_units(settings.operator)) * width
        if settings.keeps_hidden and settings.backend == "torch"
        else 0
    )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what sums and nonlinearities are computed in."""
    return dtype if dtype == torch.float64 else torch.float32


def new_hidden(num_merges: int, settings: Settings, states: Tensor) -> list[Tensor]:
    """Return room for the hidden layers of so many merges, [P, M, units * E] each.

    Args:
        num_merges: M.
        settings: of the pass.
        states: [P, N, E], in compute dtype or not.
    """
    population, _, width = states.shape
    dtype = compute_dtype(states.dtype)
    return [
        states.new_empty(population, num_merges, units * width, dtype=dtype)
        for units in hidden_units(settings.operator)
    ]


def forward(
    states: Tensor, packed: Tensor, seed: Tensor, plan: Plan, settings: Settings
) -> list[Tensor]:
    """Fill in the states of all parents.

    Args:
        states: of all nodes, [P, N + M, E], of which the N inputs are there.
        packed: of `weights.pack`, [P, S].
        seed: of `dropout.new_seed`; not read without dropout.
        plan: on the device of ``states``.
        settings: of the pass.

    Returns:
        The hidden layers of all merges, where they are kept.
    """
    weights, products = _prepare(packed, settings, states)
    kept = []
    if settings.keeps_hidden:
        kept = new_hidden(len(plan.children), settings, states)
    num_inputs = plan.num_inputs
    with _matmul_precision(states, settings.operands):
        for block in _blocks(plan, states):
            pairs = _pairs(states, plan, block)
            hidden = _hidden(kept, block, states, settings)
            made = states.narrow(1, num_inputs + block.first, block.size)
            parents(settings.operator, pairs, weights, products, hidden, made)
            if settings.dropout:
                made *= _mask(seed, block, states, settings.dropout)
    return kept


def backward(
    d_results: Tensor,
    states: Tensor,
    kept: list[Tensor],
    packed: Tensor,
    seed: Tensor,
    plan: Plan,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the inputs, [P, N, E], and of ``packed``, [P, S].

    Args:
        d_results: gradient of the results, [P, R, E].
        states: as `forward` left them.
        kept: as `forward` returned it.
        packed: as in `forward`, and so on.
        seed: the same.
        plan: the same.
        settings: the same.
    """
    population, _, width = states.shape
    weights, products = _prepare(packed, settings, states)
    dtype = compute_dtype(states.dtype)
    d_packed = torch.zeros_like(packed, dtype=dtype)
    gradients = unpack(d_packed, settings.operator, width)
    context = Backward(weights, gradients, products, _MOST_WAITING[states.device.type])
    num_results = d_results.shape[1]
    num_edges = num_results + 2 * len(plan.children)
    edges = d_results.new_empty(population, num_edges, width, dtype=dtype)
    edges[:, :num_results] = d_results
    reader = Reader(edges, plan)
    with _matmul_precision(states, settings.operands):
        for block in reversed(_blocks(plan, states)):
            if block.last == block.level.first_merge + block.level.size:
                d_level = reader.read(block.level)
            pairs = _pairs(states, plan, block)
            hidden = _hidden(kept, block, states, settings)
            if not settings.keeps_hidden:
                parents(settings.operator, pairs, weights, products, hidden, None)
            begin = block.level.first_merge
            d = d_level[:, block.first - begin : block.last - begin]
            if settings.dropout:
                d = d * _mask(seed, block, states, settings.dropout)
            out = edges.narrow(1, num_results + 2 * block.first, 2 * block.size)
            out = out.view(population, -1, 2 * width)
            parents_backward(settings.operator, d, pairs, hidden, context, out)
        context.flush()
    return reader.read_inputs().to(states.dtype), d_packed.to(packed.dtype)


class Reader:
    """Sums the edges that read a stage's nodes; see `Plan`.

    Args:
        edges: gradients, [P, R + 2M, E], of which those that a stage is read by are there.
        plan: of these edges.
    """

    def __init__(self, edges: Tensor, plan: Plan) -> None:
        self.edges, self.plan = edges, plan

    def read(self, stage: Stage) -> Tensor:
        """Return the gradients of the stage's nodes, [P, n, E]."""
        if stage.reader >= 0:
            return self.edges.narrow(1, stage.reader, stage.size)
        first, node = stage.first_reader, stage.first_node
        readers = self.plan.readers[first : first + stage.num_readers]
        if stage.reader == ONE_EACH:
            return self.edges.index_select(1, readers)
        if stage.size == 1:
            return self.edges.index_select(1, readers).sum(1, keepdim=True)
        starts = self.plan.reader_starts[node : node + stage.size + 1] - first
        summed = [
            F.embedding_bag(readers, edges, starts, mode="sum", include_last_offset=True)
            for edges in self.edges
        ]
        return torch.stack(summed)

    def read_inputs(self) -> Tensor:
        """Return the gradients of all inputs, [P, N, E]."""
        stages = self.plan.stage_list()[: self.plan.first_level]
        inputs = [self.read(stage) for stage in stages]
        return (inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)).contiguous()


def _prepare(packed: Tensor, settings: Settings, states: Tensor) -> tuple[Weights, Products]:
    packed = packed.to(compute_dtype(states.dtype))
    weights = unpack(packed, settings.operator, states.shape[-1])
    products = Products(_OPERANDS[settings.operands])
    rounded = {
        name: products.round(tensor) if tensor.shape[1] > 1 else tensor
        for name, tensor in weights.items()
    }
    return rounded, products


def _blocks(plan: Plan, states: Tensor) -> list[Block]:
    """Return the merges of a plan, level by level."""
    rows = _rows_of_block(states)
    blocks = []
    for level in plan.stage_list()[plan.first_level :]:
        end = level.first_merge + level.size
        blocks += [
            Block(first, min(first + rows, end), level)
            for first in range(level.first_merge, end, rows)
        ]
    return blocks


def _rows_of_block(states: Tensor) -> int:
    population, _, width = states.shape
    # a GPU takes a level at a time
    return 2**31 if states.is_cuda else max(1, _CPU_BLOCK // (2 * width * population))


def _pairs(states: Tensor, plan: Plan, block: Block) -> Tensor:
    """Return the children of a block, left and right side by side, [P, n, 2E] in compute dtype."""
    population, _, width = states.shape
    num_merges = block.size
    if block.level.first_child >= 0:
        begin = block.level.first_child + 2 * (block.first - block.level.first_merge)
        children = states.narrow(1, begin, 2 * num_merges)
    else:
        nodes = plan.children[block.first : block.last].flatten()
        children = states.index_select(1, nodes)
    return children.reshape(population, num_merges, 2 * width).to(compute_dtype(states.dtype))


def _mask(seed: Tensor, block: Block, states: Tensor, dropout: float) -> Tensor:
    """Return 0 or 1 / (1 - dropout) for every feature of the block's parents, [P, n, E]."""
    population, _, width = states.shape
    merges = torch.arange(block.first, block.last, device=states.device)
    kept = drop.is_kept(seed, population, merges, width, dropout)
    return kept.to(compute_dtype(states.dtype)) / (1 - dropout)


def _hidden(kept: list[Tensor], block: Block, states: Tensor, settings: Settings) -> list[Tensor]:
    """Return the hidden layers of one block: their place in ``kept``, or new ones."""
    if settings.keeps_hidden:
        return [layer.narrow(1, block.first, block.size) for layer in kept]
    return new_hidden(block.size, settings, states)


@contextmanager
def _matmul_precision(states: Tensor, operands: str) -> Iterator[None]:
    """Let torch round float32 operands to TensorFloat-32 on a GPU, or nowhere to anything."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(
        "high" if operands == "tf32" and states.is_cuda else "highest"
    )
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
