"""Trees in parts: chunks of 2^height tokens are reduced apart, and a top joins their roots.

The brackets are those of `schedule.build_schedule` for the whole sequences. A chunk before the last
one of its sequence is a complete balanced tree. The last one may be short; it goes on like an odd
end of a level, by the lone-node rule, up to the height of the others. Only `left_fold` has no lone
nodes: there a short chunk leaves one root per binary digit of its length, its *blocks*, which merge
from the left after everything before them has.

What a chunk comes down to, its *results*, is 1 + D nodes: its root, and its blocks for those D
binary digits below the height that any sequence of the batch has (no digit without `left_fold`).
Where a chunk has none of them the place holds anything and is not read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ldru_kernels.levels import (
    Builder,
    Ends,
    Nodes,
    begin,
    cut_blocks,
    halve,
    halve_shared,
    has_lone_node_ahead,
    join_blocks,
    needs_padding,
)
from ldru_kernels.schedule import Schedule


def digits_below(height: int, lengths: Sequence[int], lone_node: str) -> tuple[int, ...]:
    """Return the D binary digits below ``height`` for which some chunk has a block."""
    if lone_node != "left_fold":
        return ()
    union = int(np.bitwise_or.reduce(np.array(lengths)))
    return tuple(digit for digit in range(height) if union >> digit & 1)


def build_chunks(
    num_tokens_of: Sequence[int],
    size: int,
    lone_node: str,
    is_open: Sequence[bool],
    digits: tuple[int, ...],
    symbols: Nodes | None = None,
    num_symbols: int = 0,
) -> Schedule:
    """Return the merges that reduce chunks to their results.

    Inputs are R * ``size`` leaves, or the symbols, and the padding element as in `build_schedule`.

    Args:
        num_tokens_of: of every chunk, [R], each in 1..size.
        size: 2^height tokens, the room of a chunk.
        lone_node: one of `levels.LONE_NODE_RULES`.
        is_open: [R], whether the sequence is longer than this chunk.
        digits: of `digits_below`.
        symbols: int64 [R, size], or None where every leaf is its own.
        num_symbols: V, where there are symbols.

    Returns:
        A schedule whose ``roots`` are the results, R * (1 + D).
    """
    counts, height = np.array(num_tokens_of), size.bit_length() - 1
    leaves, builder = begin(len(counts), size, lone_node, symbols, num_symbols)
    if lone_node == "left_fold":
        blocks, nodes = cut_blocks(builder, leaves, counts, height)
        return _results(builder, nodes, dict(enumerate(blocks)), digits)
    reduce = halve if symbols is None else halve_shared
    roots = reduce(builder, leaves, counts, lone_node, Ends(np.array(is_open), height))
    return Schedule(builder.num_inputs, tuple(builder.levels), roots)


def build_join(
    num_tokens_of: Sequence[int],
    num_nodes: int,
    lone_node: str,
    *,
    is_open: Sequence[bool],
    heights: tuple[int, int | None],
    digits: tuple[int, ...],
    digits_above: tuple[int, ...] = (),
) -> Schedule:
    """Return the merges that join the results of chunks, to larger chunks or to the end.

    Inputs are the results, [B, K, 1 + D], and for rules with padding the element that lone nodes at
    the chunks' height merge with.

    Args:
        num_tokens_of: tokens that each sequence has here, [B]; 0 gives a result that is not read.
        num_nodes: K * (1 + D).
        lone_node: one of `levels.LONE_NODE_RULES`.
        is_open: [B], whether the sequence is longer than 2^high tokens; nothing is, at the end.
        heights: of the chunks that come in, and of those that come out, None for whole sequences.
        digits: of `digits_below` the first height.
        digits_above: of `digits_below` the second one.

    Returns:
        A schedule whose ``roots`` are the results, B * (1 + D above), or the B roots at the end.
    """
    tokens, (low, high) = np.array(num_tokens_of), heights
    batch = len(tokens)
    inputs = np.arange(batch * num_nodes).reshape(batch, -1, 1 + len(digits))
    builder, nodes = Builder(inputs.size + needs_padding(lone_node)), inputs[:, :, 0]
    num_levels = None if high is None else high - low
    if lone_node != "left_fold":
        ends = Ends(np.array(is_open), num_levels or 0)
        roots = halve(builder, nodes, chunks_in(tokens, low), lone_node, ends)
        return Schedule(builder.num_inputs, tuple(builder.levels), roots)
    # the blocks stand with the chunk that is short, if there is one
    short = np.minimum(tokens >> low, inputs.shape[1] - 1)
    blocks = {
        digit: inputs[np.arange(batch), short, place] for place, digit in enumerate(digits, start=1)
    }
    cut, nodes = cut_blocks(builder, nodes, tokens >> low, num_levels)
    blocks |= {low + level: block for level, block in enumerate(cut)}
    if high is not None:
        return _results(builder, nodes, blocks, digits_above)
    by_height = [blocks.get(height, nodes[:, 0]) for height in range(1 + max(blocks, default=0))]
    roots = join_blocks(builder, by_height, tokens)
    return Schedule(builder.num_inputs, tuple(builder.levels), roots)


def build_zero_tree(height: int) -> Schedule:
    """Return the merges of the balanced tree over 2^height times the one input."""
    builder, node = Builder(1), np.zeros(1, np.int64)
    for _ in range(height):
        node = builder.add_level(node, node)
    return Schedule(1, tuple(builder.levels), node)


def chunks_in(num_tokens: Nodes, height: int) -> Nodes:
    """Return how many chunks of 2^height tokens so many tokens take up, the last one rounded up."""
    return (num_tokens + (1 << height) - 1) >> height


def _results(
    builder: Builder, nodes: Nodes, blocks: dict[int, Nodes], digits: tuple[int, ...]
) -> Schedule:
    roots = nodes[:, 0]
    columns = [roots, *(blocks.get(digit, roots) for digit in digits)]
    return Schedule(builder.num_inputs, tuple(builder.levels), np.stack(columns, axis=1).ravel())


class Numbering:
    """Which numbers the merges of a part have in the schedule of the whole sequences.

    Dropout and noise go by these numbers (see `dropout`), so that a tree in parts has the masks of
    one.

    Args:
        lengths: of the whole sequences, [B].
        lone_node: one of `levels.LONE_NODE_RULES`.
    """

    def __init__(self, lengths: Sequence[int], lone_node: str) -> None:
        self.lone_node = lone_node
        # of every level: the first number of each sequence, and that of the zero tree's merge
        self.firsts: list[Nodes] = []
        self.zero_trees: list[int] = []
        counts, total = np.array(lengths), 0
        while counts.max() > 1:
            merges = self._merges(counts * (counts > 1))
            self.firsts.append(total + merges.cumsum() - merges)
            total += int(merges.sum())
            counts = self._above(counts)
            if lone_node == "pad_power_of_two" and has_lone_node_ahead(counts, Ends()):
                self.zero_trees.append(total)
                total += 1
        # merges of blocks follow
        self.num_paired = total

    def of_part(
        self,
        sequences: Nodes,
        starts: Nodes,
        num_tokens_of: Nodes,
        is_open: npt.ArrayLike,
        heights: tuple[int, int | None],
    ) -> Nodes:
        """Return the numbers of the merges of `build_chunks` or `build_join`, in their order.

        Args:
            sequences: whose stretch each row is, int64 [R].
            starts: the first token of each stretch, int64 [R].
            num_tokens_of: tokens of each stretch, int64 [R].
            is_open: as in `build_chunks`.
            heights: as in `build_join`, from 0 for chunks.
        """
        low, high = heights
        blocks = self.lone_node == "left_fold"
        counts = num_tokens_of >> low if blocks else chunks_in(num_tokens_of, low)
        ends = Ends(np.array(is_open), 0 if high is None else high - low)
        numbers = [np.empty(0, np.int64)]
        for height in range(low, len(self.firsts) if high is None else min(high, len(self.firsts))):
            merges = self._merges(counts if blocks else ends.active(counts))
            firsts = self.firsts[height][sequences] + (starts >> (height + 1))
            ranks = np.arange(merges.sum()) - np.repeat(merges.cumsum() - merges, merges)
            numbers.append(np.repeat(firsts, merges) + ranks)
            counts, ends = self._above(counts), ends.above()
            if self.lone_node == "pad_power_of_two" and has_lone_node_ahead(counts, ends):
                numbers.append(np.array(self.zero_trees[height : height + 1]))
        if blocks and high is None:
            digits = np.arange(int(num_tokens_of.max()).bit_length())
            num_blocks = (num_tokens_of[:, None] >> digits & 1).sum(axis=1)
            numbers.append(self.num_paired + np.arange((num_blocks - 1).sum()))
        return np.concatenate(numbers)

    def of_zero_tree(self, height: int) -> Nodes:
        """Return the numbers of the merges of `build_zero_tree`, fewer where nobody reads it."""
        return np.array(self.zero_trees[:height], np.int64)

    def _merges(self, counts: Nodes) -> Nodes:
        pairs_only = self.lone_node in ("carry", "left_fold")
        return counts // 2 if pairs_only else (counts + 1) // 2

    def _above(self, counts: Nodes) -> Nodes:
        return counts // 2 if self.lone_node == "left_fold" else (counts + 1) // 2
