"""All prefixes of a sequence, at once (`prefix_scan`) and token by token (`StreamingScan`).

Both give the dyadic left fold of `ldru_kernels.schedule.build_scan`. It is the reduction of
`tree_reduce` with ``lone_node="left_fold"``, and with other rules only at some lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ldru_kernels.checks import check_inputs, check_lengths, check_root
from ldru_kernels.chunks import chunk_height
from ldru_kernels.frontend import Execution, run
from ldru_kernels.ops import scan_plan, tree_plan
from ldru_kernels.reference import parent_states
from ldru_kernels.weights import MergeWeights, check_weights

# tokens of a group of chunks that is scanned at once, of all members
_GROUP_TOKENS = 2**13


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
    chunk: int | None = None,
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
        chunk: tokens, a power of two, of the chunks that longer sequences are scanned in. Besides
            leaves and results only a state per chunk is kept, and the rest computed again in the
            backward pass, at half as many merges more. None: as in `tree_reduce`, but never with
            dropout, with which a chunk cannot be asked for either.

    Returns:
        Prefix states, in the shape and dtype of ``leaves``; 0 beyond a sequence's length.

    Raises:
        ValueError: a shape, dtype or device disagrees (the message names the odd one out), a length
            is not in 1..T, an exclusive scan has no root, or there is an identity element.

    Source: Blelloch, "Prefix sums and their applications" (1990), for operators that need not be
    associative.
    """
    check_inputs(leaves, weights, dropout)
    refuse_identity(weights)
    check_scan_root(root, leaves, inclusive=inclusive)
    if dropout and chunk is not None:
        raise ValueError("chunk: a scan in chunks has no dropout; leave one of them out.")
    trees = leaves if leaves.dim() == 4 else leaves[None]
    population, batch, num_tokens, _ = trees.shape
    first = None if root is None else root.reshape(population, 1, -1).expand(-1, batch, -1)
    execution = Execution(dropout, precision, backend, recompute)
    keeps = bool(dropout) or recompute is False
    height = chunk_height(chunk, population * batch, num_tokens, leaves.device, keeps=keeps)
    if height is not None:
        counted = check_lengths(lengths, batch, num_tokens)
        how = ScanSettings(weights, execution, inclusive)
        return _in_chunks(trees, counted, first, how, 1 << height).view(leaves.shape)
    # the state of no prefix, which stands beyond the end of a sequence
    extra = trees.new_zeros(population, 1, trees.shape[3])
    if first is not None:
        extra = torch.cat([extra, first[:, :1]], dim=1)
    plan = scan_plan(lengths, trees, inclusive=inclusive, has_root=root is not None)
    return run(plan, trees.flatten(1, 2), extra, weights, execution).view(leaves.shape)


class ScanSettings(NamedTuple):
    """What scans of the stretches of one sequence have in common."""

    weights: MergeWeights
    execution: Execution
    inclusive: bool


def scan_of_chunks(
    chunks: Tensor, num_chunks: list[int], first: Tensor | None, how: ScanSettings
) -> tuple[Tensor, Tensor]:
    """Return what comes before each chunk and what stands at its end, [P, B, K, E] each.

    Args:
        chunks: roots of complete chunks, [P, B, K, E]; a last one that is short is not read.
        num_chunks: of each sequence, short ones too, [B].
        first: the root element of each sequence, [P, B, E], or None; then there is nothing before
            the first chunk, and its place is not to be read.
        how: to scan.
    """
    population, batch, _, width = chunks.shape
    extra = chunks.new_zeros(population, 1, width)
    if first is not None:
        extra = torch.cat([extra, first], dim=1)
    counts = torch.tensor(num_chunks)
    plan = scan_plan(counts, chunks, inclusive=True, has_root=first is not None, own_roots=True)
    ends = run(plan, chunks.flatten(1, 2), extra, how.weights, how.execution)
    ends = ends.view(chunks.shape)
    beginning = chunks.new_zeros(population, batch, width) if first is None else first
    return torch.cat([beginning[:, :, None], ends[:, :, :-1]], dim=2), ends


def scan_stretches(
    trees: Tensor, num_tokens: Tensor, before: Tensor | None, end: Tensor, how: ScanSettings
) -> Tensor:
    """Return the prefixes that end in stretches of longer sequences, [P, R, C, E].

    Args:
        trees: leaves [P, R, C, E].
        num_tokens: of each stretch, int64 [R], each in 1..C.
        before: the prefix before each stretch, [P, R, E]; None where they are the first ones.
        end: the prefix that ends with each complete stretch, [P, R, E]: as a block of C tokens it
            is bracketed with the blocks before it.
        how: to scan.
    """
    population, _, size, width = trees.shape
    extra = trees.new_zeros(population, 1, width)
    if before is not None:
        extra = torch.cat([extra, before], dim=1)
    plan = scan_plan(
        num_tokens,
        trees,
        inclusive=how.inclusive,
        has_root=before is not None,
        own_roots=True,
    )
    found = run(plan, trees.flatten(1, 2), extra, how.weights, how.execution).view(trees.shape)
    if not how.inclusive:
        return found
    is_complete = (num_tokens == size).to(trees.device)[:, None]
    last = torch.where(is_complete, end.to(found.dtype), found[:, :, -1])
    return torch.cat([found[:, :, :-1], last[:, :, None]], dim=2)


def _in_chunks(
    trees: Tensor, lengths: list[int], first: Tensor | None, how: ScanSettings, size: int
) -> Tensor:
    """Scan [P, B, T, E] in chunks of ``size`` tokens."""
    population, batch, num_tokens, width = trees.shape
    num = -(-num_tokens // size)
    rows = F.pad(trees, (0, 0, 0, num * size - num_tokens)).view(-1, batch * num, size, width)
    places = torch.arange(num) * size
    counts = (torch.tensor(lengths)[:, None] - places).clamp(0, size).flatten()
    # a chunk beyond the end scans one zero, of which nothing is kept
    is_there = counts > 0
    counts = counts.clamp(min=1)
    is_real = (torch.arange(size) < counts[:, None]) & is_there[:, None]
    rows = rows.where(is_real[..., None].to(trees.device), 0)
    roots = _checkpointed(
        lambda part, span: roots_of(part, counts[span], how), rows, population, batch * num
    )
    before, ends = scan_of_chunks(
        roots.view(population, batch, num, width),
        [-(-length // size) for length in lengths],
        first,
        how,
    )
    before, ends = before.flatten(1, 2), ends.flatten(1, 2)
    has_before = torch.full((batch, num), True)
    has_before[:, 0] = first is not None
    parts = []
    for has in (False, True):
        chosen = (has_before.flatten() == has).nonzero()[:, 0]
        if not len(chosen):
            continue
        own, at = counts[chosen], chosen.to(trees.device)
        own_before, own_ends = before[:, at], ends[:, at]

        def scan(
            part: Tensor,
            span: slice,
            own: Tensor = own,
            own_before: Tensor | None = own_before if has else None,
            own_ends: Tensor = own_ends,
        ) -> Tensor:
            here = None if own_before is None else own_before[:, span]
            return scan_stretches(part, own[span], here, own_ends[:, span], how)

        parts.append((at, _checkpointed(scan, rows[:, at], population, len(chosen))))
    places = torch.cat([at for at, _ in parts]).argsort()
    found = torch.cat([part for _, part in parts], dim=1)[:, places]
    found = found.where(is_real[..., None].to(trees.device), 0)
    return found.view(population, batch, num * size, width)[:, :, :num_tokens]


def roots_of(rows: Tensor, num_tokens: Tensor, how: ScanSettings) -> Tensor:
    """Return the roots of chunks [P, R, C, E]; of a short one something that is not read."""
    trees = tree_plan(num_tokens, rows, "left_fold")
    return run(trees, rows.flatten(1, 2), None, how.weights, how.execution)


def _checkpointed(
    scan: Callable[[Tensor, slice], Tensor], rows: Tensor, population: int, num_rows: int
) -> Tensor:
    """Return what ``scan`` makes of rows [P, R, C, E], a group at a time, computed again later."""
    step = max(1, _GROUP_TOKENS // (population * rows.shape[2]))
    spans = [slice(begin, begin + step) for begin in range(0, num_rows, step)]
    found = [
        checkpoint(scan, rows[:, span], span, use_reentrant=False, preserve_rng_state=False)
        for span in spans
    ]
    return torch.cat(found, dim=1)


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
        refuse_identity(weights)
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


def check_scan_root(root: Tensor | None, leaves: Tensor, *, inclusive: bool) -> None:
    """Refuse a root element that does not fit, or is missing.

    Raises:
        ValueError: so it is.
    """
    if root is not None:
        check_root(root, leaves)
    elif not inclusive:
        raise ValueError("root: an exclusive scan needs one, the state before the first token.")


def refuse_identity(weights: MergeWeights) -> None:
    """Refuse an identity element, which is a matter of lone nodes.

    Raises:
        ValueError: there is one.
    """
    if weights.identity is not None:
        raise ValueError("weights.identity: a scan has no lone nodes. Pass it as `root`, or None.")
