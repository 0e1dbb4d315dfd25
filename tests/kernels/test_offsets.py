"""Trees whose pairs begin at the first or at the second node of a level."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.test_schedule import check_plan, phase_levels
from tests.kernels.test_tree_reduce import random_leaves, random_weights, root_and_gradients

from ldru_kernels import LONE_NODE_RULES, reference, tree_reduce, tree_reduce_tokens
from ldru_kernels.checks import check_offsets
from ldru_kernels.dropout import new_seed
from ldru_kernels.levels import needs_padding
from ldru_kernels.plan import make_plan
from ldru_kernels.schedule import build_schedule, fold

RULES = [rule for rule in LONE_NODE_RULES if rule != "left_fold"]
LENGTHS = [33, 1, 2, 3, 7, 33, 4, 16]

# leaves are 1, 2, ..., zero is 0, the learned element is e
BRACKETS = {
    ("carry", ()): "(((12)(34))5)",
    ("carry", (1,)): "((1(23))(45))",
    ("carry", (0, 1)): "((12)((34)5))",
    ("carry", (1, 1)): "(1((23)(45)))",
    # two nodes are a pair whatever the offset
    ("carry", (1, 1, 1)): "(1((23)(45)))",
    ("zero_left", (1,)): "(((01)(23))(0(45)))",
    ("zero_left", (1, 1)): "((0(01))((23)(45)))",
    ("zero_right", (1,)): "(((10)(23))((45)0))",
    ("identity", (0, 1)): "(((12)e)((34)(5e)))",
    ("pad_power_of_two", (1, 1)): "(((10)(00))((23)(45)))",
}


def join(left, right):
    return f"({left}{right})"


def enumerated(leaves, rule, offsets):
    """Return the brackets of one string, level by level on lists, as the definition says."""
    nodes, zero = list(leaves), "e" if rule == "identity" else "0"
    offsets = list(offsets)
    while len(nodes) > 1:
        offset = offsets.pop(0) if offsets else 0
        first = 1 if offset and len(nodes) > 2 else 0
        groups = [nodes[:1]] * first
        groups += [nodes[place : place + 2] for place in range(first, len(nodes), 2)]
        nodes = []
        for group in groups:
            if len(group) == 1 and rule != "carry":
                group = [zero, *group] if rule == "zero_left" else [*group, zero]
            nodes.append(join(*group) if len(group) == 2 else group[0])
        if rule == "pad_power_of_two":
            zero = join(zero, zero)
    return nodes[0]


def folded(rule, offsets, lengths):
    num_tokens = max(lengths)
    leaves = [
        chr(ord("1") + t) if t < length else "?" for length in lengths for t in range(num_tokens)
    ]
    extra = ["e" if rule == "identity" else "0"] if needs_padding(rule) else []
    return fold(build_schedule(lengths, num_tokens, rule, offsets=offsets), leaves + extra, join)


@pytest.mark.parametrize(("rule", "offsets"), BRACKETS)
def test_brackets(rule, offsets):
    assert folded(rule, offsets, [5]) == [BRACKETS[rule, offsets]]
    assert enumerated("12345", rule, offsets) == BRACKETS[rule, offsets]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=5),
    st.sampled_from(RULES),
    st.lists(st.integers(0, 1), max_size=8),
)
def test_mixed_lengths_and_shared_subtrees_have_the_brackets_of_each_alone(strings, rule, offsets):
    lengths, offsets = [len(string) for string in strings], tuple(offsets)
    tokens = torch.tensor([s + [3] * (max(lengths) - len(s)) for s in strings])
    wanted = [enumerated(["abc"[symbol] for symbol in s], rule, offsets) for s in strings]
    zero = "e" if rule == "identity" else "0"
    schedule = build_schedule(lengths, max(lengths), rule, offsets=offsets)
    letters = ["abc?"[symbol] for symbol in tokens.flatten().tolist()]
    assert fold(schedule, [*letters, zero], join) == wanted
    shared = build_schedule(lengths, max(lengths), rule, tokens.numpy(), 3, offsets)
    assert fold(shared, [*"abc", zero], join) == wanted
    assert shared.num_merges <= schedule.num_merges
    # one level more than without offsets, at most
    assert len(schedule.levels) <= math.ceil(math.log2(max(lengths))) + any(offsets)
    if rule == "carry":
        assert schedule.num_merges == sum(lengths) - len(lengths)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.sampled_from(RULES),
    st.lists(st.integers(0, 1), max_size=6),
)
def test_plans_and_their_phases(lengths, rule, offsets):
    schedule = build_schedule(lengths, 40, rule, offsets=tuple(offsets))
    check_plan(make_plan(schedule, int(needs_padding(rule)), len(lengths)))
    phase_levels(schedule, 40, len(lengths))


@pytest.mark.parametrize("offsets", [(1,), (0, 1, 1), (1, 0, 1, 1, 1, 1)])
@pytest.mark.parametrize("rule", RULES)
def test_outputs_and_every_gradient_are_those_of_the_definition(rule, offsets):
    weights = random_weights("mlp", 4, rule)
    how = {"lone_node": rule, "offsets": offsets, "lengths": torch.tensor(LENGTHS)}
    tokens = torch.arange(len(LENGTHS) * 33).view(-1, 33).square() % 3
    table = random_leaves(3, 4)

    def given(table, weights, **arguments):
        return tree_reduce(table[tokens], weights, **arguments)

    def shared(table, weights, **arguments):
        return tree_reduce_tokens(table, tokens, weights, **arguments)

    def defined(table, weights, **arguments):
        return reference.tree_reduce(table[tokens], weights, **arguments)

    wanted = root_and_gradients(defined, table, weights, **how)
    for op in (given, shared):
        found = root_and_gradients(op, table, weights, **how)
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-9, msg=name)


def test_dropout_and_noise_go_by_the_merges_of_these_trees():
    weights, leaves = random_weights("grc", 4), random_leaves(3, 9, 4)
    how = {"offsets": (1, 0, 1), "lengths": torch.tensor([9, 4, 7])}
    how |= {"dropout": 0.3, "node_noise": 0.2}
    torch.manual_seed(0)
    found = root_and_gradients(tree_reduce, leaves, weights, **how)
    torch.manual_seed(0)
    seed = new_seed(leaves.device)
    wanted = root_and_gradients(reference.tree_reduce, leaves, weights, **how, seed=seed)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-9, msg=name)


def test_gradients_are_finite_differences():
    weights, table = random_weights("gated_sum", 3, "identity"), random_leaves(2, 3)
    tokens, lengths = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0]]), torch.tensor([6, 3])

    def roots(table, identity, *operator):
        made = weights._replace(identity=identity, operator=type(weights.operator)(*operator))
        how = {"lone_node": "identity", "offsets": (1, 1), "lengths": lengths}
        return tree_reduce_tokens(table, tokens, made, **how)

    inputs = (table, weights.identity, *weights.operator)
    assert torch.autograd.gradcheck(roots, inputs, eps=1e-6, atol=1e-6)


def test_what_has_no_offsets(monkeypatch):
    leaves, weights = random_leaves(2, 5, 4), random_weights("mlp", 4)
    with pytest.raises(ValueError, match=r"offsets: \[0, 2\]; need 0 or 1 for every level"):
        tree_reduce(leaves, weights, offsets=(0, 2))
    with pytest.raises(ValueError, match="offsets: lone_node 'left_fold' cuts the tokens"):
        tree_reduce(leaves, weights, offsets=(1,), lone_node="left_fold")
    with pytest.raises(ValueError, match="chunk: with offsets, subtrees are not those of chunks"):
        tree_reduce(leaves, weights, offsets=(1,), chunk=2)
    # what says nothing does not count
    wanted = tree_reduce(leaves, weights)
    assert torch.equal(tree_reduce(leaves, weights, offsets=(0, 0)), wanted)
    assert check_offsets((0, 1, 0, 1, 1), 5) == (0, 1)
    assert check_offsets([1, 1], 2) == (1,)
    assert check_offsets([1, 1], 1) == ()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(ValueError, match="offsets: a compiled graph has none"):
        check_offsets((1,), 5)
