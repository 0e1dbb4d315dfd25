"""One sequence on several workers: each reduces its own chunk, and only the chunks' roots travel.

Worker r of k holds tokens r C up to (r + 1) C of every sequence, C a power of two. It reduces them
to one state per sequence, all workers exchange these k * B * E numbers, and everyone finishes the
top of the tree by itself. Results are identical everywhere, and brackets, dropout masks and noise
are those of one worker. `left_fold` may have more to exchange: where a sequence ends amid a chunk,
the chunk leaves a state for every binary digit of its length.

Gradients follow one rule: *averaged over the workers of the group*, those of weights, table and
identity are the gradients of the mean of the workers' losses. Where all compute the same loss from
the results, that is one worker's gradient, and a plain mean over all workers of a training, as DDP
and DeepSpeed take it, is right with any number of such groups. For that, the exchange sums
gradients over the workers on the way back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldru_kernels.checks import (
    check_identity,
    check_inputs,
    check_lengths,
    check_tokens,
)
from ldru_kernels.chunks import (
    GivenLeaves,
    Leaves,
    Stretch,
    chunk_height,
    group_merges,
    join,
    reduce_stretch,
    token_leaves,
)
from ldru_kernels.dropout import new_seed
from ldru_kernels.folding import compute_dtype
from ldru_kernels.frontend import Execution, padding, prepare
from ldru_kernels.levels import needs_padding
from ldru_kernels.parts import Numbering
from ldru_kernels.prefix_scan import (
    ScanSettings,
    check_scan_root,
    refuse_identity,
    roots_of,
    scan_of_chunks,
    scan_stretches,
)
from ldru_kernels.weights import MergeWeights, operator_name


def chunk_size(num_tokens: int, num_workers: int) -> int:
    """Return C, the smallest power of two of which k make up T tokens; some may stay empty."""
    return 1 << (-(-num_tokens // num_workers) - 1).bit_length()


def tree_reduce(
    leaves: Tensor,
    weights: MergeWeights,
    *,
    group: dist.ProcessGroup,
    lengths: Tensor,
    lone_node: str = "zero_left",
    dropout: float = 0.0,
    node_noise: float = 0.0,
    precision: str | None = None,
    backend: str = "auto",
    recompute: bool | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Combine every sequence to one state, of which each worker has a chunk.

    Args:
        leaves: this worker's, [B, C, E], or [P, B, C, E] for a population; C is a power of two, the
            same everywhere. What lies beyond a length is not read, and may be all of it.
        weights: as in `ldru_kernels.tree_reduce`, equal on all workers.
        group: the k workers, in the order of their chunks; all of them call this.
        lengths: of the whole sequences, int64 [B], each in 1..k C; equal on all workers.
        lone_node: as in `ldru_kernels.tree_reduce`.
        dropout: the same; the first worker draws the seed for all.
        node_noise: the same.
        precision: the same.
        backend: the same.
        recompute: the same.
        chunk: the same, of the smaller chunks that this worker's one is cut into.

    Returns:
        Root states, [B, E] or [P, B, E], the same on all workers.

    Raises:
        ValueError: as `ldru_kernels.tree_reduce` does, and where C is no power of two.
    """
    check_inputs(leaves, weights, dropout, node_noise)
    check_identity(weights, lone_node)
    trees = leaves if leaves.dim() == 4 else leaves[None]
    execution = Execution(dropout, precision, backend, recompute, node_noise)
    stretch = _stretch(lengths, trees, lone_node, chunk, execution, group)
    states = trees.flatten(1, 2)
    roots = _reduce(GivenLeaves(stretch), states, weights, execution, trees.shape[2], group)
    return roots if leaves.dim() == 4 else roots[0]


def tree_reduce_tokens(
    table: Tensor,
    tokens: Tensor,
    weights: MergeWeights,
    *,
    group: dist.ProcessGroup,
    lengths: Tensor,
    lone_node: str = "zero_left",
    dropout: float = 0.0,
    node_noise: float = 0.0,
    precision: str | None = None,
    backend: str = "auto",
    recompute: bool | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Combine every sequence to one state where a leaf depends on its token alone.

    Args:
        table: as in `ldru_kernels.tree_reduce_tokens`, equal on all workers.
        tokens: this worker's, int64 [B, C]; see `tree_reduce`.
        weights: as in `tree_reduce`.
        group: as in `tree_reduce`.
        lengths: as in `tree_reduce`.
        lone_node: as in `tree_reduce`.
        dropout: as in `tree_reduce`, of leaves too.
        node_noise: as in `tree_reduce`.
        precision: as in `tree_reduce`.
        backend: as in `tree_reduce`.
        recompute: as in `tree_reduce`.
        chunk: as in `tree_reduce`.

    Returns:
        Root states, [B, E] or [P, B, E], the same on all workers.

    Raises:
        ValueError: as `tree_reduce` does, and for a token that the table has no row for.
    """
    check_tokens(table, tokens, weights, dropout, node_noise)
    check_identity(weights, lone_node)
    states = table if table.dim() == 3 else table[None]
    execution = Execution(dropout, precision, backend, recompute, node_noise)
    trees = states[:, :1, None].expand(-1, *tokens.shape, -1)
    stretch = _stretch(lengths, trees, lone_node, chunk, execution, group)
    leaves = token_leaves(
        stretch, tokens, states.shape[1], dropout, is_shared=not execution.is_random
    )
    roots = _reduce(leaves, states, weights, execution, tokens.shape[1], group)
    return roots if table.dim() == 3 else roots[0]


def prefix_scan(
    leaves: Tensor,
    weights: MergeWeights,
    *,
    group: dist.ProcessGroup,
    lengths: Tensor,
    inclusive: bool = True,
    root: Tensor | None = None,
    precision: str | None = None,
    backend: str = "auto",
    recompute: bool | None = None,
) -> Tensor:
    """Return the state of every prefix that ends in this worker's chunk; without dropout.

    Each worker reduces its chunk, all exchange the roots and scan them, and each scans its chunk
    after what comes before it.

    Args:
        leaves: as in `tree_reduce`.
        weights: as in `ldru_kernels.prefix_scan`.
        group: as in `tree_reduce`.
        lengths: as in `tree_reduce`.
        inclusive: as in `ldru_kernels.prefix_scan`.
        root: the same, equal on all workers.
        precision: the same.
        backend: the same.
        recompute: the same.

    Returns:
        Prefix states, in the shape and dtype of ``leaves``; 0 beyond a sequence's length.

    Raises:
        ValueError: as `ldru_kernels.prefix_scan` does, and where C is no power of two.
    """
    check_inputs(leaves, weights, 0.0)
    refuse_identity(weights)
    check_scan_root(root, leaves, inclusive=inclusive)
    trees = leaves if leaves.dim() == 4 else leaves[None]
    execution = Execution(0.0, precision, backend, recompute)
    stretch = _stretch(lengths, trees, "left_fold", None, execution, group)
    population, batch, size, width = trees.shape
    how, place = ScanSettings(weights, execution, inclusive), dist.get_rank(group)
    counts = torch.from_numpy(stretch.num_tokens)
    # who has nothing of a sequence scans one zero, of which nothing is kept
    is_real = (torch.arange(size) < counts[:, None]).to(trees.device)[..., None]
    counts, trees = counts.clamp(min=1), trees.where(is_real, 0)
    roots = exchange(roots_of(trees, counts, how), group).permute(1, 2, 0, 3)
    first = None if root is None else root.reshape(population, 1, width).expand(-1, batch, -1)
    num_chunks = [-(-length // size) for length in stretch.lengths]
    before, ends = scan_of_chunks(roots, num_chunks, first, how)
    has_before = place > 0 or first is not None
    own_before = before[:, :, place] if has_before else None
    found = scan_stretches(trees, counts, own_before, ends[:, :, place], how)
    return found.where(is_real, 0).view(leaves.shape)


def _stretch(
    lengths: Tensor,
    trees: Tensor,
    lone_node: str,
    chunk: int | None,
    execution: Execution,
    group: dist.ProcessGroup,
) -> Stretch:
    """Return this worker's stretch for leaves of the shape of ``trees``, [P, B, C, E]."""
    population, batch, size, _ = trees.shape
    if size & (size - 1):
        raise ValueError(
            f"leaves: {size} tokens a worker, which is no power of two; chunk_size says how many."
        )
    counted = check_lengths(lengths, batch, size * dist.get_world_size(group))
    keeps = execution.recompute is False
    height = chunk_height(chunk, population * batch, size, trees.device, keeps=keeps)
    if height is None:
        height = size.bit_length() - 1
    numbering = Numbering(counted, lone_node) if execution.is_random else None
    start = dist.get_rank(group) * size
    return Stretch(tuple(counted), lone_node, height, start, size, numbering)


def _reduce(
    leaves: Leaves,
    states: Tensor,
    weights: MergeWeights,
    execution: Execution,
    size: int,
    group: dist.ProcessGroup,
) -> Tensor:
    """Return the roots, [P, B, E], of leaves that states [P, N, E] make up."""
    stretch, num_workers = leaves.stretch, dist.get_world_size(group)
    seed = None
    if execution.is_random:
        seed = new_seed(states.device)
        dist.broadcast(seed, group=group, group_src=0)
    extra = padding(weights, states) if needs_padding(stretch.lone_node) else None
    most = group_merges(states, operator_name(weights.operator))
    made = prepare(states, extra, weights, execution, most, seed)
    results, high = reduce_stretch(leaves, made), size.bit_length() - 1
    if high > stretch.height:
        results = join(results, stretch, made, high)
    population, batch = len(states), len(stretch.lengths)
    by_sequence = results.view(population, batch, -1, states.shape[2])
    found: Tensor = exchange(by_sequence, group)
    top = Stretch(
        stretch.lengths,
        stretch.lone_node,
        high,
        0,
        size * num_workers,
        stretch.numbering,
    )
    # [k, P, B, 1 + D, E]: the workers' chunks of a sequence are to lie side by side
    return join(found.permute(1, 2, 0, 3, 4).flatten(1, 3), top, made)


def exchange(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return what every worker of the group brings, [k, ...], on all of them.

    The gradient of one's own is the sum of what all workers' gradients say about it.
    """
    found: Tensor = _Exchange.apply(own, group)  # type: ignore[no-untyped-call]
    return found


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        found = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(found, own.contiguous(), group=group)
        return torch.stack(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        # rounded once, after the sum
        total = d.to(compute_dtype(d.dtype), copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total[dist.get_rank(ctx.group)].to(d.dtype), None
