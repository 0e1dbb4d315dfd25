"""Which node merges with which, as data: the brackets of every lone-node rule.

The operator is learned and not associative, so the brackets are part of what is computed. Nothing
here knows about states or weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ldru_kernels.levels import (
    LONE_NODE_RULES,
    Builder,
    Ends,
    Nodes,
    begin,
    complete_blocks,
    cut_blocks,
    halve,
    halve_shared,
    join_blocks,
)

Node = TypeVar("Node")


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


def build_schedule(
    lengths: Sequence[int],
    num_tokens: int,
    lone_node: str,
    symbols: Nodes | None = None,
    num_symbols: int = 0,
    offsets: tuple[int, ...] = (),
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

    With an offset of 1 the pairs of a level begin at the second node, where there are more than
    two. The first node is then alone, and the rule decides about it as about a last one, not
    mirrored: so a node never merges with padding on a side where it does not do so without offsets,
    and all nodes of a level have been through as many merges (but with ``carry``). A tree gets at
    most one level more than without. ``left_fold`` has no levels of pairs, and no offsets.

    Args:
        lengths: [B], each in 1..num_tokens.
        num_tokens: T, the leaves that a sequence has room for.
        lone_node: one of `LONE_NODE_RULES`.
        symbols: int64 [B, T], those that are read in 0..num_symbols-1; None makes every leaf its
            own.
        num_symbols: V, where there are symbols.
        offsets: 0 or 1 for every level, from the leaves up; 0 for those above.

    Raises:
        ValueError: no rule has this name, or it has no offsets.
    """
    if lone_node not in LONE_NODE_RULES:
        raise ValueError(
            f"lone_node: no rule is called '{lone_node}'. Known: {', '.join(LONE_NODE_RULES)}."
        )
    if any(offsets) and lone_node == "left_fold":
        raise ValueError(
            "offsets: lone_node 'left_fold' cuts the tokens into blocks and has no levels of pairs."
        )
    counts, ends = np.array(lengths), Ends(offsets=offsets)
    leaves, builder = begin(len(counts), num_tokens, lone_node, symbols, num_symbols)
    if lone_node == "left_fold":
        blocks, _ = cut_blocks(builder, leaves, counts)
        roots = join_blocks(builder, blocks, counts)
    elif symbols is None:
        roots = halve(builder, leaves, counts, lone_node, ends)
    else:
        roots = halve_shared(builder, symbols, counts, lone_node, ends)
    return Schedule(builder.num_inputs, tuple(builder.levels), roots)


def build_scan(
    lengths: Sequence[int],
    num_tokens: int,
    *,
    inclusive: bool,
    has_root: bool,
    own_roots: bool = False,
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
        own_roots: whether every sequence has a root element of its own, one after the other, as the
            stretches of a longer sequence do.

    Returns:
        A schedule whose ``roots`` are the prefixes, B * T, sequence by sequence.

    Source: the odd-even scan and the binary counter, which give the same brackets.
    """
    counts = np.array(lengths)
    leaves = np.arange(len(counts) * num_tokens).reshape(-1, num_tokens)
    num_roots = len(counts) if own_roots else 1
    builder = Builder(leaves.size + 1 + has_root * num_roots)
    # how many tokens the longest prefix of each sequence has
    longest = counts if inclusive else counts - 1
    blocks = complete_blocks(builder, leaves, longest)
    nothing, root = leaves.size, leaves.size + 1
    prefixes = np.full((len(counts), num_tokens + 1), nothing)
    if has_root:
        prefixes[:, 0] = root + np.arange(len(counts)) * own_roots
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
