"""Which levels one launch of a fused kernel can take, since its programs own what they read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ldru_kernels.levels import Nodes
from ldru_kernels.schedule import Schedule

# levels of more merges fill a GPU by themselves;
_MOST_FUSED = 2**13
# smaller ones go together while a group's share of each fits one tile;
_MOST_PER_GROUP = 64
# and a batch of at least so many sequences of at most so many merges goes in one launch
_FEWEST_SEQUENCES, _LONGEST_SEQUENCE = 32, 512


class Phase(NamedTuple):
    """Levels that are walked group by group, in one launch.

    Merges ``bounds[first_bound + i * (num_groups + 1) + g]`` up to the next are those of group g in
    level ``first_level + i``. None of them reads what another group's merge in these levels makes.
    """

    first_level: int
    num_levels: int
    num_groups: int
    first_bound: int


class _Level(NamedTuple):
    """A level with the places of its merges; ``is_sorted`` whether these only grow."""

    number: int
    first_node: int
    left: Nodes
    right: Nodes
    places: Nodes
    is_sorted: bool


def find_phases(
    schedule: Schedule, num_tokens: int, num_sequences: int
) -> tuple[list[Phase], Nodes]:
    """Return the phases of a schedule, and the merges that part them into groups.

    The place of a node is its last leaf, sequences being a power of two apart. Merges whose places
    agree but for the last ``bits`` bits are a group: with enough of them, everything that a phase
    makes stays within a group. Levels in no phase have a launch of their own.

    Args:
        schedule: whose first inputs are the leaves, sequence by sequence.
        num_tokens: T, the leaves of each sequence.
        num_sequences: B.

    Returns:
        Phases in order, and ``bounds`` int64 [.] that they point into.
    """
    bits = (num_tokens - 1).bit_length()
    places = np.full(schedule.num_inputs + schedule.num_merges, -1)
    leaves = (np.arange(num_sequences) << bits)[:, None] + np.arange(num_tokens)
    places[: leaves.size] = leaves.flatten()
    levels = list(_levels(schedule, places))
    is_short = (
        num_sequences >= _FEWEST_SEQUENCES
        and schedule.num_merges <= _LONGEST_SEQUENCE * num_sequences
    )
    # a batch of single tokens has no levels, hence no phase
    if levels and is_short and all(level.is_sorted for level in levels):
        found = [(levels, bits)]
    else:
        found = list(_runs(levels, places))
    phases, bounds, first_bound = [], [np.empty(0, np.int64)], 0
    for run, bits_within in found:
        num_groups = (num_sequences << bits) >> bits_within
        groups = np.arange(num_groups + 1) << bits_within
        phases.append(Phase(run[0].number, len(run), num_groups, first_bound))
        for level in run:
            first = level.first_node - schedule.num_inputs
            bounds.append(first + np.searchsorted(level.places, groups))
        first_bound += len(run) * (num_groups + 1)
    return phases, np.concatenate(bounds)


def _levels(schedule: Schedule, places: Nodes) -> Iterator[_Level]:
    """Yield the levels and fill in the places of their nodes."""
    first = schedule.num_inputs
    for number, (left, right) in enumerate(schedule.levels):
        of_level = np.maximum(places[left], places[right])
        places[first : first + len(left)] = of_level
        # a tree of paddings is at no place, and no group can own it
        is_sorted = bool(of_level[0] >= 0 and (np.diff(of_level) >= 0).all())
        yield _Level(number, first, left, right, of_level, is_sorted)
        first += len(left)


def _runs(levels: list[_Level], places: Nodes) -> Iterator[tuple[list[_Level], int]]:
    """Yield levels that go together, at least two, and the bits within their groups."""
    run: list[_Level] = []
    bits = 0
    for level in levels:
        if not level.is_sorted or len(level.places) > _MOST_FUSED:
            if len(run) > 1:
                yield run, bits
            run, bits = [], 0
            continue
        wider = max(bits, _bits_apart(level, run[0].first_node, places)) if run else 0
        if _largest_group([*run, level], wider) <= _MOST_PER_GROUP:
            run, bits = [*run, level], wider
            continue
        if len(run) > 1:
            yield run, bits
        run, bits = [level], 0
    if len(run) > 1:
        yield run, bits


def _bits_apart(level: _Level, first_node: int, places: Nodes) -> int:
    """Return the bits that part merges from those of their children that a run makes itself."""
    apart = 0
    for children in (level.left, level.right):
        is_made = children >= first_node
        differences = places[children[is_made]] ^ level.places[is_made]
        apart |= int(np.bitwise_or.reduce(differences, initial=0))
    # a tree of paddings has no place: its sign makes them differ in more bits than there are
    return 63 if apart < 0 else apart.bit_length()


def _largest_group(levels: list[_Level], bits: int) -> int:
    """Return the most merges of a level that are in one group."""
    most = 0
    for level in levels:
        last = np.flatnonzero(np.diff(level.places >> bits, append=-1))
        most = max(most, int(np.diff(last, prepend=-1).max()))
    return most
