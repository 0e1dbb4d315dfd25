"""The torch backend: one batch of merges per level, on any device and in any precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ldru_kernels import dropout as drop
from ldru_kernels.folding import compute_dtype, num_folded, unpack
from ldru_kernels.merge_rows import (
    Rows,
    Weights,
    add_gradients,
    hidden_units,
    parents,
    parents_backward,
    prepare_backward,
    scratch_units,
)
from ldru_kernels.plan import ONE_EACH, Plan, Stage
from ldru_kernels.products import Products

# elements of one block of pairs: on a CPU its hidden layers, several times as large, stay in cache
# (kernels/README.md has the measurement), on a GPU they stay below 2 GiB
_BLOCK = {"cpu": 2**18, "cuda": 2**24}
# rows whose products for the weights' gradients wait for more: fewer make slow products
_MOST_WAITING = 2**10

_OPERANDS = {"ieee": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Settings(NamedTuple):
    """What a pass computes with.

    ``operands`` is what the factors of a matrix product are rounded to, "ieee", "tf32", "bf16" or
    "fp16"; ``keeps_hidden`` whether the backward pass reads hidden layers or computes them again;
    ``backend`` "torch" or "triton"; ``node_noise`` the standard deviation of the noise on parents.
    """

    operator: str
    dropout: float
    operands: str
    keeps_hidden: bool
    backend: str
    node_noise: float = 0.0


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
        sum(hidden_units(settings.operator).values()) * width
        if settings.keeps_hidden and settings.backend == "torch"
        else 0
    )


def new_hidden(num_merges: int, settings: Settings, states: Tensor) -> list[Tensor]:
    """Return room for the hidden layers of so many merges, [P, M, units * E] each.

    Args:
        num_merges: M.
        settings: of the pass.
        states: [P, N, E], in compute dtype or not.
    """
    return list(_new_rows(hidden_units(settings.operator), num_merges, states).values())


def forward(
    states: Tensor, folded: Weights, seed: Tensor, plan: Plan, settings: Settings
) -> list[Tensor]:
    """Fill in the states of all parents.

    Args:
        states: of all nodes, [P, N + M, E], of which the N inputs are there.
        folded: of `folding.folded`.
        seed: of `dropout.new_seed`; not read without dropout and noise.
        plan: on the device of ``states``.
        settings: of the pass.

    Returns:
        The hidden layers of all merges, where they are kept.
    """
    weights, products = _prepare(folded, settings)
    inputs, levels = plan.stage_lists()
    blocks = _blocks(levels, states)
    keeps = settings.keeps_hidden
    room = len(plan.children) if keeps else max((block.size for block in blocks), default=0)
    hidden = _new_rows(hidden_units(settings.operator), room, states)
    rows_of: Iterable[Rows] = (_first(hidden, block.size) for block in blocks)
    if keeps:
        # a plan of a compiled graph has room for more merges than there are
        rows_of = _split(_first(hidden, _num_rows(blocks)), blocks)
    num_inputs = sum(stage.size for stage in inputs)
    with _matmul_precision(states, settings.operands):
        for block, rows in zip(blocks, rows_of, strict=True):
            rows["pairs"] = _pairs(states, plan, [block])
            made = states.narrow(1, num_inputs + block.first, block.size)
            parents(settings.operator, rows, weights, products, made)
            if settings.dropout:
                made *= _mask(seed, plan, [block], states, settings.dropout)
            if settings.node_noise:
                # a constant to the backward pass, which finds it in the states
                made += _noise(seed, plan, [block], states, settings.node_noise)
    return list(hidden.values()) if settings.keeps_hidden else []


def backward(
    d_results: Tensor,
    states: Tensor,
    kept: list[Tensor],
    folded: Weights,
    seed: Tensor,
    plan: Plan,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the inputs, [P, N, E], and of ``folded``, packed, [P, S'].

    Args:
        d_results: gradient of the results, [P, R, E].
        states: as `forward` left them.
        kept: as `forward` returned it.
        folded: as in `forward`, and so on.
        seed: the same.
        plan: the same.
        settings: the same.
    """
    population, _, width = states.shape
    weights, products = _prepare(folded, settings)
    dtype = compute_dtype(states.dtype)
    # the last window comes first and writes, the others add to it
    d_folded = states.new_empty(population, num_folded(settings.operator, width), dtype=dtype)
    gradients = unpack(d_folded, settings.operator, width)
    windows = _windows(_blocks(plan.stage_lists()[1], states))
    kept_rows = dict(zip(hidden_units(settings.operator), kept, strict=True)) if kept else {}
    units = scratch_units(settings.operator)
    if not kept:
        units |= hidden_units(settings.operator)
    own = _new_rows(units, max((_num_rows(window) for window in windows), default=0), states)
    num_results = d_results.shape[1]
    num_edges = num_results + 2 * len(plan.children)
    edges = d_results.new_empty(population, num_edges, width, dtype=dtype)
    edges[:, :num_results] = d_results
    reader = Reader(edges, plan)
    with _matmul_precision(states, settings.operands):
        for window in reversed(windows):
            size = _num_rows(window)
            waiting = _first(own, size) | _narrow(kept_rows, window[0].first, size)
            waiting["pairs"] = _pairs(states, plan, window)
            if not kept:
                # block by block, as in the forward pass: other shapes would round differently
                for rows in _split(waiting, window):
                    parents(settings.operator, rows, weights, products, None)
            prepare_backward(settings.operator, waiting)
            if settings.dropout:
                waiting["mask"] = _mask(seed, plan, window, states, settings.dropout)
            rows_of = list(_split(waiting, window))
            for block, rows in zip(reversed(window), reversed(rows_of), strict=True):
                if block.last == block.level.first_merge + block.level.size:
                    d_level = reader.read(block.level)
                begin = block.level.first_merge
                d = d_level[:, block.first - begin : block.last - begin]
                if settings.dropout:
                    torch.mul(d, rows["mask"], out=rows["d"])
                else:
                    rows["d"].copy_(d)
                out = edges.narrow(1, num_results + 2 * block.first, 2 * block.size)
                out = out.view(population, -1, 2 * width)
                parents_backward(settings.operator, rows, weights, products, out)
            is_first = window is windows[-1]
            add_gradients(
                settings.operator, waiting, weights, products, gradients, adds=not is_first
            )
    if not windows:
        d_folded.zero_()
    return reader.read_inputs().to(states.dtype), d_folded


def _windows(blocks: list[Block]) -> list[list[Block]]:
    """Return blocks in groups whose shares of the weights' gradients wait for each other.

    The upper levels of a tree are small, and one product of many rows is faster than many of a few.
    """
    windows: list[list[Block]] = []
    for block in blocks:
        if windows and _num_rows(windows[-1]) + block.size <= _MOST_WAITING:
            windows[-1].append(block)
        else:
            windows.append([block])
    return windows


def _num_rows(blocks: list[Block]) -> int:
    return blocks[-1].last - blocks[0].first if blocks else 0


def _new_rows(units: dict[str, int], num_rows: int, states: Tensor) -> Rows:
    population, _, width = states.shape
    dtype = compute_dtype(states.dtype)
    return {
        name: states.new_empty(population, num_rows, of_name * width, dtype=dtype)
        for name, of_name in units.items()
    }


def _narrow(rows: Rows, first: int, size: int) -> Rows:
    return {name: tensor.narrow(1, first, size) for name, tensor in rows.items()}


def _first(rows: Rows, size: int) -> Rows:
    return _narrow(rows, 0, size)


def _split(rows: Rows, blocks: list[Block]) -> Iterator[Rows]:
    """Yield the rows of each block, of those of all of them."""
    sizes = [block.size for block in blocks]
    parts = [torch.split(tensor, sizes, dim=1) for tensor in rows.values()]
    for of_block in zip(*parts, strict=True):
        yield dict(zip(rows, of_block, strict=True))


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
        return summed[0][None] if len(summed) == 1 else torch.stack(summed)

    def read_inputs(self) -> Tensor:
        """Return the gradients of all inputs, [P, N, E]."""
        inputs = [self.read(stage) for stage in self.plan.stage_lists()[0]]
        return (inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)).contiguous()


def _prepare(folded: Weights, settings: Settings) -> tuple[Weights, Products]:
    products = Products(_OPERANDS[settings.operands])
    if products.operands is not None:
        folded = {
            name: products.round(tensor) if tensor.shape[1] > 1 else tensor
            for name, tensor in folded.items()
        }
    return folded, products


def _blocks(levels: list[Stage], states: Tensor) -> list[Block]:
    """Return the merges of all levels in pieces, level by level."""
    population, _, width = states.shape
    rows = max(1, _BLOCK[states.device.type] // (2 * width * population))
    blocks = []
    for level in levels:
        end = level.first_merge + level.size
        blocks += [
            Block(first, min(first + rows, end), level)
            for first in range(level.first_merge, end, rows)
        ]
    return blocks


def _pairs(states: Tensor, plan: Plan, blocks: list[Block]) -> Tensor:
    """Return the children of blocks, left and right side by side, [P, n, 2E] in compute dtype."""
    population, _, width = states.shape
    first, level, num_merges = blocks[0].first, blocks[0].level, _num_rows(blocks)
    if len(blocks) == 1 and level.first_child >= 0:
        begin = level.first_child + 2 * (first - level.first_merge)
        children = states.narrow(1, begin, 2 * num_merges)
    else:
        nodes = plan.children[first : first + num_merges].flatten()
        children = states.index_select(1, nodes)
    return children.reshape(population, num_merges, 2 * width).to(compute_dtype(states.dtype))


def _mask(seed: Tensor, plan: Plan, blocks: list[Block], states: Tensor, dropout: float) -> Tensor:
    """Return 0 or 1 / (1 - dropout) for every feature of the blocks' parents, [P, n, E]."""
    population, _, width = states.shape
    dtype = compute_dtype(states.dtype)
    return drop.mask(seed, population, _numbers(plan, blocks, states), width, dropout, dtype)


def _noise(
    seed: Tensor, plan: Plan, blocks: list[Block], states: Tensor, deviation: float
) -> Tensor:
    """Return what every feature of the blocks' parents is off by, [P, n, E]."""
    population, _, width = states.shape
    dtype = compute_dtype(states.dtype)
    return drop.noise(seed, population, _numbers(plan, blocks, states), width, deviation, dtype)


def _numbers(plan: Plan, blocks: list[Block], states: Tensor) -> Tensor:
    """Return what dropout and noise know the blocks' merges by, int32 [n]."""
    first, last = blocks[0].first, blocks[-1].last
    if len(plan.numbers):
        return plan.numbers[first:last]
    return torch.arange(first, last, dtype=torch.int32, device=states.device)


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
