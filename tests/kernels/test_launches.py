"""Launches cover every merge once, in order, and fill tiles and multiprocessors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldru_kernels.launches import Tile, launches, tiles_for
from ldru_kernels.plan import make_plan
from ldru_kernels.schedule import build_scan, build_schedule

HALF = tiles_for(64, "bf16")


def plan_of(lengths, *, scan=False):
    most = max(lengths)
    if scan:
        schedule = build_scan(lengths, most, inclusive=True, has_root=False)
        return make_plan(schedule, 1, len(lengths))
    return make_plan(build_schedule(lengths, most, "carry"), 0, len(lengths))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=40),
    st.booleans(),
    st.integers(1, 3),
    st.integers(128, 4000),
    st.integers(1, 200),
)
def test_every_merge_is_made_once_and_in_order(lengths, scan, population, most, processors):
    plan = plan_of(lengths, scan=scan)
    end, level = 0, 0
    sizes = plan.level_sizes
    for launch in launches(plan, population, HALF.forward, most, processors):
        assert launch.first == end
        assert launch.last - launch.first <= most
        end = launch.last
        if launch.phase:
            assert launch.num_programs == math.ceil(launch.phase.num_groups / launch.per_program)
            assert sum(sizes[:level]) == launch.first
            level += launch.phase.num_levels
            assert sum(sizes[:level]) == launch.last
        else:
            assert launch.per_program == launch.tile.rows
            assert launch.num_programs == math.ceil((end - launch.first) / launch.tile.rows)
            level += end == sum(sizes[: level + 1])
    assert end == len(plan.children)


def test_a_batch_of_short_trees_is_one_launch_of_one_wave():
    (launch,) = launches(plan_of([40] * 256), 1, HALF.forward, 2**31, 132)
    # with two trees a program, all programs run at once
    assert (launch.num_programs, launch.per_program) == (128, 2)
    assert 16 < launch.tile.rows < 128
    assert launch.phase.num_levels == 6


def test_long_levels_take_large_tiles_and_short_ones_go_together():
    found = launches(plan_of([2**17]), 1, HALF.forward, 2**31, 132)
    alone = [launch for launch in found if not launch.phase]
    assert [launch.last - launch.first for launch in alone] == [2**16, 2**15, 2**14]
    assert {launch.tile.rows for launch in alone} == {128}
    assert [launch.phase.num_levels for launch in found if launch.phase] == [7, 7]


@pytest.mark.parametrize("operands", ["ieee", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("wide", [16, 32, 64, 128])
def test_tiles_are_what_the_kernels_take(wide, operands):
    tiles = tiles_for(wide, operands)
    for kernel in (tiles.forward, tiles.backward):
        assert list(kernel) == sorted(kernel)
        for tile in kernel:
            # a matrix product needs 16 rows, and a block divides every hidden layer of 4 E features
            assert tile.rows >= 16
            assert 64 % tile.block == 0
    assert isinstance(tiles.sums, Tile)
