"""Which node merges with which, as data: the brackets of every lone-node rule.

The operator is learned and not associative, so the brackets are part of what is computed. Nothing
here knows about states or weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

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

Node = TypeVar("Node")
# small arrays by the dozen: numpy's calls are several times cheaper than torch's
Nodes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """Merges in an order in which every child exists before its parent.

    Nodes are numbered: first the ``num_inputs`` inputs, then the parents of level 0 in the order
    of its pairs, then those of level 1, and so on. Within a level no merge needs another's result.
    A node may be read any number of times or not at all.

    ``levels`` holds (left, right), int64 [N] each; ``roots`` the nodes that are the results,
    int64 [B].
    """

    num_inputs: int
    levels: tuple[tuple[Nodes, Nodes], ...]
    roots: Nodes

    @property
    def num_merges(self) -> int:
        """How many merges the whole schedule makes."""
        return sum(len(left) for left, _ in self.levels)


def fold(
    schedule: Schedule, inputs: Sequence[Node], merge: Callable[[Node, Node], Node]
) -> list[Node]:
    """Run a schedule one merge at a time on anything that can be merged.

    Args:
        schedule: of `build_schedule`.
        inputs: the first nodes, at least ``schedule.num_inputs``; more are ignored.
        merge: the operator; `lambda l, r: f"({l}{r})"` shows the brackets.

    Returns:
        The roots, one per sequence.
    """
    nodes = list(inputs)[: schedule.num_inputs]
    for left, right in schedule.levels:
        pairs = zip(left.tolist(), right.tolist(), strict=True)
        nodes += [merge(nodes[i], nodes[j]) for i, j in pairs]
    return [nodes[root] for root in schedule.roots.tolist()]


def needs_padding(lone_node: str) -> bool:
    """Whether schedules of this rule have one more input after the leaves, the padding element."""
    return lone_node in _PADDING_RULES


def build_schedule(
    lengths: Sequence[int],
    num_tokens: int,
    lone_node: str,
    symbols: Nodes | None = None,
    num_symbols: int = 0,
) -> Schedule:
    """Return the merges that reduce every sequence of a batch to its root.

    Node ``b * num_tokens + t`` is leaf t of sequence b; only the first ``lengths[b]`` leaves of a
    sequence are ever read. Rules that merge a lone node with an element that is no leaf (see
    `needs_padding`) find that element after the last leaf.

    Where a leaf depends on its symbol alone, the inputs are the symbols instead of the leaves, and
    equal subtrees of a level are merged once. Alphabets are small, so the lower levels of a batch
    of trees hold few distinct ones: of two letters 4, then 16, then 256. What is merged, and in
    which brackets, stays the same.

    While a level holds n > 1 nodes of a sequence, its neighbours merge in pairs from the left. For
    odd n the last node x is alone, and the rule decides:

    * ``zero_left``: merge(0, x). ``zero_right``: merge(x, 0). ``identity``: merge(x, e).
    * ``carry``: x moves up as it is.
    * ``pad_power_of_two``: merge(x, a balanced tree of zeros as high as x): the same as zero leaves
      up to the next power of two. Such a tree is merged once for the whole batch.
    * ``left_fold``: the leaves are first cut into blocks of 2^a1 > 2^a2 > ... tokens, the binary
      digits of the length; the blocks' roots merge from the left, ((1 2) 3) ...

    Args:
        lengths: [B], each in 1..num_tokens.
        num_tokens: T, the leaves that a sequence has room for.
        lone_node: one of `LONE_NODE_RULES`.
        symbols: int64 [B, T], those that are read in 0..num_symbols-1; None makes every leaf its
            own.
        num_symbols: V, where there are symbols.

    Raises:
        ValueError: no rule has this name.
    """
    if lone_node not in LONE_NODE_RULES:
        raise ValueError(
            f"lone_node: no rule is called '{lone_node}'. Known: {', '.join(LONE_NODE_RULES)}."
        )
    counts = np.array(lengths)
    builder: _Builder
    if symbols is None:
        leaves = np.arange(len(counts) * num_tokens).reshape(-1, num_tokens)
        builder = _Builder(leaves.size + needs_padding(lone_node))
    else:
        leaves = symbols
        kind = _SharingBuilder if lone_node == "left_fold" else _Builder
        builder = kind(num_symbols + needs_padding(lone_node))
    if lone_node == "left_fold":
        roots = _fold_blocks(builder, leaves, counts)
    elif symbols is None:
        roots = _halve(builder, leaves, counts, lone_node)
    else:
        roots = _halve_shared(builder, symbols, counts, lone_node)
    return Schedule(builder.num_inputs, tuple(builder.levels), roots)


def build_scan(
    lengths: Sequence[int], num_tokens: int, *, inclusive: bool, has_root: bool
) -> Schedule:
    """Return the merges that give every prefix of every sequence, about 2 T of them.

    Prefix t is the dyadic left fold: its tokens are cut into complete balanced blocks of
    2^a1 > 2^a2 > ... tokens, the binary digits of t, which merge from the left, ((B1 B2) B3) ...,
    beginning with the root element if there is one, ((e B1) B2) ...

    Node ``b * num_tokens + t`` is leaf t of sequence b, node ``B * num_tokens`` stands for no
    prefix at all, beyond a sequence's end, and ``B * num_tokens + 1`` is the root element.

    Args:
        lengths: [B], each in 1..num_tokens.
        num_tokens: T, the leaves that a sequence has room for.
        inclusive: whether position t has the prefix of t + 1 tokens, otherwise that of t.
        has_root: whether there is a root element; exclusive scans need it for position 0.

    Returns:
        A schedule whose ``roots`` are the prefixes, B * T, sequence by sequence.

    Source: the odd-even scan and the binary counter, which give the same brackets.
    """
    counts = np.array(lengths)
    leaves = np.arange(len(counts) * num_tokens).reshape(-1, num_tokens)
    builder = _Builder(leaves.size + 1 + has_root)
    # how many tokens the longest prefix of each sequence has
    longest = counts if inclusive else counts - 1
    blocks = _complete_blocks(builder, leaves, longest)
    nothing, root = leaves.size, leaves.size + 1
    prefixes = np.full((len(counts), num_tokens + 1), nothing)
    if has_root:
        prefixes[:, 0] = root
    for height, row in reversed(list(enumerate(blocks))):
        size = 1 << height
        # the prefixes whose last block has this size continue ones that have a larger last block
        ends = np.arange(size, num_tokens + 1, 2 * size)
        last, before = row[:, ends // size - 1], prefixes[:, ends - size]
        is_wanted = ends <= longest[:, None]
        is_merged = is_wanted & (has_root | (ends > size))
        found = np.where(is_wanted, last, nothing)
        if is_merged.any():
            found[is_merged] = builder.add_level(before[is_merged], last[is_merged])
        prefixes[:, ends] = found
    first = int(inclusive)
    roots = prefixes[:, first : first + num_tokens].flatten()
    return Schedule(builder.num_inputs, tuple(builder.levels), roots)


@dataclass
class _Builder:
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


class _SharingBuilder(_Builder):
    """Merges equal pairs of a level once."""

    def add_level(self, left: Nodes, right: Nodes) -> Nodes:
        """See `_Builder`; equal pairs get the same parent."""
        first = self.num_nodes
        keys, ranks = _distinct(left * first + right, first * first)
        super().add_level(*np.divmod(keys, first))
        return ranks + first


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


def _halve(builder: _Builder, nodes: Nodes, counts: Nodes, lone_node: str) -> Nodes:
    """Reduce the first ``counts`` nodes of each row of [B, T] to one, pair by pair."""
    padding = builder.num_inputs - 1
    while counts.max() > 1:
        # a row that has come down to one node is done
        active = counts * (counts > 1)
        left, right, is_pair = _pairs(nodes, active)
        if lone_node == "carry":
            nodes = left.copy()
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
        counts = (counts + 1) // 2
        if lone_node == "pad_power_of_two" and _has_lone_node_ahead(counts):
            padding = builder.widen_level(padding, padding)
    return nodes[:, 0]


def _halve_shared(builder: _Builder, symbols: Nodes, counts: Nodes, lone_node: str) -> Nodes:
    """Do as `_halve` does, with equal pairs of a level merged once.

    Rows stand by falling length, so that those with a root are the last ones and fall off. Nodes
    are counted from 1 here, and 0 is the place of none, beyond the end of a row.
    """
    order = np.argsort(-counts, kind="stable")
    counts = counts[order]
    nodes = (symbols[:, : counts[0]] + 1)[order]
    nodes[np.arange(counts[0]) >= counts[:, None]] = 0
    roots, padding = np.empty(len(counts), np.int64), builder.num_inputs - 1
    while True:
        num_active = int(np.count_nonzero(counts > 1))
        roots[order[num_active : len(counts)]] = nodes[num_active:, 0] - 1
        if not num_active:
            return roots
        nodes, counts = nodes[:num_active], counts[:num_active]
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
        parents[is_merged] = builder.add_level(left[is_merged] - 1, right[is_merged] - 1) + 1
        nodes = parents[ranks].reshape(num_active, -1)
        counts = (counts + 1) // 2
        if lone_node == "pad_power_of_two" and _has_lone_node_ahead(counts):
            padding = builder.widen_level(padding, padding)


def _fold_blocks(builder: _Builder, nodes: Nodes, counts: Nodes) -> Nodes:
    """Reduce the first ``counts`` nodes of each row of [B, T] to one, block by block."""
    blocks = []
    remaining = counts
    while remaining.max() > 0:
        # where the count is odd, its last node is the root of a complete block
        last = np.maximum(remaining - 1, 0)[:, None]
        blocks.append(np.take_along_axis(nodes, last, axis=1)[:, 0])
        left, right, is_pair = _pairs(nodes, remaining)
        remaining = remaining // 2
        if is_pair.any():
            nodes = left.copy()
            nodes[is_pair] = builder.add_level(left[is_pair], right[is_pair])
    folded, has_begun = blocks[-1], np.zeros(len(counts), dtype=bool)
    for digit, block in reversed(list(enumerate(blocks))):
        has_block = (counts >> digit) % 2 == 1
        merges = has_block & has_begun
        folded = np.where(has_block & ~has_begun, block, folded)
        if merges.any():
            folded[merges] = builder.add_level(folded[merges], block[merges])
        has_begun |= has_block
    return folded


def _complete_blocks(builder: _Builder, nodes: Nodes, counts: Nodes) -> list[Nodes]:
    """Merge the first ``counts`` nodes of each row of [B, T]; by height h, [B, T // 2^h]."""
    blocks = [nodes]
    while counts.max() > 1:
        left, right, is_pair = _pairs(blocks[-1], counts)
        parents = left.copy()
        parents[is_pair] = builder.add_level(left[is_pair], right[is_pair])
        blocks.append(parents[:, : nodes.shape[1] >> len(blocks)])
        counts = counts // 2
    return blocks


def _pairs(nodes: Nodes, counts: Nodes) -> tuple[Nodes, Nodes, npt.NDArray[np.bool_]]:
    """Return left and right neighbours, [B, ceil(T/2)], and where both are among ``counts``."""
    left, right = nodes[:, ::2], nodes[:, 1::2]
    if nodes.shape[1] % 2:
        # a row of odd length gets a node that no count reaches
        right = np.concatenate([right, nodes[:, -1:]], axis=1)
    is_pair = np.arange(1, 2 * left.shape[1], 2) < counts[:, None]
    return left, right, is_pair


def _has_lone_node_ahead(counts: Nodes) -> bool:
    while counts.max() > 1:
        if ((counts > 1) & (counts % 2 == 1)).any():
            return True
        counts = (counts + 1) // 2
    return False
