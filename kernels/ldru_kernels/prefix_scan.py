"""All prefixes of a sequence, at once (`prefix_scan`) and token by token (`StreamingScan`).

Both give the dyadic left fold of `ldru_kernels.schedule.build_scan`. It is the reduction of
`tree_reduce` with ``lone_node="left_fold"``, and with other rules only at some lengths.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ldru_kernels.checks import check_inputs, check_root
from ldru_kernels.frontend import Execution, run
from ldru_kernels.ops import scan_plan
from ldru_kernels.reference import parent_states
from ldru_kernels.weights import MergeWeights, check_weights


def prefix_scan(
    leaves: Tensor,
    weights: MergeWeights,
    *,
    lengths: Tensor | None = None,
    inclusive: bool = True,
    root: Tensor | None = None,
    dropout: float = 0.0,
    precision: str | None = None,
    backend: str = "auto",
    recompute: bool | None = None,
) -> Tensor:
    """Return the state of every prefix, with about 2 T merges in 2 log2 T levels.

    Prefix t is cut into complete balanced blocks of 2^a1 > 2^a2 > ... tokens, the binary digits of
    t, that merge from the left: ((B1 B2) B3) ..., or ((e B1) B2) ... with a root element e.

    Args:
        leaves: leaf states, [B, T, E], floating point, B >= 1, T >= 1; of a population,
            [P, B, T, E].
        weights: of the same E, dtype and device, for a population [P, ...] each; without an
            identity element, which is a matter of lone nodes.
        lengths: tokens that count in each sequence, int64 [B], each in 1..T; None means all T.
        inclusive: whether position t holds the prefix of tokens 0..t, otherwise that of the tokens
            before t, which at position 0 is the root element.
        root: element before the first token, [E] or [P, E]; exclusive scans need one.
        dropout: probability of zeroing a feature of a parent state, in [0, 1). A block has one
            state, and so one mask, in all prefixes that it is part of.
        precision: as in `tree_reduce`.
        backend: as in `tree_reduce`.
        recompute: as in `tree_reduce`.

    Returns:
        Prefix states, in the shape and dtype of ``leaves``; 0 beyond a sequence's length.

    Raises:
        ValueError: a shape, dtype or device disagrees (the message names the odd one out), a length
            is not in 1..T, an exclusive scan has no root, or there is an identity element.

    Source: Blelloch, "Prefix sums and their applications" (1990), for operators that need not be
    associative.
    """
    check_inputs(leaves, weights, dropout)
    _refuse_identity(weights)
    if root is None and not inclusive:
        raise ValueError("root: an exclusive scan needs one, the state before the first token.")
    trees = leaves if leaves.dim() == 4 else leaves[None]
    population, _, _, width = trees.shape
    # the state of no prefix, which stands beyond the end of a sequence
    extra = trees.new_zeros(population, 1, width)
    if root is not None:
        check_root(root, leaves)
        extra = torch.cat([extra, root.reshape(population, 1, width)], dim=1)
    plan = scan_plan(lengths, trees, inclusive=inclusive, has_root=root is not None)
    execution = Execution(dropout, precision, backend, recompute)
    return run(plan, trees.flatten(1, 2), extra, weights, execution).view(leaves.shape)


class _Block(NamedTuple):
    """A complete block of 2^height tokens and the prefix that ends with it, [..., B, E] each."""

    height: int
    state: Tensor
    prefix: Tensor


class StreamingScan:
    """The inclusive scan of a stream: push a token, read the prefix.

    Holds one block per binary digit of the number of tokens, O(B E log t), and merges less than
    three pairs per token on average, whatever t is. Agrees with `prefix_scan` to rounding.

    Args:
        weights: without an identity element.
        root: element before the first token, [E] or [P, E], or None.

    Raises:
        ValueError: there is an identity element.
    """

    def __init__(self, weights: MergeWeights, *, root: Tensor | None = None) -> None:
        _refuse_identity(weights)
        self.weights, self.root = weights, root
        self.num_tokens = 0
        self._blocks: list[_Block] = []

    def push(self, leaf: Tensor) -> Tensor:
        """Take the next token of every stream and return the prefixes that end with it.

        Args:
            leaf: leaf states, [B, E], or [P, B, E] for a population; shape, dtype and device stay
                as in the first call.

        Returns:
            Prefix states, in the shape of ``leaf``.

        Raises:
            ValueError: shape, dtype or device disagrees with the weights or with earlier tokens;
                nothing is changed then.
        """
        if leaf.dim() not in (2, 3) or not leaf.is_floating_point() or 0 in leaf.shape:
            raise ValueError(
                f"leaf: shape {list(leaf.shape)}, {leaf.dtype}; need floating point [B, E], "
                "or [P, B, E] for a population."
            )
        check_weights(self.weights, leaf, population=len(leaf) if leaf.dim() == 3 else None)
        if self.root is not None:
            # a token is a sequence of length 1
            check_root(self.root, leaf.unsqueeze(-2))
        if self._blocks and self._blocks[0].state.shape != leaf.shape:
            streams = self._blocks[0].state.shape[-2]
            raise ValueError(f"leaf: shape {list(leaf.shape)}, but there are {streams} streams.")
        height, state, older = 0, leaf, list(self._blocks)
        while older and older[-1].height == height:
            state = self._merge(older.pop().state, state)
            height += 1
        before = older[-1].prefix if older else self.root
        if before is not None and before is self.root:
            before = before.unsqueeze(-2).expand_as(state)
        prefix = state if before is None else self._merge(before, state)
        # only now: an interrupted push leaves the stream as it was
        self._blocks = [*older, _Block(height, state, prefix)]
        self.num_tokens += 1
        return prefix

    def _merge(self, left: Tensor, right: Tensor) -> Tensor:
        return parent_states(torch.cat([left, right], dim=-1), self.weights)


def _refuse_identity(weights: MergeWeights) -> None:
    if weights.identity is not None:
        raise ValueError("weights.identity: a scan has no lone nodes. Pass it as `root`, or None.")
