"""Level by level: which of the nodes at hand merge, for any rows of them.

Nothing here knows what a row is: a sequence, a stretch of one, or roots of such stretches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

LONE_NODE_RULES = (
    "carry",
    "identity",
    "left_fold",
    "pad_power_of_two",
    "zero_left",
    "zero_right",
)
# rules whose lone nodes merge with something that is no leaf
_PADDING_RULES = ("identity", "pad_power_of_two", "zero_left", "zero_right")

# keys below this are told apart by a table
_LARGEST_TABLE = 2**17

# small arrays by the dozen: numpy's calls are several times cheaper than torch's
Nodes = npt.NDArray[np.int64]


def needs_padding(lone_node: str) -> bool:
    """Whether schedules of this rule have one more input after the leaves, the padding element."""
    return lone_node in _PADDING_RULES


def begin(
    batch: int,
    num_tokens: int,
    lone_node: str,
    symbols: Nodes | None = None,
    num_symbols: int = 0,
) -> tuple[Nodes, Builder]:
    """Return the leaves of a batch, [B, T], and the builder of what comes above them."""
    if symbols is None:
        leaves = np.arange(batch * num_tokens).reshape(-1, num_tokens)
        return leaves, Builder(leaves.size + needs_padding(lone_node))
    kind = _SharingBuilder if lone_node == "left_fold" else Builder
    return symbols, kind(num_symbols + needs_padding(lone_node))


@dataclass
class Builder:
    """Numbers the nodes and collects the levels."""

    num_inputs: int
    levels: list[tuple[Nodes, Nodes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_nodes = self.num_inputs

    def add_level(self, left: Nodes, right: Nodes) -> Nodes:
        """Merge ``left`` with ``right``, int64 [N] each, and return the parents."""
        self.levels.append((left, right))
        self.num_nodes += len(left)
        return np.arange(self.num_nodes - len(left), self.num_nodes)

    def widen_level(self, left: int, right: int) -> int:
        """Merge one more pair in the latest level and return the parent."""
        lefts, rights = self.levels[-1]
        self.levels[-1] = np.append(lefts, left), np.append(rights, right)
        self.num_nodes += 1
        return self.num_nodes - 1


class _SharingBuilder(Builder):
    """Merges equal pairs of a level once."""

    def add_level(self, left: Nodes, right: Nodes) -> Nodes:
        """See `Builder`; equal pairs get the same parent."""
        first = self.num_nodes
        keys, ranks = _distinct(left * first + right, first * first)
        super().add_level(*np.divmod(keys, first))
        return ranks + first


@dataclass(frozen=True)
class Ends:
    """How far rows go, and where their pairs begin.

    Rows go to one node, but those of ``is_open``, bool [B], up ``num_levels`` in any case. An open
    row is a stretch of a longer sequence, in which its last node is not the root yet, and alone on
    a level where the count is odd.

    ``offsets`` are of this level and those above, 0 where there is none. With 1 the pairs of a row
    of more than two nodes begin at its second one, and the first is alone.
    """

    is_open: npt.NDArray[np.bool_] = field(default_factory=lambda: np.array(False))
    num_levels: int = 0
    offsets: tuple[int, ...] = ()

    def active(self, counts: Nodes) -> Nodes:
        """Return the counts of rows that go on, and 0 for those that are done."""
        goes_on = (counts > 1) | (self.is_open & (self.num_levels > 0))
        active: Nodes = counts * goes_on
        return active

    def above(self) -> Ends:
        """Return what is left one level further up."""
        return Ends(self.is_open, self.num_levels - 1, self.offsets[1:])

    def begins_alone(self, active: Nodes) -> npt.NDArray[np.bool_] | None:
        """Return which rows have a first node that is alone, bool [B], or None for none of them.

        Two nodes are a pair in any case: alone, both would stay two for ever.
        """
        return active > 2 if self.offsets and self.offsets[0] else None

    def ordered(self, order: Nodes | slice) -> Ends:
        """Return the same for other rows."""
        is_open = self.is_open[order] if self.is_open.ndim else self.is_open
        return Ends(is_open, self.num_levels, self.offsets)


def _distinct(keys: Nodes, num_keys: int) -> tuple[Nodes, Nodes]:
    """Return the distinct keys in order, and which of them each key is."""
    if num_keys > _LARGEST_TABLE:
        # torch's is faster than numpy's
        distinct, ranks = torch.unique(torch.from_numpy(keys), return_inverse=True)
        return distinct.numpy(), ranks.numpy()
    # and a table faster than a sort
    is_there = np.zeros(num_keys, dtype=bool)
    is_there[keys] = True
    found = is_there.nonzero()[0]
    rank_of = np.empty(num_keys, np.int64)
    rank_of[found] = np.arange(len(found))
    return found, rank_of[keys]


def halve(
    builder: Builder,
    nodes: Nodes,
    counts: Nodes,
    lone_node: str,
    ends: Ends | None = None,
) -> Nodes:
    """Reduce the first ``counts`` nodes of each row of [B, T] to one, pair by pair."""
    padding, ends = builder.num_inputs - 1, ends or Ends()
    # a row that has come down to one node is done
    while (active := ends.active(counts)).any():
        is_alone = ends.begins_alone(active)
        if is_alone is not None:
            # the second place of the first pair is nobody's
            nodes = _set_apart(nodes, nodes[:, :1], is_alone)
            counts, active = counts + is_alone, active + is_alone
        left, right, is_pair = _pairs(nodes, active)
        if is_alone is not None:
            is_pair[:, 0] &= ~is_alone
        if lone_node == "carry":
            nodes = left.copy()
            if is_pair.any():
                nodes[is_pair] = builder.add_level(left[is_pair], right[is_pair])
        else:
            is_merged = np.arange(0, 2 * left.shape[1], 2) < active[:, None]
            first, second = left[is_merged], right[is_merged]
            is_lone = ~is_pair[is_merged]
            if lone_node == "zero_left":
                second = np.where(is_lone, first, second)
                first[is_lone] = padding
            else:
                second[is_lone] = padding
            nodes = left.copy()
            nodes[is_merged] = builder.add_level(first, second)
        counts, ends = (counts + 1) // 2, ends.above()
        if lone_node == "pad_power_of_two" and has_lone_node_ahead(counts, ends):
            padding = builder.widen_level(padding, padding)
    return nodes[:, 0]


def halve_shared(
    builder: Builder,
    symbols: Nodes,
    counts: Nodes,
    lone_node: str,
    ends: Ends | None = None,
) -> Nodes:
    """Do as `halve` does, with equal pairs of a level merged once.

    Rows stand by falling length, those that end open before the others, so that those with a root
    are the last ones and fall off. Nodes are counted from 1 here, and 0 is the place of none,
    beyond the end of a row.
    """
    ends = ends or Ends()
    width = counts.max()
    order = np.argsort(-np.where(ends.is_open, counts + width, counts), kind="stable")
    counts, ends = counts[order], ends.ordered(order)
    nodes = (symbols[:, :width] + 1)[order]
    nodes[np.arange(width) >= counts[:, None]] = 0
    roots, padding = np.empty(len(counts), np.int64), builder.num_inputs - 1
    while True:
        num_active = int(np.count_nonzero(ends.active(counts)))
        roots[order[num_active : len(counts)]] = nodes[num_active:, 0] - 1
        if not num_active:
            return roots
        nodes, counts = nodes[:num_active], counts[:num_active]
        ends = ends.ordered(slice(num_active))
        is_alone = ends.begins_alone(ends.active(counts))
        if is_alone is not None:
            nodes = _set_apart(nodes, np.zeros((num_active, 1), np.int64), is_alone)
            counts = counts + is_alone
        if nodes.shape[1] % 2:
            nodes = np.concatenate([nodes, np.zeros((num_active, 1), np.int64)], axis=1)
        base = builder.num_nodes + 1
        keys = (nodes[:, ::2] * base + nodes[:, 1::2]).ravel()
        keys, ranks = _distinct(keys, base * base)
        left, right = np.divmod(keys, base)
        is_lone = (right == 0) & (left > 0)
        parents = left.copy()
        if lone_node == "carry":
            is_merged = right > 0
        else:
            is_merged = left > 0
            lone = left[is_lone]
            left[is_lone] = padding + 1 if lone_node == "zero_left" else lone
            right[is_lone] = lone if lone_node == "zero_left" else padding + 1
        if is_merged.any():
            made = builder.add_level(left[is_merged] - 1, right[is_merged] - 1)
            parents[is_merged] = made + 1
        nodes = parents[ranks].reshape(num_active, -1)
        counts, ends = (counts + 1) // 2, ends.above()
        if lone_node == "pad_power_of_two" and has_lone_node_ahead(counts, ends):
            padding = builder.widen_level(padding, padding)


def cut_blocks(
    builder: Builder, nodes: Nodes, counts: Nodes, num_levels: int | None = None
) -> tuple[list[Nodes], Nodes]:
    """Merge the first ``counts`` nodes of each row of [B, T] in pairs, and leave no pair behind.

    Returns:
        The last node of every level, [B] each, which is the root of a complete block where the
        row's count has that binary digit; and the nodes that are left after ``num_levels``.
    """
    blocks: list[Nodes] = []
    while counts.max() > 0 and (num_levels is None or len(blocks) < num_levels):
        # where the count is odd, its last node is the root of a complete block
        last = np.maximum(counts - 1, 0)[:, None]
        blocks.append(np.take_along_axis(nodes, last, axis=1)[:, 0])
        left, right, is_pair = _pairs(nodes, counts)
        counts, nodes = counts // 2, left
        if is_pair.any():
            nodes = left.copy()
            nodes[is_pair] = builder.add_level(left[is_pair], right[is_pair])
    return blocks, nodes


def join_blocks(builder: Builder, blocks: list[Nodes], counts: Nodes) -> Nodes:
    """Merge the blocks of each row from the left, the largest first.

    Args:
        builder: of the blocks.
        blocks: by height, [B] each.
        counts: tokens of each row; their binary digits say which blocks there are.
    """
    folded, has_begun = blocks[-1], np.zeros(len(counts), dtype=bool)
    for digit, block in reversed(list(enumerate(blocks))):
        has_block = (counts >> digit) % 2 == 1
        merges = has_block & has_begun
        folded = np.where(has_block & ~has_begun, block, folded)
        if merges.any():
            folded[merges] = builder.add_level(folded[merges], block[merges])
        has_begun |= has_block
    return folded


def complete_blocks(builder: Builder, nodes: Nodes, counts: Nodes) -> list[Nodes]:
    """Merge the first ``counts`` nodes of each row of [B, T]; by height h, [B, T // 2^h]."""
    blocks = [nodes]
    while counts.max() > 1:
        left, right, is_pair = _pairs(blocks[-1], counts)
        parents = left.copy()
        parents[is_pair] = builder.add_level(left[is_pair], right[is_pair])
        blocks.append(parents[:, : nodes.shape[1] >> len(blocks)])
        counts = counts // 2
    return blocks


def _set_apart(nodes: Nodes, nobody: Nodes, is_alone: npt.NDArray[np.bool_]) -> Nodes:
    """Return rows [B, T + 1] with ``nobody``, [B, 1], after the first node where it is alone.

    Pairs from the left then leave that node alone. Elsewhere ``nobody`` stands at the end.
    """
    apart = np.concatenate([nodes[:, :1], nobody, nodes[:, 1:]], axis=1)
    found: Nodes = np.where(is_alone[:, None], apart, np.concatenate([nodes, nobody], axis=1))
    return found


def _pairs(nodes: Nodes, counts: Nodes) -> tuple[Nodes, Nodes, npt.NDArray[np.bool_]]:
    """Return left and right neighbours, [B, ceil(T/2)], and where both are among ``counts``."""
    left, right = nodes[:, ::2], nodes[:, 1::2]
    if nodes.shape[1] % 2:
        # a row of odd length gets a node that no count reaches
        right = np.concatenate([right, nodes[:, -1:]], axis=1)
    is_pair = np.arange(1, 2 * left.shape[1], 2) < counts[:, None]
    return left, right, is_pair


def has_lone_node_ahead(counts: Nodes, ends: Ends) -> bool:
    """Whether a node will be alone on its level, in a row that is not done."""
    while (active := ends.active(counts)).any():
        is_alone = ends.begins_alone(active)
        if (active % 2 == 1).any() or (is_alone is not None and is_alone.any()):
            return True
        counts, ends = (counts + 1) // 2, ends.above()
    return False
