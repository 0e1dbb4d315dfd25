"""The triton backend: fused kernels for operator `mlp`, which keep node states and nothing else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from ldru_kernels import dropout as drop
from ldru_kernels import triton_kernels as kernels
from ldru_kernels.folding import folded_layout
from ldru_kernels.launches import Launch, Tile, Tiles, launches, tiles_for
from ldru_kernels.merge_rows import Weights
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
# the interpreter has none, and takes its programs one by one
_INTERPRETED_PROCESSORS = 4


def interprets() -> bool:
    """Whether Triton interprets its kernels, on any device, instead of compiling them."""
    return not isinstance(kernels.forward_kernel, triton.runtime.JITFunction)


@lru_cache(maxsize=8)
def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROCESSORS
    found: int = torch.cuda.get_device_properties(device).multi_processor_count
    return found


def _tiles_of(width: int, settings: Settings) -> Tiles:
    return tiles_for(triton.next_power_of_2(width), settings.operands)


def forward(
    states: Tensor, folded: Weights, seed: Tensor, plan: Plan, settings: Settings
) -> list[Tensor]:
    """Fill in the states of all parents; as `torch_path.forward`, but nothing is kept."""
    population, num_nodes, width = states.shape
    tiles = _tiles_of(width, settings).forward
    packed = _packed(folded, settings)
    for launch in launches(plan, population, tiles, 2**31, _num_processors(states.device)):
        kernels.forward_kernel[(launch.num_programs, population)](
            states,
            packed,
            seed,
            plan.children,
            plan.bounds,
            plan.numbers,
            plan.num_inputs,
            num_nodes,
            packed.shape[1],
            **launch.arguments(),
            **_constants(width, plan, settings, launch.tile),
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
    tiles = _tiles_of(width, settings).backward
    operands = _packed(folded, settings)
    num_results, num_merges = d_results.shape[1], sum(plan.level_sizes)
    num_edges = num_results + 2 * len(plan.children)
    edges = d_results.new_empty(population, num_edges, width, dtype=torch.float32)
    edges[:, :num_results] = d_results
    row = kernels.UNITS.value * width
    tape_rows = _TAPE_BYTES // (row * population * operands.element_size())
    tape_rows = max(tiles[-1].rows, min(tape_rows, num_merges))
    tape = operands.new_empty(population, tape_rows, row)
    weights = _WeightGradients(tape, operands.shape[1], width, settings)
    num_processors = _num_processors(states.device)
    launched = launches(plan, population, tiles, tape_rows, num_processors)
    for batch in _tapefuls(launched, tape_rows):
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
                plan.numbers,
                plan.num_inputs,
                num_nodes,
                operands.shape[1],
                num_results,
                num_edges,
                batch[-1].first,
                tape_rows,
                **launch.arguments(),
                **_constants(width, plan, settings, launch.tile),
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
        # two programs for every multiprocessor
        num_programs = 2 * _num_processors(tape.device)
        num_splits = max(1, num_programs // (len(self.tiles) * len(tape)))
        shape = len(tape), num_splits, num_weights
        self.partial = tape.new_zeros(shape, dtype=torch.float32)

    def add(self, num_rows: int) -> None:
        """Add the products of the first rows of the tape."""
        population, tape_rows, _ = self.tape.shape
        num_splits = self.partial.shape[1]
        tile = _tiles_of(self.width, self.settings).sums
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


def _constants(width: int, plan: Plan, settings: Settings, tile: Tile) -> dict[str, Any]:
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
        "NUMBERED": len(plan.numbers) > 0,
        "num_warps": tile.warps,
        "num_stages": 1,
    }


def _precision(settings: Settings) -> str:
    return "tf32" if settings.operands == "tf32" else "ieee"
