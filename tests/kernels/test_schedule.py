"""The brackets of every lone-node rule, written out by hand, and their plans."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldru_kernels import phases
from ldru_kernels.levels import LONE_NODE_RULES, needs_padding
from ldru_kernels.plan import ANY, largest_sizes, make_plan, pad, plan_for
from ldru_kernels.schedule import Schedule, build_scan, build_schedule, fold

# leaves are 1, 2, ..., zero is 0, the learned element is e
_FOUR, _EIGHT = "((12)(34))", "(((12)(34))((56)(78)))"
BRACKETS = {
    "zero_left": [
        "1",
        "(12)",
        "((12)(03))",
        _FOUR,
        "(((12)(34))(0(05)))",
        "(((12)(34))(0(56)))",
        "(((12)(34))((56)(07)))",
        _EIGHT,
        "((((12)(34))((56)(78)))(0(0(09))))",
    ],
    "zero_right": [
        "1",
        "(12)",
        "((12)(30))",
        _FOUR,
        "(((12)(34))((50)0))",
        "(((12)(34))((56)0))",
        "(((12)(34))((56)(70)))",
        _EIGHT,
        "((((12)(34))((56)(78)))(((90)0)0))",
    ],
    "identity": [
        "1",
        "(12)",
        "((12)(3e))",
        _FOUR,
        "(((12)(34))((5e)e))",
        "(((12)(34))((56)e))",
        "(((12)(34))((56)(7e)))",
        _EIGHT,
        "((((12)(34))((56)(78)))(((9e)e)e))",
    ],
    "carry": [
        "1",
        "(12)",
        "((12)3)",
        _FOUR,
        "(((12)(34))5)",
        "(((12)(34))(56))",
        "(((12)(34))((56)7))",
        _EIGHT,
        "((((12)(34))((56)(78)))9)",
    ],
    "pad_power_of_two": [
        "1",
        "(12)",
        "((12)(30))",
        _FOUR,
        "(((12)(34))((50)(00)))",
        "(((12)(34))((56)(00)))",
        "(((12)(34))((56)(70)))",
        _EIGHT,
        "((((12)(34))((56)(78)))(((90)(00))((00)(00))))",
    ],
    "left_fold": [
        "1",
        "(12)",
        "((12)3)",
        _FOUR,
        "(((12)(34))5)",
        "(((12)(34))(56))",
        "((((12)(34))(56))7)",
        _EIGHT,
        "((((12)(34))((56)(78)))9)",
    ],
}
CASES = [(rule, n) for rule in LONE_NODE_RULES for n in range(1, 10)]


def bracket(left, right):
    return f"({left}{right})"


def brackets_of(lengths, rule, num_tokens=None):
    """Fold strings whose leaves beyond the length are marked '?'."""
    num_tokens = num_tokens or max(lengths)
    leaves = [
        chr(ord("1") + t) if t < length else "?" for length in lengths for t in range(num_tokens)
    ]
    extra = ["e" if rule == "identity" else "0"] if needs_padding(rule) else []
    return fold(build_schedule(lengths, num_tokens, rule), leaves + extra, bracket)


def depth_of(text):
    depths, open_now = [0], 0
    for letter in text:
        open_now += {"(": 1, ")": -1}.get(letter, 0)
        depths.append(open_now)
    return max(depths)


def test_every_rule_has_brackets():
    assert sorted(BRACKETS) == list(LONE_NODE_RULES)


@pytest.mark.parametrize(("rule", "length"), CASES)
def test_brackets(rule, length):
    assert brackets_of([length], rule) == [BRACKETS[rule][length - 1]]


@pytest.mark.parametrize("rule", LONE_NODE_RULES)
def test_mixed_lengths_have_the_brackets_of_each_alone(rule):
    lengths = [3, 1, 7, 33, 5, 9, 9, 2, 1, 8]
    alone = [brackets_of([length], rule)[0] for length in lengths]
    assert brackets_of(lengths, rule, num_tokens=35) == alone


@pytest.mark.parametrize("rule", ["zero_left", "zero_right", "identity", "carry"])
@pytest.mark.parametrize("length", [1, 2, 3, 31, 32, 33, 100])
def test_halving_rules_take_log2_levels(rule, length):
    schedule = build_schedule([length], length, rule)
    assert len(schedule.levels) == math.ceil(math.log2(length))
    assert len(schedule.levels) == depth_of(brackets_of([length], rule)[0])


@pytest.mark.parametrize("rule", ["carry", "left_fold"])
def test_rules_without_padding_merge_once_per_leaf_but_one(rule):
    lengths = list(range(1, 70))
    assert build_schedule(lengths, 69, rule).num_merges == sum(lengths) - len(lengths)


@pytest.mark.parametrize("length", range(1, 70))
def test_left_fold_is_what_a_binary_counter_streams(length):
    slots: dict[int, str] = {}
    for leaf in range(length):
        node, level = chr(ord("1") + leaf), 0
        while level in slots:
            node, level = bracket(slots.pop(level), node), level + 1
        slots[level] = node
    oldest_first = [slots[level] for level in sorted(slots, reverse=True)]
    streamed = oldest_first[0]
    for node in oldest_first[1:]:
        streamed = bracket(streamed, node)
    assert brackets_of([length], "left_fold") == [streamed]


@pytest.mark.parametrize("length", range(1, 35))
def test_pad_power_of_two_is_a_complete_tree_over_zeros(length):
    full = 2 ** math.ceil(math.log2(length))
    leaves = [chr(ord("1") + t) if t < length else "0" for t in range(full)]
    complete = fold(build_schedule([full], full, "carry"), leaves, bracket)
    assert brackets_of([length], "pad_power_of_two") == complete


def test_trees_of_zeros_are_merged_once_for_the_whole_batch():
    # 33 tokens need trees of 1, 2, 4, 8 and 16 zeros: 4 merges; each string merges 32 + 5 times
    assert build_schedule([33] * 50, 33, "pad_power_of_two").num_merges == 50 * 37 + 4
    # and none where no level will ask for them
    assert build_schedule([32, 6, 1], 32, "pad_power_of_two").num_merges == 31 + 6 + 1


def test_unknown_rule():
    with pytest.raises(ValueError, match=r"no rule is called 'zero'\. Known: carry, identity,"):
        build_schedule([3], 3, "zero")


def run(plan, inputs):
    """Follow a plan on strings, as the ops do on tensors."""
    nodes = list(inputs)
    for left, right in plan.children.tolist():
        nodes.append(bracket(nodes[left], nodes[right]))
    return [nodes[node] for node in plan.results.tolist()]


def readers_of(plan, node):
    first, last = plan.reader_starts[node : node + 2].tolist()
    return plan.readers[first:last].tolist()


def check_plan(plan):
    """Check what a backward pass relies on: who reads whom, and what the stages claim."""
    read = plan.results.tolist() + plan.children.flatten().tolist()
    num_nodes = len(plan.reader_starts) - 1
    for node in range(num_nodes):
        assert readers_of(plan, node) == [edge for edge, of in enumerate(read) if of == node]
    first, first_merge = 0, 0
    for stage, (size, first_child, entries, mode) in enumerate(plan.stages.tolist()):
        readers = [readers_of(plan, node) for node in range(first, first + size)]
        flat = [edge for edges in readers for edge in edges]
        assert len(flat) == entries
        if mode != ANY:
            assert all(len(edges) == 1 for edges in readers)
        if mode >= 0:
            assert flat == list(range(mode, mode + size))
        if stage > int(plan.num_extra):
            children = plan.children[first_merge : first_merge + size].flatten().tolist()
            is_range = children == list(range(children[0], children[0] + 2 * size))
            assert first_child == (children[0] if is_range else -1)
            first_merge += size
        first += size
    assert first == num_nodes
    assert first_merge == len(plan.children)


@pytest.mark.parametrize("rule", LONE_NODE_RULES)
@pytest.mark.parametrize("lengths", [[3, 1, 7, 33, 5, 9, 9, 2, 40], [1, 1], [16, 16, 16]])
def test_plans_keep_the_brackets_and_know_their_readers(rule, lengths):
    schedule = build_schedule(lengths, max(lengths), rule)
    plan = make_plan(schedule, int(needs_padding(rule)), len(lengths))
    inputs = [f"<{i}>" for i in range(schedule.num_inputs)]
    assert run(plan, inputs) == fold(schedule, inputs, bracket)
    check_plan(plan)


def test_neighbours_need_no_index():
    plan = make_plan(build_schedule([8, 8], 8, "carry"), 0, 2)
    assert plan.stages[1:, 1].tolist() == [0, 16, 24]
    # edge 0 and 1 are the results, so that the leaves are read by edges 2 to 17
    assert plan.stages[:, 3].tolist() == [2, 18, 26, 0]


def phase_levels(schedule, num_tokens, num_sequences):
    """Check what launches over several levels rely on; return the first and last level of each."""
    plan = make_plan(schedule, schedule.num_inputs - num_tokens * num_sequences, num_sequences)
    ends = [0, *itertools.accumulate(plan.level_sizes)]
    covered = []
    for phase in plan.phase_list():
        group_of, width = {}, phase.num_groups + 1
        for i in range(phase.num_levels):
            level = phase.first_level + i
            begin = phase.first_bound + i * width
            row = plan.bounds[begin : begin + width].tolist()
            assert row[0] == ends[level]
            assert row[-1] == ends[level + 1]
            for group in range(phase.num_groups):
                for merge in range(row[group], row[group + 1]):
                    group_of[schedule.num_inputs + merge] = group
        for node, group in group_of.items():
            for child in plan.children[node - schedule.num_inputs].tolist():
                assert group_of.get(child, group) == group
        covered.append((phase.first_level, phase.first_level + phase.num_levels - 1))
    assert plan.bounds.shape == (sum(p.num_levels * (p.num_groups + 1) for p in plan.phase_list()),)
    return covered


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=5),
    st.sampled_from([*LONE_NODE_RULES, "scan", "exclusive scan"]),
    st.sampled_from([2, 8, 64]),
)
def test_groups_of_a_phase_have_nothing_to_do_with_each_other(lengths, rule, most):
    if "scan" in rule:
        schedule = build_scan(lengths, 300, inclusive=rule == "scan", has_root=True)
    else:
        schedule = build_schedule(lengths, 300, rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "_MOST_PER_GROUP", most)
        phase_levels(schedule, 300, len(lengths))
        plan = make_plan(schedule, schedule.num_inputs - 300 * len(lengths), len(lengths))
    sizes = largest_sizes(len(lengths), 300, schedule.num_inputs, len(plan.results))
    grown = pad(plan, sizes)
    if grown.phase_list():
        assert grown.phase_list() == plan.phase_list()
        assert torch.equal(grown.bounds[: len(plan.bounds)], plan.bounds)


def test_phases_that_have_no_room_are_left_out():
    plan = make_plan(build_schedule([100], 100, "carry"), 0, 1)
    sizes = largest_sizes(1, 100, 100, 1)
    assert pad(plan, sizes).phase_list() == plan.phase_list() != []
    assert pad(plan, sizes | {"bounds": (3,)}).phase_list() == []


def test_short_sequences_are_one_phase():
    lengths = [3, 1, 7, 33, 5, 9, 9, 2] * 4
    for rule in LONE_NODE_RULES:
        schedule = build_schedule(lengths, 40, rule)
        covered = phase_levels(schedule, 40, len(lengths))
        if rule == "pad_power_of_two":
            # levels that merge paddings for all sequences stand alone
            assert covered != [(0, len(schedule.levels) - 1)]
        else:
            assert covered == [(0, len(schedule.levels) - 1)]


def test_small_levels_of_long_sequences_go_together():
    # 2^15 and 2^14 merges, then 2^13 with 64 of them in each of 128 groups, then one group
    schedule = build_schedule([2**16], 2**16, "carry")
    assert phase_levels(schedule, 2**16, 1) == [(2, 8), (9, 15)]
    # up, and down again: the top of the tree and up to 64 prefixes below it are one group
    schedule = build_scan([2**10], 2**10, inclusive=True, has_root=True)
    assert phase_levels(schedule, 2**10, 1) == [(0, 6), (7, 17), (18, 20)]


def test_a_node_may_be_read_often_late_or_never():
    first = (np.array([0, 1]), np.array([0, 0]))
    second = (np.array([4, 0]), np.array([4, 5]))
    third = (np.array([6]), np.array([4]))
    schedule = Schedule(4, (first, second, third), roots=np.array([8, 0, 4, 8]))
    wanted = ["(((aa)(aa))(aa))", "a", "(aa)", "(((aa)(aa))(aa))"]
    assert fold(schedule, "abcd", bracket) == wanted
    plan = make_plan(schedule, 1)
    assert run(plan, "abcd") == wanted
    check_plan(plan)
    assert int(plan.num_extra) == 1
    assert plan.phase_list() == []


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 24), min_size=1, max_size=4), st.booleans())
def test_plans_of_scans_know_their_readers(lengths, inclusive):
    schedule = build_scan(lengths, 24, inclusive=inclusive, has_root=True)
    plan = make_plan(schedule, 2, len(lengths))
    check_plan(plan)
    assert int(plan.num_extra) == 2


@pytest.mark.parametrize("rule", LONE_NODE_RULES)
def test_a_plan_of_the_largest_sizes_says_the_same(rule):
    lengths = [13, 1, 7]
    schedule = build_schedule(lengths, 13, rule)
    plan = make_plan(schedule, int(needs_padding(rule)), 3)
    sizes = largest_sizes(3, 13, schedule.num_inputs, 3)
    grown = pad(plan, sizes)
    assert {name: tuple(tensor.shape) for name, tensor in grown._asdict().items()} == sizes
    assert int(grown.stages[:, 0].sum()) == schedule.num_inputs + schedule.num_merges
    for name, tensor in plan._asdict().items():
        corner = tuple(slice(side) for side in tensor.shape)
        assert torch.equal(getattr(grown, name)[corner], tensor)


def test_the_latest_plans_are_kept(monkeypatch):
    def plan(*lengths, rule="carry"):
        cpu = torch.device("cpu")
        return plan_for(build_schedule, lengths, max(lengths), cpu, lone_node=rule)

    assert plan(3, 4) is plan(3, 4)
    assert plan(3, 4) is not plan(4, 3)
    assert plan(3, 4) is not plan(3, 4, rule="left_fold")
    monkeypatch.setattr("ldru_kernels.plan._MOST_CACHED", 100)
    first, second, third = plan(41), plan(42), plan(43)
    assert plan(43) is third
    assert plan(42) is second
    assert plan(41) is not first
    large = plan(1000)
    assert plan(1000) is large
