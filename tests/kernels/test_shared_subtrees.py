"""Equal subtrees are merged once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.test_tree_reduce import random_leaves, random_weights, tensors

from ldru_kernels import LONE_NODE_RULES, reference, tree_reduce_tokens
from ldru_kernels.schedule import build_schedule, fold

LENGTHS = [33, 1, 2, 3, 7, 33, 4, 16]


def random_tokens(*shape, num_symbols=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(num_symbols, shape, generator=generator)


def shared(tokens, lengths, rule, num_symbols):
    num_tokens = tokens.shape[1]
    schedule = build_schedule(lengths, num_tokens, rule)
    return schedule, build_schedule(lengths, num_tokens, rule, tokens.numpy(), num_symbols)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=5),
    st.sampled_from(LONE_NODE_RULES),
)
def test_brackets_stay_the_same(strings, rule):
    lengths = [len(string) for string in strings]
    tokens = torch.tensor([s + [0] * (max(lengths) - len(s)) for s in strings])
    schedule, small = shared(tokens, lengths, rule, 3)
    letters = ["abc"[symbol] for symbol in tokens.flatten().tolist()]

    def join(left, right):
        return f"({left}{right})"

    assert fold(small, [*"abc", "0"], join) == fold(schedule, [*letters, "0"], join)
    assert small.num_merges <= schedule.num_merges


def test_each_distinct_subtree_of_a_height_is_merged_once():
    tokens = random_tokens(64, 64)
    _, small = shared(tokens, [64] * 64, "carry", 2)
    made = []

    def join(left, right):
        made.append((left[0] + right[0], left[1] + 1))
        return made[-1]

    fold(small, [("a", 0), ("b", 0)], join)
    assert len(made) == len(set(made))
    sizes = [len(left) for left, _ in small.levels]
    assert sizes[:2] == [4, 16]
    # 512 strings of eight letters of two, of which some are equal
    assert sizes[2] == len({tuple(part) for part in tokens.view(-1, 8).tolist()}) < 256


@pytest.mark.parametrize("rule", LONE_NODE_RULES)
def test_roots_and_every_gradient_agree_with_the_reference(rule):
    weights = random_weights("mlp", 4, rule)
    table, tokens = random_leaves(3, 4), random_tokens(len(LENGTHS), 33, num_symbols=3)
    lengths = torch.tensor(LENGTHS)
    named = tensors(table, weights)
    found = tree_reduce_tokens(table, tokens, weights, lengths=lengths, lone_node=rule)
    wanted = reference.tree_reduce(table[tokens], weights, lengths=lengths, lone_node=rule)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    direction = random_leaves(*found.shape).detach()
    pairs = [
        torch.autograd.grad((roots * direction).sum(), list(named.values()))
        for roots in (found, wanted)
    ]
    for name, mine, theirs in zip(named, *pairs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9, msg=name)


def test_tokens_beyond_a_length_may_be_anything():
    weights, table = random_weights("mlp", 4), random_leaves(2, 4)
    tokens = torch.tensor([[0, 1, 99], [1, 1, 0]])
    lengths = torch.tensor([2, 3])
    found = tree_reduce_tokens(table, tokens, weights, lengths=lengths)
    tokens[0, 2] = 0
    assert torch.equal(found, tree_reduce_tokens(table, tokens, weights, lengths=lengths))


def test_plans_made_in_inference_mode_serve_training():
    weights, table, tokens = random_weights("mlp", 4), random_leaves(2, 4), random_tokens(3, 5)
    with torch.inference_mode():
        tree_reduce_tokens(table, tokens, weights)
    tree_reduce_tokens(table, tokens, weights).sum().backward()
    assert table.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": torch.zeros(4)}, r"table: shape \[4\]"),
        ({"tokens": torch.zeros(2, 3)}, r"tokens: shape \[2, 3\], torch.float32; need int64"),
        ({"tokens": torch.tensor([[0, 2]])}, "tokens: from 0 to 2; the table has rows 0 to 1"),
        ({"tokens": torch.tensor([[-1, 0]])}, "tokens: from -1 to 0"),
        ({"lengths": torch.tensor([1, 9])}, "lengths: from 1 to 9"),
        ({"lone_node": "carri"}, "lone_node: no rule is called 'carri'"),
        ({"lone_node": "identity"}, "weights.identity: .* no identity element"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"table": random_leaves(2, 4), "tokens": random_tokens(2, 3)} | change
    with pytest.raises(ValueError, match=message):
        tree_reduce_tokens(weights=random_weights("mlp", 4), **arguments)
