"""How a plan is cut into launches of the fused kernels: tiles, programs, levels together or alone.

Tiles are those that the compiler holds in registers. Which of them, and how many groups of a phase
a program takes, is left to a model: the time of a launch is how many tiles the busiest
multiprocessor passes, one program at a time, and a pass costs the reading of all weights, which
come from the L2 cache, besides its rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from ldru_kernels.phases import Phase
from ldru_kernels.plan import Plan

# what a pass costs besides its rows, in rows: 60 E^2 bytes of bfloat16 weights come in the time of
# about so many rows' 60 E^2 FLOPs
_WEIGHTS = 128
# groups that a program may take, besides as many as leave one for every multiprocessor
_PER_PROGRAM = sorted({*(2**k for k in range(17)), *(3 * 2**k for k in range(16))})


class Tile(NamedTuple):
    """How a kernel cuts its work: merges at a time, features of a hidden layer, Triton's warps."""

    rows: int
    block: int
    warps: int


class Tiles(NamedTuple):
    """The tiles that each kernel may use, small ones first; ``sums`` has no hidden layers."""

    forward: tuple[Tile, ...]
    backward: tuple[Tile, ...]
    sums: Tile


def tiles_for(wide: int, operands: str) -> Tiles:
    """Return the tiles for states of up to ``wide`` features, a power of two.

    Read off the resource usage of the kernels compiled for compute capability 9.0: none spills
    more than 180 bytes a thread.
    """
    sums = Tile(32, 0, 4 if wide <= 64 else 8)
    if operands == "ieee":
        tile = Tile(16, 16, 4 if wide <= 32 else 8)
        return Tiles((tile,), (tile,), sums)
    is_half = operands != "tf32"
    if wide <= 32:
        forward = _tiles(16, 128, block=32 if wide == 16 else 64)
        most = 128 if wide == 16 else 64
        return Tiles(forward, _tiles(16, most if is_half else 32, block=32), sums)
    if wide == 64:
        forward = _tiles(16, 128, block=64) if is_half else _tiles(16, 64, block=32)
        return Tiles(forward, _tiles(16, 32, block=64 if is_half else 32), sums)
    return Tiles(_tiles(16, 32 if is_half else 16, block=32), _tiles(16, 16, block=32), sums)


def _tiles(fewest: int, most: int, *, block: int) -> tuple[Tile, ...]:
    sizes = itertools.takewhile(lambda rows: rows <= most, (fewest << k for k in range(8)))
    return tuple(Tile(rows, block, 8) for rows in sizes)


class Launch(NamedTuple):
    """One launch over merges ``first`` up to ``last``; see `triton_kernels.forward_kernel`.

    A program walks the levels of ``per_program`` groups of ``phase``, or takes as many merges of
    one level where there is none.
    """

    first: int
    last: int
    num_programs: int
    per_program: int
    tile: Tile
    phase: Phase | None

    def arguments(self) -> dict[str, Any]:
        """Return what the kernels know of it, but for the tile."""
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


def launches(
    plan: Plan, population: int, tiles: tuple[Tile, ...], most_merges: int, num_processors: int
) -> list[Launch]:
    """Return the launches of a forward pass.

    Args:
        plan: to be run.
        population: P, whose members have programs of their own.
        tiles: to choose from.
        most_merges: that one launch may have, at least the rows of every tile.
        num_processors: multiprocessors of the GPU.
    """
    sizes = plan.level_sizes
    ends = [0, *itertools.accumulate(sizes)]
    phases = {phase.first_level: phase for phase in plan.phase_list()}
    found, level = [], 0
    while level < len(sizes):
        phase = phases.get(level)
        last = ends[level + phase.num_levels] if phase else 0
        if phase and last - ends[level] <= most_merges:
            of_phase = tuple(sizes[level : level + phase.num_levels])
            per_program, tile = _share(phase, of_phase, population, tiles, num_processors)
            num_programs = math.ceil(phase.num_groups / per_program)
            found.append(Launch(ends[level], last, num_programs, per_program, tile, phase))
            level += phase.num_levels
        else:
            span = ends[level], ends[level + 1]
            found += _of_one_level(*span, population, tiles, most_merges, num_processors)
            level += 1
    return found


def _of_one_level(
    begin: int,
    end: int,
    population: int,
    tiles: tuple[Tile, ...],
    most_merges: int,
    num_processors: int,
) -> Iterator[Launch]:
    for first in range(begin, end, most_merges):
        last = min(first + most_merges, end)

        def cost(tile: Tile, size: int = last - first) -> float:
            return _cost(math.ceil(size / tile.rows) * population, 1, tile, num_processors)

        tile = min(tiles, key=cost)
        num_programs = math.ceil((last - first) / tile.rows)
        yield Launch(first, last, num_programs, tile.rows, tile, None)


@lru_cache(maxsize=1024)
def _share(
    phase: Phase,
    sizes: tuple[int, ...],
    population: int,
    tiles: tuple[Tile, ...],
    num_processors: int,
) -> tuple[int, Tile]:
    """Return how many groups a program takes, and which tile; ``sizes`` are those of the levels."""

    def cost(choice: tuple[int, Tile]) -> float:
        per_program, tile = choice
        num_programs = math.ceil(phase.num_groups / per_program) * population
        shares = (per_program * size / phase.num_groups for size in sizes)
        passes = sum(math.ceil(share / tile.rows) for share in shares)
        return _cost(num_programs, passes, tile, num_processors)

    # with more, multiprocessors would have nothing to do
    most = math.ceil(phase.num_groups * population / num_processors)
    counts = [*(count for count in _PER_PROGRAM if count < most), min(most, phase.num_groups)]
    return min(itertools.product(counts, tiles), key=cost)


def _cost(num_programs: int, passes: int, tile: Tile, num_processors: int) -> float:
    return math.ceil(num_programs / num_processors) * passes * (_WEIGHTS + tile.rows)
