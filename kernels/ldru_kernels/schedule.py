"""Which node merges with which, as data: the brackets of every lone-node rule.

The operator is learned and not associative, so the brackets are part of what is computed. Nothing
here knows about states or weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

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

Node = TypeVar("Node")


@dataclass(frozen=True)
class Schedule:
    """Merges in an order in which every child exists before its parent.

    Nodes are numbered: first the ``num_inputs`` inputs, then the parents of level 0 in the order
    of its pairs, then those of level 1, and so on. Within a level no merge needs another's result.
    A node may be read any number of times or not at all.

    ``levels`` holds (left, right), int64 [N] each; ``roots`` the nodes that are the results,
    int64 [B]. All on the CPU.
    """

    num_inputs: int
    levels: tuple[tuple[Tensor, Tensor], ...]
    roots: Tensor

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
    symbols: Tensor | None = None,
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
    counts = torch.tensor(lengths)
    builder: _Builder
    if symbols is None:
        leaves = torch.arange(len(counts) * num_tokens).view(-1, num_tokens)
        builder = _Builder(leaves.numel() + needs_padding(lone_node))
    else:
        leaves = symbols
        builder = _SharingBuilder(num_symbols + needs_padding(lone_node))
    if lone_node == "left_fold":
        roots = _fold_blocks(builder, leaves, counts)
    else:
        roots = _halve(builder, leaves, counts, lone_node)
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
    counts = torch.tensor(lengths)
    leaves = torch.arange(len(counts) * num_tokens).view(-1, num_tokens)
    builder = _Builder(leaves.numel() + 1 + has_root)
    # how many tokens the longest prefix of each sequence has
    longest = counts if inclusive else counts - 1
    blocks = _complete_blocks(builder, leaves, longest)
    nothing, root = leaves.numel(), leaves.numel() + 1
    prefixes = torch.full((len(counts), num_tokens + 1), nothing)
    if has_root:
        prefixes[:, 0] = root
    for height, row in reversed(list(enumerate(blocks))):
        size = 1 << height
        # the prefixes whose last block has this size continue ones that have a larger last block
        ends = torch.arange(size, num_tokens + 1, 2 * size)
        last, before = row[:, ends // size - 1], prefixes[:, ends - size]
        is_wanted = ends <= longest[:, None]
        is_merged = is_wanted & (has_root | (ends > size))
        found = torch.where(is_wanted, last, nothing)
        if is_merged.any():
            parents = builder.add_level(before[is_merged], last[is_merged])
            found = found.masked_scatter(is_merged, parents)
        prefixes[:, ends] = found
    first = int(inclusive)
    roots = prefixes[:, first : first + num_tokens].flatten()
    return Schedule(builder.num_inputs, tuple(builder.levels), roots)


@dataclass
class _Builder:
    """Numbers the nodes and collects the levels."""

    num_inputs: int
    levels: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_nodes = self.num_inputs

    def add_level(self, left: Tensor, right: Tensor) -> Tensor:
        """Merge ``left`` with ``right``, int64 [N] each, and return the parents."""
        self.levels.append((left, right))
        self.num_nodes += len(left)
        return torch.arange(self.num_nodes - len(left), self.num_nodes)

    def widen_level(self, left: int, right: int) -> int:
        """Merge one more pair in the latest level and return the parent."""
        lefts, rights = self.levels[-1]
        self.levels[-1] = (F.pad(lefts, (0, 1), value=left), F.pad(rights, (0, 1), value=right))
        self.num_nodes += 1
        return self.num_nodes - 1


class _SharingBuilder(_Builder):
    """Merges equal pairs of a level once."""

    def add_level(self, left: Tensor, right: Tensor) -> Tensor:
        """See `_Builder`; equal pairs get the same parent."""
        first = self.num_nodes
        keys, ranks = _distinct(left * first + right, first * first)
        super().add_level(keys // first, keys % first)
        return ranks.add_(first)


def _distinct(keys: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """Return the distinct keys in order, and which of them each key is."""
    if num_keys > len(keys):
        distinct, ranks = torch.unique(keys, return_inverse=True)
        return distinct, ranks
    # a table is faster than a sort
    is_there = torch.zeros(num_keys, dtype=torch.bool)
    is_there[keys] = True
    return is_there.nonzero()[:, 0], (is_there.cumsum(0) - 1)[keys]


def _halve(builder: _Builder, nodes: Tensor, counts: Tensor, lone_node: str) -> Tensor:
    """Reduce the first ``counts`` nodes of each row of [B, T] to one, pair by pair."""
    padding = builder.num_inputs - 1
    longest = int(counts.max())
    while longest > 1:
        # a row that has come down to one node is done
        active = counts * (counts > 1)
        left, right, is_pair = _pairs(nodes, active)
        is_merged = is_pair
        if lone_node != "carry":
            is_merged = 2 * torch.arange(left.shape[1]) < active[:, None]
        merged = is_merged.flatten().nonzero()[:, 0]
        nodes = left.flatten()
        first, second = nodes[merged], right.flatten()[merged]
        if lone_node != "carry":
            is_lone = ~is_pair.flatten()[merged]
            if lone_node == "zero_left":
                first, second = (
                    first.masked_fill(is_lone, padding),
                    torch.where(is_lone, first, second),
                )
            else:
                second = second.masked_fill(is_lone, padding)
        nodes[merged] = builder.add_level(first, second)
        nodes = nodes.view_as(left)
        counts, longest = (counts + 1) // 2, (longest + 1) // 2
        if lone_node == "pad_power_of_two" and _has_lone_node_ahead(counts):
            padding = builder.widen_level(padding, padding)
    return nodes[:, 0]


def _fold_blocks(builder: _Builder, nodes: Tensor, counts: Tensor) -> Tensor:
    """Reduce the first ``counts`` nodes of each row of [B, T] to one, block by block."""
    blocks = []
    remaining = counts
    while int(remaining.max()) > 0:
        # where the count is odd, its last node is the root of a complete block
        blocks.append(nodes.gather(1, (remaining[:, None] - 1).clamp(min=0))[:, 0])
        left, right, is_pair = _pairs(nodes, remaining)
        remaining = remaining // 2
        if is_pair.any():
            parents = builder.add_level(left[is_pair], right[is_pair])
            nodes = left.masked_scatter(is_pair, parents)
    folded, has_begun = blocks[-1], torch.zeros_like(counts, dtype=torch.bool)
    for digit, block in reversed(list(enumerate(blocks))):
        has_block = (counts >> digit) % 2 == 1
        merges = has_block & has_begun
        folded = torch.where(has_block & ~has_begun, block, folded)
        if merges.any():
            folded[merges] = builder.add_level(folded[merges], block[merges])
        has_begun |= has_block
    return folded


def _complete_blocks(builder: _Builder, nodes: Tensor, counts: Tensor) -> list[Tensor]:
    """Merge the first ``counts`` nodes of each row of [B, T]; by height h, [B, T // 2^h]."""
    blocks = [nodes]
    while int(counts.max()) > 1:
        left, right, is_pair = _pairs(blocks[-1], counts)
        parents = builder.add_level(left[is_pair], right[is_pair])
        whole = nodes.shape[1] >> len(blocks)
        blocks.append(left.masked_scatter(is_pair, parents)[:, :whole])
        counts = counts // 2
    return blocks


def _pairs(nodes: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return left and right neighbours, [B, ceil(T/2)], and where both are among ``counts``."""
    # a row of odd length gets a node that no count reaches
    left, right = F.pad(nodes, (0, nodes.shape[1] % 2)).view(len(nodes), -1, 2).unbind(2)
    ranks = torch.arange(1, 2 * left.shape[1], 2)
    return left, right, ranks < counts[:, None]


def _has_lone_node_ahead(counts: Tensor) -> bool:
    while int(counts.max()) > 1:
        if bool(((counts > 1) & (counts % 2 == 1)).any()):
            return True
        counts = (counts + 1) // 2
    return False
