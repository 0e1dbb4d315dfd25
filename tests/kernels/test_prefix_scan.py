"""The scan: its brackets, its values and gradients, the stream, and where it is the reduction."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.test_tree_reduce import random_leaves, random_weights, tensors

import ldru_kernels.prefix_scan  # noqa: F401 -- the module, which its function hides
from ldru_kernels import OPERATORS, StreamingScan, prefix_scan, reference, tree_reduce
from ldru_kernels.schedule import build_scan, build_schedule, fold

scan_module = sys.modules["ldru_kernels.prefix_scan"]

LENGTHS = [33, 1, 2, 3, 7, 16, 4]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP"


def join(left, right):
    return f"({left}{right})"


def brackets(lengths, num_tokens, *, inclusive=True, root=None):
    """Return the brackets of every position, a row per sequence; "." stands for no prefix."""
    schedule = build_scan(lengths, num_tokens, inclusive=inclusive, has_root=root is not None)
    inputs = [*LETTERS[:num_tokens] * len(lengths), ".", *([root] if root else [])]
    found = fold(schedule, inputs, join)
    return [found[b * num_tokens : (b + 1) * num_tokens] for b in range(len(lengths))]


def counter(letters, root=None):
    """Return the brackets of a binary counter, written without the schedule."""
    slots = []
    for letter in letters:
        block, size = letter, 1
        while slots and slots[-1][1] == size:
            block, size = join(slots.pop()[0], block), 2 * size
        slots.append((block, size))
    blocks = [block for block, _ in slots]
    if root:
        blocks.insert(0, root)
    folded = blocks[0]
    for block in blocks[1:]:
        folded = join(folded, block)
    return folded


def test_brackets_written_out():
    assert brackets([8], 8) == [
        [
            "a",
            "(ab)",
            "((ab)c)",
            "((ab)(cd))",
            "(((ab)(cd))e)",
            "(((ab)(cd))(ef))",
            "((((ab)(cd))(ef))g)",
            "(((ab)(cd))((ef)(gh)))",
        ]
    ]
    assert brackets([4], 4, inclusive=False, root="e") == [["e", "(ea)", "(e(ab))", "((e(ab))c)"]]
    assert brackets([2, 1], 3) == [["a", "(ab)", "."], ["a", ".", "."]]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 42), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_brackets_are_those_of_a_counter(lengths, inclusive, has_root):
    if not inclusive and not has_root:
        has_root = True
    root = "0" if has_root else None
    num_tokens = max(lengths)
    found = brackets(lengths, num_tokens, inclusive=inclusive, root=root)
    for length, row in zip(lengths, found, strict=True):
        for t in range(num_tokens):
            prefix = LETTERS[: t + inclusive]
            if t >= length:
                assert row[t] == "."
            else:
                assert row[t] == (counter(prefix, root) if prefix else root)


def test_the_last_prefix_is_the_left_fold_and_other_rules_only_at_some_lengths():
    for length in range(1, 43):
        last = brackets([length], length)[0][-1]
        for rule in ("left_fold", "carry"):
            (reduced,) = fold(build_schedule([length], length, rule), LETTERS, join)
            has_few_digits = length.bit_count() <= 2
            assert (reduced == last) == (rule == "left_fold" or has_few_digits), (rule, length)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 33, 64, 500, 4096])
def test_merges_and_levels_are_few(num_tokens):
    schedule = build_scan([num_tokens], num_tokens, inclusive=True, has_root=True)
    assert schedule.num_merges < 2 * num_tokens
    assert len(schedule.levels) <= 2 * num_tokens.bit_length()
    assert all(len(left) for left, _ in schedule.levels)


CASES = [(True, False), (True, True), (False, True)]


@pytest.mark.parametrize(("inclusive", "has_root"), CASES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_states_and_every_gradient_agree_with_the_reference(operator, inclusive, has_root):
    weights = random_weights(operator, 4)
    leaves = random_leaves(len(LENGTHS), 33, 4)
    root = random_leaves(4) if has_root else None
    arguments = {"lengths": torch.tensor(LENGTHS), "inclusive": inclusive, "root": root}
    named = tensors(leaves, weights) | ({"root": root} if has_root else {})
    found, wanted = {}, {}
    for op, result in ((prefix_scan, found), (reference.prefix_scan, wanted)):
        states = op(leaves, weights, **arguments)
        direction = random_leaves(*states.shape).detach()
        gradients = torch.autograd.grad((states * direction).sum(), list(named.values()))
        result.update({"states": states.detach()}, **dict(zip(named, gradients, strict=True)))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-9, msg=name)
        assert wanted[name].abs().sum() > 0


def test_gradients_agree_with_finite_differences():
    weights = random_weights("mlp", 2)
    leaves, root = random_leaves(2, 5, 2), random_leaves(2)

    def scan(leaves, root):
        return prefix_scan(leaves, weights, lengths=torch.tensor([5, 3]), root=root)

    assert torch.autograd.gradcheck(scan, (leaves, root))


def test_what_lies_beyond_a_length_is_never_read():
    weights = random_weights("mlp", 4)
    leaves = random_leaves(3, 9, 4).detach()
    lengths = torch.tensor([9, 4, 1])
    clean = prefix_scan(leaves, weights, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        leaves[row, length:] = torch.nan
    leaves.requires_grad_()
    states = prefix_scan(leaves, weights, lengths=lengths)
    assert torch.equal(states, clean)
    gradients = torch.autograd.grad(states.sum(), list(tensors(leaves, weights).values()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][1, 4:] == 0).all()


@pytest.mark.parametrize("has_root", [False, True])
def test_the_stream_agrees_with_the_scan(has_root):
    weights = random_weights("mlp", 8)
    leaves = random_leaves(2, 70, 8)
    root = random_leaves(8) if has_root else None
    stream = StreamingScan(weights, root=root)
    found = torch.stack([stream.push(leaf) for leaf in leaves.unbind(1)], dim=1)
    torch.testing.assert_close(found, prefix_scan(leaves, weights, root=root))
    assert stream.num_tokens == 70
    # blocks of 64, 4 and 2 tokens: the state is a logarithm of what was read
    assert len(stream._blocks) == 3


def test_the_last_prefix_is_the_reduction():
    weights = random_weights("mlp", 8)
    leaves, lengths = random_leaves(len(LENGTHS), 33, 8), torch.tensor(LENGTHS)
    reduced = tree_reduce(leaves, weights, lengths=lengths, lone_node="left_fold")
    states = prefix_scan(leaves, weights, lengths=lengths)
    torch.testing.assert_close(states[torch.arange(len(LENGTHS)), lengths - 1], reduced)


@pytest.mark.parametrize(("inclusive", "has_root"), [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize("population", [None, 2])
@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_a_scan_in_chunks_is_the_scan(inclusive, has_root, population, chunk, monkeypatch):
    monkeypatch.setattr(scan_module, "_GROUP_TOKENS", 3 * chunk)
    weights = random_weights("mlp", 4, population=population)
    first = () if population is None else (population,)
    leaves = random_leaves(*first, len(LENGTHS), 33, 4)
    root = random_leaves(*first, 4) if has_root else None
    named = tensors(leaves, weights) | ({"root": root} if has_root else {})
    arguments = {"lengths": torch.tensor(LENGTHS), "inclusive": inclusive, "root": root}
    wanted = prefix_scan(leaves, weights, chunk=64, **arguments)
    found = prefix_scan(leaves, weights, chunk=chunk, **arguments)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    direction = random_leaves(*wanted.shape).detach()
    pairs = [
        torch.autograd.grad((states * direction).sum(), list(named.values()))
        for states in (found, wanted)
    ]
    for name, mine, theirs in zip(named, *pairs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9, msg=name)


def test_what_lies_beyond_a_length_is_not_scanned_in_chunks_either():
    weights, leaves = random_weights("mlp", 4), random_leaves(2, 9, 4).detach()
    lengths = torch.tensor([9, 3])
    wanted = prefix_scan(leaves, weights, lengths=lengths)
    leaves[1, 3:] = torch.nan
    found = prefix_scan(leaves.requires_grad_(), weights, lengths=lengths, chunk=2)
    torch.testing.assert_close(found, wanted)
    found.sum().backward()
    assert leaves.grad.isfinite().all()


def test_dropout_falls_on_blocks_that_prefixes_share():
    weights = random_weights("elementwise_sum", 64)
    leaves = random_leaves(1, 4, 64)
    torch.manual_seed(0)
    states = prefix_scan(leaves, weights, dropout=0.5)
    assert torch.equal(states[:, 0], leaves[:, 0])
    shares = (states[:, 1:] == 0).double().mean(dim=2)
    assert ((shares > 0.2) & (shares < 0.8)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inclusive": False}, "root: an exclusive scan needs one"),
        ({"root": torch.zeros(3, dtype=torch.float64)}, r"root: shape \[3\], .* need \[4\]"),
        ({"root": torch.zeros(4)}, "root: dtype torch.float32, but these leaves need"),
        ({"lengths": torch.tensor([6, 1])}, "lengths: from 1 to 6"),
        ({"dropout": 1.0}, "dropout: 1.0 is not in"),
        ({"dropout": 0.1, "chunk": 2}, "chunk: a scan in chunks has no dropout"),
        ({"leaves": torch.zeros(2, 4)}, r"leaves: shape \[2, 4\]"),
        ({"weights": random_weights("mlp", 4, "identity")}, "weights.identity: a scan has no lone"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"leaves": random_leaves(2, 5, 4), "weights": random_weights("mlp", 4)} | change
    with pytest.raises(ValueError, match=message):
        prefix_scan(arguments.pop("leaves"), arguments.pop("weights"), **arguments)


def test_a_bad_push_changes_nothing():
    weights = random_weights("mlp", 4)
    leaves = random_leaves(2, 3, 4)
    stream, other = StreamingScan(weights), StreamingScan(weights)
    for leaf in leaves.unbind(1):
        for bad in (leaf[0], leaf.float(), leaf[:, :3]):
            with pytest.raises(ValueError, match=r"leaf|weights"):
                stream.push(bad)
        wanted = other.push(leaf)
        assert torch.equal(stream.push(leaf), wanted)
    with pytest.raises(ValueError, match="there are 2 streams"):
        stream.push(leaves[:1, 0])
    with pytest.raises(ValueError, match="a scan has no lone nodes"):
        StreamingScan(random_weights("mlp", 4, "identity"))
