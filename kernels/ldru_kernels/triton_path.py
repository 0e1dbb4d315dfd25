"""The triton backend: fused kernels for operator `mlp`, which keep node states and nothing else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ldru_kernels import dropout as drop
from ldru_kernels import triton_kernels as kernels
from ldru_kernels.folding import folded_layout
from ldru_kernels.merge_rows import Weights
from ldru_kernels.phases import Phase
from ldru_kernels.plan import Plan
from ldru_kernels.torch_path import Reader, Settings

_DTYPES = {
    "ieee": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# bytes of the tape, which is used again where it is too short for all merges
_TAPE_BYTES = 2**28
# programs that a launch should have, where it can choose: two per multiprocessor
_NUM_PROGRAMS = 264


class Tile(NamedTuple):
    """How a kernel cuts its work: merges at a time, features of a hidden layer, Triton's warps."""

    rows: int
    block: int
    warps: int


class Config(NamedTuple):
    """The tiles of the three kernels; the last has no hidden layers."""

    forward: Tile
    backward: Tile
    sums: Tile


def interprets() -> bool:
    """Whether Triton interprets its kernels, on any device, instead of compiling them."""
    return not isinstance(kernels.forward_kernel, triton.runtime.JITFunction)


def choose_config(width: int, operands: str) -> Config:
    """Return how to cut the work: the largest tiles that the compiler keeps in registers.

    Read off the resource usage of the kernels compiled for compute capability 9.0, which
    tests/kernels/test_compiled.py watches.
    """
    wide = triton.next_power_of_2(width)
    if operands == "ieee":
        tile = Tile(16, 16, 4 if wide <= 32 else 8)
        return Config(tile, tile, Tile(32, 0, 4 if wide <= 64 else 8))
    sums = Tile(32, 0, 4 if wide <= 64 else 8)
    if wide <= 32:
        tile = Tile(64, 32, 4 if wide == 16 else 8)
        return Config(tile, tile, sums)
    if wide == 64:
        return Config(Tile(64 if operands != "tf32" else 32, 64, 8), Tile(32, 64, 8), sums)
    return Config(Tile(16, 64, 8), Tile(16, 64, 8), sums)


class Launch(NamedTuple):
    """One launch over merges ``first`` up to ``last``; see `triton_kernels.forward_kernel`.

    A program walks the levels of ``per_program`` groups of ``phase``, or takes as many merges of
    one level where there is none.
    """

    first: int
    last: int
    num_programs: int
    per_program: int
    phase: Phase | None

    def arguments(self) -> dict[str, Any]:
        """Return what the kernels know of it."""
        phase = self.phase or Phase(0, 1, 0, 0)
        return {
            "num_levels": phase.num_levels,
            "num_groups": phase.num_groups,
            "first_bound": phase.first_bound,
            "first": self.first,
            "last": self.last,
            "per_program": self.per_program,
            "GROUPED": self.phase is not None,
        }


def launches(plan: Plan, population: int, rows: int, most_merges: int) -> list[Launch]:
    """Return the launches of a forward pass.

    Args:
        plan: to be run.
        population: P.
        rows: merges of a tile.
        most_merges: that one launch may have.
    """
    sizes = plan.level_sizes
    ends = [0, *itertools.accumulate(sizes)]
    phases = {phase.first_level: phase for phase in plan.phase_list()}
    found, level = [], 0
    while level < len(sizes):
        phase = phases.get(level)
        last = ends[level + phase.num_levels] if phase else 0
        if phase and last - ends[level] <= most_merges:
            per_program = triton.cdiv(phase.num_groups * population, _NUM_PROGRAMS)
            num_programs = triton.cdiv(phase.num_groups, per_program)
            found.append(Launch(ends[level], last, num_programs, per_program, phase))
            level += phase.num_levels
            continue
        for first in range(ends[level], ends[level + 1], most_merges):
            last = min(first + most_merges, ends[level + 1])
            found.append(Launch(first, last, triton.cdiv(last - first, rows), rows, None))
        level += 1
    return found


def forward(
    states: Tensor, folded: Weights, seed: Tensor, plan: Plan, settings: Settings
) -> list[Tensor]:
    """Fill in the states of all parents; as `torch_path.forward`, but nothing is kept."""
    population, num_nodes, width = states.shape
    tile = choose_config(width, settings.operands).forward
    packed = _packed(folded, settings)
    for launch in launches(plan, population, tile.rows, 2**31):
        kernels.forward_kernel[(launch.num_programs, population)](
            states,
            packed,
            seed,
            plan.children,
            plan.bounds,
            plan.num_inputs,
            num_nodes,
            packed.shape[1],
            **launch.arguments(),
            **_constants(width, settings, tile),
        )
    return []


def backward(
    d_results: Tensor,
    states: Tensor,
    kept: list[Tensor],
    folded: Weights,
    seed: Tensor,
    plan: Plan,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the inputs and of ``folded``, as `torch_path.backward`."""
    population, num_nodes, width = states.shape
    tile = choose_config(width, settings.operands).backward
    operands = _packed(folded, settings)
    num_results, num_merges = d_results.shape[1], sum(plan.level_sizes)
    num_edges = num_results + 2 * len(plan.children)
    edges = d_results.new_empty(population, num_edges, width, dtype=torch.float32)
    edges[:, :num_results] = d_results
    row = kernels.UNITS.value * width
    tape_rows = _TAPE_BYTES // (row * population * operands.element_size())
    tape_rows = max(tile.rows, min(tape_rows, num_merges))
    tape = operands.new_empty(population, tape_rows, row)
    weights = _WeightGradients(tape, operands.shape[1], width, settings)
    for batch in _tapefuls(launches(plan, population, tile.rows, tape_rows), tape_rows):
        for launch in batch:
            kernels.backward_kernel[(launch.num_programs, population)](
                states,
                edges,
                operands,
                tape,
                seed,
                plan.children,
                plan.readers,
                plan.reader_starts,
                plan.bounds,
                plan.num_inputs,
                num_nodes,
                operands.shape[1],
                num_results,
                num_edges,
                batch[-1].first,
                tape_rows,
                **launch.arguments(),
                **_constants(width, settings, tile),
            )
        weights.add(batch[0].last - batch[-1].first)
    return Reader(edges, plan).read_inputs().to(states.dtype), weights.total()


def _packed(folded: Weights, settings: Settings) -> Tensor:
    """Return all weights behind each other, [P, S'], in the dtype of the operands."""
    packed = torch.cat([tensor.flatten(1) for tensor in folded.values()], dim=1)
    return packed.to(_DTYPES[settings.operands])


def _tapefuls(launched: list[Launch], tape_rows: int) -> Iterator[list[Launch]]:
    """Yield the launches from the last to the first, as many at a time as a tape has room for."""
    batch: list[Launch] = []
    for launch in reversed(launched):
        if batch and batch[0].last - launch.first > tape_rows:
            yield batch
            batch = []
        batch.append(launch)
    if batch:
        yield batch


class _WeightGradients:
    """The gradients of the weights, summed over one tapeful after the other.

    Splits of the rows add to their own sums, in the order of the calls.
    """

    def __init__(self, tape: Tensor, num_weights: int, width: int, settings: Settings) -> None:
        self.tape, self.num_weights, self.width, self.settings = tape, num_weights, width, settings
        self.tiles = _tiles(width, str(tape.device))
        num_splits = max(1, _NUM_PROGRAMS // (len(self.tiles) * len(tape)))
        shape = len(tape), num_splits, num_weights
        self.partial = tape.new_zeros(shape, dtype=torch.float32)

    def add(self, num_rows: int) -> None:
        """Add the products of the first rows of the tape."""
        population, tape_rows, _ = self.tape.shape
        num_splits = self.partial.shape[1]
        tile = choose_config(self.width, self.settings.operands).sums
        kernels.weight_gradients[(len(self.tiles), num_splits, population)](
            self.tape,
            self.partial,
            self.tiles,
            num_rows,
            tape_rows,
            self.num_weights,
            tile.rows * triton.cdiv(num_rows, tile.rows * num_splits),
            E=self.width,
            SIDE=triton.next_power_of_2(self.width),
            ROWS=tile.rows,
            PRECISION=_precision(self.settings),
            num_warps=tile.warps,
        )

    def total(self) -> Tensor:
        """Return the gradients, float32 [P, S]."""
        return self.partial.sum(1)


@lru_cache(maxsize=64)
def _tiles(width: int, device: str) -> Tensor:
    """Return the squares that `triton_kernels.weight_gradients` computes, int64 [32, 5]."""
    k = kernels
    # matrix, its bias, and where its input and the gradient of its output stand on the tape
    products = [
        ("w1", "b1", k.PAIR, k.D_FIRST),
        ("w2", "b2", k.FIRST, k.D_SECOND),
        ("w3", "b3", k.SECOND, k.D_GATES),
        ("v", "b", k.VALUES, k.D_MERGED),
        ("node_ffn.w1", "node_ffn.b1", k.MERGED, k.D_ACTIVE),
        ("node_ffn.w2", "node_ffn.b2", k.ACTIVE, k.D_SUMMED),
    ]
    found = folded_layout("mlp", width)
    sizes = [math.prod(shape) for shape in found.values()]
    begins = dict(zip(found, itertools.accumulate(sizes, initial=0), strict=False))
    tiles = []
    for matrix, bias, x, d in products:
        num_rows, num_cols = found[matrix]
        for i, j in itertools.product(range(num_rows // width), range(num_cols // width)):
            square = begins[matrix] + i * width * num_cols + j * width
            vector = begins[bias] + j * width if i == 0 else -1
            tiles.append([(x.value + i) * width, (d.value + j) * width, square, num_cols, vector])
    for name, d in (("node_norm.weight", k.D_SCALE), ("node_norm.bias", k.D_SHIFT)):
        tiles.append([0, d.value * width, -1, 0, begins[name]])
    with torch.inference_mode(mode=False):
        return torch.tensor(tiles, device=device)


def _constants(width: int, settings: Settings, tile: Tile) -> dict[str, Any]:
    """Return the arguments that `forward_kernel` and `backward_kernel` share."""
    return {
        "threshold": drop.threshold(settings.dropout),
        "keep": 1 - settings.dropout,
        "E": width,
        "WIDE": triton.next_power_of_2(width),
        "ROWS": tile.rows,
        "BLOCK": tile.block,
        "PRECISION": _precision(settings),
        "DROPS": settings.dropout > 0,
        "num_warps": tile.warps,
        "num_stages": 1,
    }


def _precision(settings: Settings) -> str:
    return "tf32" if settings.operands == "tf32" else "ieee"
