"""The brackets of every lone-node rule, written out by hand, and their frontiers."""

import math

import pytest
import torch

from ldru_kernels.frontier import follow, plan_for
from ldru_kernels.schedule import (
    LONE_NODE_RULES,
    Schedule,
    build_schedule,
    fold,
    needs_padding,
)

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
    """Follow a plan on strings, as `tree_reduce` does on tensors."""
    frontier = inputs
    for step in plan.steps:
        read = [frontier[row] for row in step.reads.tolist()]
        kept, children = read[: step.num_kept], read[step.num_kept :]
        frontier = kept + [
            bracket(*pair) for pair in zip(children[::2], children[1::2], strict=True)
        ]
    return [frontier[row] for row in plan.roots.tolist()]


@pytest.mark.parametrize("rule", LONE_NODE_RULES)
def test_frontiers_give_the_same_brackets(rule):
    lengths = [3, 1, 7, 33, 5, 9, 9, 2, 40]
    schedule = build_schedule(lengths, 40, rule)
    inputs = [f"<{i}>" for i in range(schedule.num_inputs)]
    assert run(follow(schedule), inputs) == fold(schedule, inputs, bracket)


def test_a_node_may_be_read_often_late_or_never():
    first = (torch.tensor([0, 1]), torch.tensor([0, 0]))
    second = (torch.tensor([4, 0]), torch.tensor([4, 5]))
    third = (torch.tensor([6]), torch.tensor([4]))
    schedule = Schedule(4, (first, second, third), roots=torch.tensor([8, 0, 4, 8]))
    wanted = ["(((aa)(aa))(aa))", "a", "(aa)", "(((aa)(aa))(aa))"]
    assert fold(schedule, "abcd", bracket) == wanted
    assert run(follow(schedule), list("abcd")) == wanted


@pytest.mark.parametrize("rule", LONE_NODE_RULES)
def test_all_frontiers_together_are_linear_in_the_leaves(rule):
    plan = follow(build_schedule([1000, 999, 1, 513], 1000, rule))
    num_leaves = 1000 + 999 + 1 + 513
    assert sum(len(step.reads) for step in plan.steps) < 2.1 * num_leaves


def test_plans_are_cached_for_repeated_lengths_only():
    def plan(*lengths, rule="carry"):
        cpu = torch.device("cpu")
        return plan_for(build_schedule, lengths, max(lengths), cpu, lone_node=rule)

    assert plan(3, 4) is plan(3, 4)
    assert plan(3, 4) is not plan(4, 3)
    assert plan(3, 4) is not plan(3, 4, rule="left_fold")
    # a large plan would hold its memory for little
    assert plan(40_000) is not plan(40_000)
