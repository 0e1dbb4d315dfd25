"""Trees in parts: the same brackets, masks, results and gradients, in memory that stays flat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.test_tree_reduce import random_leaves, random_weights, root_and_gradients

from ldru_kernels import LONE_NODE_RULES, StreamingReduction, chunks, tree_reduce
from ldru_kernels import tree_reduce_tokens as reduce_tokens
from ldru_kernels.chunks import GivenLeaves, SharedLeaves, Stretch, chunk_height
from ldru_kernels.dropout import leaf_numbers, mask, new_seed
from ldru_kernels.parts import (
    Numbering,
    build_chunks,
    build_join,
    build_zero_tree,
    digits_below,
)
from ldru_kernels.schedule import build_schedule, fold

LENGTHS = [33, 1, 2, 7, 32, 12]


def numbered(schedule, inputs, numbers):
    """Return the results as (left, right, number of the merge) all the way down."""
    left = iter(numbers)
    found = fold(schedule, inputs, lambda a, b: (a, b, next(left)))
    assert next(left, None) is None
    return found


def padding_at(numbering, height):
    """Return what nodes merge with that are alone at a height."""
    if numbering.lone_node != "pad_power_of_two":
        return "0"
    numbers = numbering.of_zero_tree(height).tolist()
    if len(numbers) < height:
        return "not to be read"
    return numbered(build_zero_tree(height), ["0"], numbers)[0]


def in_parts(lengths, lone_node, height, middle=None):
    """Return what comes out, by way of chunks and, if asked for, larger ones of them."""
    longest, counts = max(lengths), np.array(lengths)
    numbering, digits = Numbering(lengths, lone_node), digits_below(height, lengths, lone_node)
    stretch = Stretch(tuple(lengths), lone_node, height, 0, longest)
    rows = stretch.rows
    size = stretch.size
    schedule = build_chunks(
        rows.num_tokens.tolist(), size, lone_node, rows.is_open.tolist(), digits
    )
    leaves = [
        f"{b}.{first + t}" if t < count else "not to be read"
        for b, first, count in zip(*(column.tolist() for column in rows[:3]), strict=True)
        for t in range(size)
    ]
    numbers = numbering.of_part(
        rows.sequences, rows.firsts, rows.num_tokens, rows.is_open, (0, height)
    )
    made = numbered(schedule, [*leaves, "0"], numbers.tolist())
    results = ["not to be read"] * stretch.num_results
    for place, result in zip(stretch.results_of(rows).tolist(), made, strict=True):
        results[place] = result
    if middle is not None:
        above = digits_below(middle, lengths, lone_node)
        num_chunks, each = stretch.num_chunks, 1 + len(digits)
        ratio, larger = 1 << (middle - height), -(-longest // (1 << middle))
        by_sequence = [
            results[b * num_chunks * each : (b + 1) * num_chunks * each]
            + ["not to be read"] * ((larger * ratio - num_chunks) * each)
            for b in range(len(lengths))
        ]
        columns = []
        for place in range(larger):
            start = place << middle
            tokens = np.clip(counts - start, 0, 1 << middle)
            is_open = (counts > 1 << middle).tolist()
            part = slice(place * ratio * each, (place + 1) * ratio * each)
            inputs = [result for row in by_sequence for result in row[part]]
            join = build_join(
                tokens.tolist(),
                ratio * each,
                lone_node,
                is_open=is_open,
                heights=(height, middle),
                digits=digits,
                digits_above=above,
            )
            batch = np.arange(len(lengths))
            starts = np.full(len(lengths), start)
            numbers = numbering.of_part(batch, starts, tokens, is_open, (height, middle))
            inputs.append(padding_at(numbering, height))
            made = numbered(join, inputs, numbers.tolist())
            step = 1 + len(above)
            columns.append([made[b * step : (b + 1) * step] for b in range(len(lengths))])
        results = [r for b in range(len(lengths)) for column in columns for r in column[b]]
        height, digits = middle, above
    top = build_join(
        lengths,
        len(results) // len(lengths),
        lone_node,
        is_open=[False] * len(lengths),
        heights=(height, None),
        digits=digits,
    )
    numbers = numbering.of_part(
        np.arange(len(lengths)), np.zeros(len(lengths), int), counts, False, (height, None)
    )
    return numbered(top, [*results, padding_at(numbering, height)], numbers.tolist())


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.sampled_from(LONE_NODE_RULES),
    st.integers(0, 4),
    st.none() | st.integers(1, 2),
)
def test_brackets_and_numbers_are_those_of_the_whole(lengths, lone_node, height, more):
    whole = build_schedule(lengths, max(lengths), lone_node)
    leaves = [f"{b}.{t}" for b in range(len(lengths)) for t in range(max(lengths))]
    wanted = numbered(whole, [*leaves, "0"], range(whole.num_merges))
    assert in_parts(lengths, lone_node, height, more and height + more) == wanted


@pytest.fixture
def small_groups(monkeypatch):
    """Let a group have a chunk or two, so that there are several of them."""
    monkeypatch.setitem(chunks._GROUP_BYTES, "cpu", 4 * 14 * 8 * 12)
    monkeypatch.setattr(chunks, "_MOST_SHARED", 16)


def compare(op, given, weights, chunk, **arguments):
    found = {}
    for size in (64, chunk):
        torch.manual_seed(0)
        found[size] = root_and_gradients(op, given, weights, chunk=size, **arguments)
    for name, wanted in found[64].items():
        torch.testing.assert_close(found[chunk][name], wanted, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(("dropout", "node_noise"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2)])
@pytest.mark.parametrize("lone_node", LONE_NODE_RULES)
@pytest.mark.parametrize("is_of_tokens", [False, True])
def test_results_and_every_gradient_are_those_of_the_whole(
    is_of_tokens, lone_node, dropout, node_noise
):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, (len(LENGTHS), 33), generator=generator)
    # what is beyond a length is not read
    tokens[1, 1:] = 99
    arguments = {"lone_node": lone_node, "dropout": dropout, "lengths": torch.tensor(LENGTHS)}
    arguments["node_noise"] = node_noise
    weights = random_weights("mlp", 4, lone_node)
    given = random_leaves(3, 4) if is_of_tokens else random_leaves(len(LENGTHS), 33, 4)

    def op(states, weights, **more):
        return (
            reduce_tokens(states, tokens, weights, **more)
            if is_of_tokens
            else tree_reduce(states, weights, **more)
        )

    compare(op, given, weights, 4, **arguments)


@pytest.mark.usefixtures("small_groups")
def test_a_population_in_chunks():
    weights = random_weights("grc", 4, "identity", population=2)
    arguments = {"lone_node": "identity", "dropout": 0.3, "lengths": torch.tensor(LENGTHS)}
    arguments["node_noise"] = 0.2
    compare(tree_reduce, random_leaves(2, len(LENGTHS), 33, 4), weights, 8, **arguments)


def test_leaves_of_tokens_have_masks_by_their_places():
    weights, table = random_weights("mlp", 4), random_leaves(3, 4)
    tokens, lengths = torch.tensor([[2, 0, 0], [1, 2, 1]]), torch.tensor([1, 3])
    torch.manual_seed(0)
    found = reduce_tokens(table, tokens, weights, lengths=lengths, dropout=0.5)
    torch.manual_seed(0)
    seed = new_seed(table.device)
    kept = mask(seed, 1, leaf_numbers(torch.arange(4)), 4, 0.5, table.dtype)[0]
    torch.testing.assert_close(found[0], table[2] * kept[0])
    # and so are merges, which begin with number 0: those of the whole
    leaves = torch.zeros(2, 3, 4, dtype=table.dtype)
    leaves[0, 0], leaves[1] = table[2] * kept[0], table[tokens[1]] * kept[1:]
    torch.manual_seed(0)
    wanted = tree_reduce(leaves, weights, lengths=lengths, dropout=0.5)
    torch.testing.assert_close(found, wanted)


def test_what_is_kept_does_not_grow_with_the_leaves(monkeypatch):
    monkeypatch.setitem(chunks._GROUP_BYTES, "cpu", 2**18)
    weights = random_weights("mlp", 8, dtype=torch.float32)
    table = random_leaves(2, 8, dtype=torch.float32)

    def kept(num_tokens, dropout):
        """Return the bytes of what lives between the forward and the backward pass."""
        tokens = torch.randint(2, (1, num_tokens))
        roots = reduce_tokens(table, tokens, weights, dropout=dropout, chunk=64)
        nodes, found, seen = [roots.grad_fn], 0, set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            nodes += [further for further, _ in node.next_functions]
            saved = list(getattr(node, "saved_tensors", ()))
            held = getattr(node, "held", None)
            if held is not None:
                saved += [held.nodes, *held.kept]
            found += sum(tensor.nbytes for tensor in saved)
        return found

    for dropout in (0.0, 0.3):
        short, long = kept(2**11, dropout), kept(2**14, dropout)
        # a root and what its merge keeps for every 64 tokens, against 16 states for every token
        assert long - short < 0.1 * (2**14 - 2**11) * 16 * 8 * 4


def test_groups_are_larger_where_chunks_are_alike(monkeypatch):
    stretch = Stretch((2**10,), "carry", 4, 0, 2**10)
    generator = torch.Generator().manual_seed(1)
    cpu = torch.device("cpu")

    def largest(tokens):
        leaves = SharedLeaves(stretch, tokens, 4, 0.0)
        groups = list(leaves.groups(64, cpu))
        assert sum(len(rows.sequences) for rows, _ in groups) == 64
        assert all(len(plan.children) <= 64 or len(rows.sequences) == 1 for rows, plan in groups)
        return max(len(rows.sequences) for rows, _ in groups)

    assert largest(torch.zeros(1, 2**10, dtype=torch.int64)) == 64
    assert largest(torch.randint(4, (1, 2**10), generator=generator)) < 16
    sizes = [len(rows.sequences) for rows, _ in GivenLeaves(stretch).groups(64, cpu)]
    assert set(sizes) == {4}


def test_when_sequences_are_cut():
    cpu = torch.device("cpu")
    longest, chunk = chunks.LONGEST_WHOLE["cpu"], chunks.CHUNK["cpu"]
    assert chunk_height(None, 1, 2 * longest, cpu, keeps=False) == chunk.bit_length() - 1
    assert chunk_height(None, 1, longest, cpu, keeps=False) is None
    # hidden layers were asked for; many short sequences
    assert chunk_height(None, 1, 2 * longest, cpu, keeps=True) is None
    assert chunk_height(None, longest, chunk, cpu, keeps=False) is None
    assert chunk_height(8, 1, 9, cpu, keeps=False) == 3
    assert chunk_height(8, 1, 8, cpu, keeps=False) is None
    with pytest.raises(ValueError, match=r"chunk: 12 is no power of two; say 1024"):
        tree_reduce(random_leaves(1, 40, 4), random_weights("mlp", 4), chunk=12)


@pytest.mark.parametrize("lone_node", LONE_NODE_RULES)
def test_a_stream_ends_in_the_reduction(lone_node, monkeypatch):
    monkeypatch.setitem(chunks.CHUNK, "cpu", 4)
    weights, table = random_weights("mlp", 4, lone_node), random_leaves(3, 4)
    tokens, lengths = torch.randint(3, (len(LENGTHS), 33)), torch.tensor(LENGTHS)
    wanted = reduce_tokens(table, tokens, weights, lengths=lengths, lone_node=lone_node)
    stream = StreamingReduction(table, weights, lengths=lengths, lone_node=lone_node)
    for part in tokens.split([8, 4, 16, 5], dim=1):
        with pytest.raises(ValueError, match=r"roots: \d+ tokens were read, but a sequence has 33"):
            stream.roots()
        stream.push(part)
    torch.testing.assert_close(stream.roots(), wanted.detach(), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="more of them after 33, but pieces before the last one"):
        stream.push(tokens)


def test_a_stream_refuses_what_does_not_belong_to_it():
    weights, table = random_weights("mlp", 4), random_leaves(3, 4)
    stream = StreamingReduction(table, weights, lengths=torch.tensor([5, 3]))
    with pytest.raises(ValueError, match="tokens: 1 sequences, but there are 2"):
        stream.push(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="tokens: from 3 to 3; the table has rows 0 to 2"):
        stream.push(torch.full((2, 5), 3))
    assert stream.num_tokens == 0
