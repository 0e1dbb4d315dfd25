"""Long sequences in memory that does not grow with them: chunk by chunk, roots alone are kept.

Chunks go through in groups, as many at a time as keep the cores busy. A group leaves nothing behind
but the results of its chunks, and is computed again in the backward pass, hidden layers included,
which costs 4/3 of the products. Only the last one stays as it is: the backward pass begins with it.
Where leaves are tokens, a leaf state is made when its group comes, and equal subtrees of a group
are merged once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldru_kernels import dropout as drop
from ldru_kernels.checks import check_symbols
from ldru_kernels.folding import compute_dtype, gradients_of, unfold
from ldru_kernels.frontend import Execution, Prepared, prepare
from ldru_kernels.levels import Nodes
from ldru_kernels.merge_rows import hidden_units
from ldru_kernels.ops import backward_pass, forward_pass, run_plan
from ldru_kernels.parts import (
    Numbering,
    build_chunks,
    build_join,
    build_zero_tree,
    chunks_in,
    digits_below,
)
from ldru_kernels.plan import Plan, make_plan, plan_for
from ldru_kernels.torch_path import Settings
from ldru_kernels.weights import MergeWeights, operator_name

# tokens of a chunk: small ones make a group of few levels, and the top is still small;
CHUNK = {"cpu": 2**10, "cuda": 2**14}
# tokens of all sequences from which on chunks save more than they cost; kernels/README.md says what
# was measured. Nothing was on a GPU yet
LONGEST_WHOLE = {"cpu": 2**16, "cuda": 2**20}
# bytes of the hidden layers of one group
_GROUP_BYTES = {"cpu": 2**26, "cuda": 2**30}
# tokens of a group, however few distinct subtrees they have
_MOST_SHARED = 2**16


def chunk_height(
    chunk: int | None, batch: int, num_tokens: int, device: torch.device, *, keeps: bool
) -> int | None:
    """Return log2 of the tokens of a chunk, or None where sequences are reduced whole.

    Args:
        chunk: as the caller wants it; None decides by size.
        batch: P B, sequences.
        num_tokens: T.
        device: of the states.
        keeps: whether the caller wants hidden layers kept.

    Raises:
        ValueError: the chunk is no power of two.
    """
    if chunk is not None:
        if chunk < 1 or chunk & (chunk - 1):
            raise ValueError(f"chunk: {chunk} is no power of two; say 1024, or None to decide.")
        return chunk.bit_length() - 1 if chunk < num_tokens else None
    kind = _kind(device)
    is_long = batch * num_tokens > LONGEST_WHOLE[kind] and num_tokens > 2 * CHUNK[kind]
    # a compiled graph cannot go group by group
    if keeps or not is_long or torch.compiler.is_compiling():
        return None
    return CHUNK[kind].bit_length() - 1


class Rows(NamedTuple):
    """Some chunks: of which sequence, which token of the stretch is the first, and how many."""

    sequences: Nodes
    firsts: Nodes
    num_tokens: Nodes
    is_open: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Stretch:
    """Tokens ``start`` up to ``start + room`` of every sequence of a batch, cut into chunks.

    Args:
        lengths: of the whole sequences, [B].
        lone_node: one of `levels.LONE_NODE_RULES`.
        height: of a chunk, 2^height tokens; ``start`` is a multiple of them.
        start: the first token of the stretch.
        room: how many tokens it has at most.
        numbering: of the merges of the whole sequences, where there is dropout or noise.
    """

    lengths: tuple[int, ...]
    lone_node: str
    height: int
    start: int
    room: int
    numbering: Numbering | None = None

    @property
    def size(self) -> int:
        """How many tokens a chunk has room for."""
        return 1 << self.height

    @property
    def num_chunks(self) -> int:
        """K, of the longest sequence."""
        return -(-self.room // self.size)

    @cached_property
    def num_tokens(self) -> Nodes:
        """How many tokens each sequence has here, [B]."""
        found: Nodes = np.clip(np.array(self.lengths) - self.start, 0, self.room)
        return found

    @cached_property
    def digits(self) -> tuple[int, ...]:
        """See `parts`."""
        return digits_below(self.height, self.lengths, self.lone_node)

    @property
    def num_results(self) -> int:
        """B K (1 + D)."""
        return len(self.lengths) * self.num_chunks * (1 + len(self.digits))

    @cached_property
    def rows(self) -> Rows:
        """All chunks that have a token, sequence by sequence."""
        counts = chunks_in(self.num_tokens, self.height)
        sequences = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(sequences)) - np.repeat(counts.cumsum() - counts, counts)
        firsts = places << self.height
        num_tokens = np.minimum(self.num_tokens[sequences] - firsts, self.size)
        return Rows(sequences, firsts, num_tokens, np.array(self.lengths)[sequences] > self.size)

    def results_of(self, rows: Rows) -> Nodes:
        """Return where the results of chunks stand in [B, K, 1 + D]."""
        each = 1 + len(self.digits)
        begins = (rows.sequences * self.num_chunks + (rows.firsts >> self.height)) * each
        found: Nodes = (begins[:, None] + np.arange(each)).ravel()
        return found

    def numbered(self, plan: Plan, rows: Rows) -> Plan:
        """Return the plan of chunks with the numbers of their merges, where these are needed."""
        if self.numbering is None:
            return plan
        starts = self.start + rows.firsts
        numbers = self.numbering.of_part(
            rows.sequences, starts, rows.num_tokens, rows.is_open, (0, self.height)
        )
        return plan.numbered(numbers)


class Leaves(ABC):
    """Where the leaves of chunks come from, and where their gradients go.

    ``adds`` says whether gradients of states are sums over groups.
    """

    adds = True

    def __init__(self, stretch: Stretch) -> None:
        self.stretch = stretch

    def groups(self, most_merges: int, device: torch.device) -> Iterator[tuple[Rows, Plan]]:
        """Yield all chunks in groups of about ``most_merges``, with plans for a forward pass."""
        rows, size = self.stretch.rows, self.stretch.size
        step = max(1, most_merges // size)
        for first in range(0, len(rows.sequences), step):
            group = Rows._make(column[first : first + step] for column in rows)
            yield group, self.plan(group, device, has_readers=False)

    def plan(self, rows: Rows, device: torch.device, *, has_readers: bool) -> Plan:
        """Return the plan of some chunks."""
        del has_readers  # these plans are found again
        plan = plan_for(
            build_chunks,
            rows.num_tokens.tolist(),
            self.stretch.size,
            device,
            lone_node=self.stretch.lone_node,
            is_open=tuple(rows.is_open.tolist()),
            digits=self.stretch.digits,
        )
        return self.stretch.numbered(plan, rows)

    @abstractmethod
    def take(self, states: Tensor, rows: Rows, seed: Tensor) -> Tensor:
        """Return the leaves of a plan, [P, N, E], from the states that the op was given."""

    @abstractmethod
    def give(self, d_states: Tensor, d_leaves: Tensor, rows: Rows, seed: Tensor) -> None:
        """Add the gradients of a plan's leaves to those of the states."""


class GivenLeaves(Leaves):
    """States [P, B * T, E] that are leaves themselves."""

    adds = False

    def take(self, states: Tensor, rows: Rows, seed: Tensor) -> Tensor:
        """See `Leaves`; what lies beyond a length is not set."""
        population, _, width = states.shape
        size = self.stretch.size
        taken = states.new_empty(population, len(rows.sequences), size, width)
        for place, (begin, end) in enumerate(self._spans(rows)):
            taken[:, place, : end - begin] = states[:, begin:end]
        return taken.flatten(1, 2)

    def give(self, d_states: Tensor, d_leaves: Tensor, rows: Rows, seed: Tensor) -> None:
        """See `Leaves`; every leaf is in one chunk."""
        size = self.stretch.size
        d_rows = d_leaves.view(len(d_leaves), -1, size, d_leaves.shape[2])
        for place, (begin, end) in enumerate(self._spans(rows)):
            d_states[:, begin:end] = d_rows[:, place, : end - begin]

    def _spans(self, rows: Rows) -> list[tuple[int, int]]:
        begins = rows.sequences * self.stretch.room + rows.firsts
        return list(zip(begins.tolist(), (begins + rows.num_tokens).tolist(), strict=True))


class TokenLeaves(Leaves):
    """States [P, V, E] of symbols, of which every token has a copy of its own, for randomness.

    Args:
        stretch: of the tokens.
        tokens: int64 [B, at most its room].
        num_symbols: V.
        dropout: of a leaf's features.
    """

    def __init__(self, stretch: Stretch, tokens: Tensor, num_symbols: int, dropout: float) -> None:
        super().__init__(stretch)
        self.tokens, self.num_symbols, self.dropout = tokens, num_symbols, dropout

    def take(self, states: Tensor, rows: Rows, seed: Tensor) -> Tensor:
        """See `Leaves`."""
        symbols = self.symbols(rows).flatten()
        taken = states.index_select(1, symbols.to(states.device))
        return taken.mul_(self._mask(states, rows, seed)) if self.dropout else taken

    def give(self, d_states: Tensor, d_leaves: Tensor, rows: Rows, seed: Tensor) -> None:
        """See `Leaves`; a symbol sums up over its places in a fixed order."""
        if self.dropout:
            d_leaves = d_leaves * self._mask(d_leaves, rows, seed)
        d_leaves = d_leaves.to(d_states.dtype)
        symbols = self.symbols(rows).flatten().to(d_states.device)
        for d_of_symbols, d in zip(d_states, d_leaves, strict=True):
            d_of_symbols += torch.ops.aten.embedding_dense_backward(
                d, symbols, self.num_symbols, -1, False
            )

    def symbols(self, rows: Rows) -> Tensor:
        """Return the tokens of chunks, int64 [R, size], 0 beyond a length."""
        found = torch.zeros(len(rows.sequences), self.stretch.size, dtype=torch.int64)
        columns = (column.tolist() for column in rows[:3])
        for place, (sequence, first, count) in enumerate(zip(*columns, strict=True)):
            found[place, :count] = self.tokens[sequence, first : first + count]
        return found

    def _mask(self, states: Tensor, rows: Rows, seed: Tensor) -> Tensor:
        lengths = self.stretch.lengths
        begins = np.cumsum(lengths) - np.array(lengths)
        starts = begins[rows.sequences] + self.stretch.start + rows.firsts
        places = torch.from_numpy(starts)[:, None] + torch.arange(self.stretch.size)
        numbers = drop.leaf_numbers(places).flatten().to(states.device)
        population, _, width = states.shape
        return drop.mask(seed, population, numbers, width, self.dropout, states.dtype)


class SharedLeaves(TokenLeaves):
    """States [P, V, E] of symbols, which are the leaves: equal subtrees are merged once."""

    def groups(self, most_merges: int, device: torch.device) -> Iterator[tuple[Rows, Plan]]:
        """See `Leaves`; a group has more chunks where they have more in common."""
        rows, size = self.stretch.rows, self.stretch.size
        most, first = max(1, _MOST_SHARED // size), 0
        step = most
        while first < len(rows.sequences):
            group = Rows._make(column[first : first + step] for column in rows)
            plan = self.plan(group, device, has_readers=False)
            if len(plan.children) > most_merges and step > 1:
                step //= 2
                continue
            yield group, plan
            first += step
            if 2 * len(plan.children) <= most_merges:
                step = min(2 * step, most)

    def plan(self, rows: Rows, device: torch.device, *, has_readers: bool) -> Plan:
        """Return the plan of some chunks."""
        stretch = self.stretch
        with torch.inference_mode(mode=False):
            schedule = build_chunks(
                rows.num_tokens.tolist(),
                stretch.size,
                stretch.lone_node,
                rows.is_open.tolist(),
                stretch.digits,
                self.symbols(rows).numpy(),
                self.num_symbols,
            )
            num_extra = schedule.num_inputs - self.num_symbols
            plan = make_plan(schedule, num_extra, has_readers=has_readers, is_shared=True)
            return plan.to(device)

    def take(self, states: Tensor, rows: Rows, seed: Tensor) -> Tensor:
        """See `Leaves`."""
        return states

    def give(self, d_states: Tensor, d_leaves: Tensor, rows: Rows, seed: Tensor) -> None:
        """See `Leaves`."""
        d_states += d_leaves


@torch.compiler.disable  # type: ignore[untyped-decorator]
def reduce_stretch(leaves: Leaves, made: Prepared) -> Tensor:
    """Return the results of all chunks of a stretch, [P, B * K * (1 + D), E]; 0 where unused.

    Args:
        leaves: of the stretch.
        made: states that the leaves are made of, and all else that a plan is run with.
    """
    results: Tensor = _Chunks.apply(  # type: ignore[no-untyped-call]
        made.leaves, made.extra, made.seed, leaves, made.settings, *made.tensors
    )
    return results


def group_merges(states: Tensor, operator: str) -> int:
    """Return about how many merges of each member one group may have, for states [P, N, E]."""
    population, _, width = states.shape
    hidden = sum(hidden_units(operator).values()) * width * compute_dtype(states.dtype).itemsize
    return max(1, _GROUP_BYTES[_kind(states.device)] // (population * hidden))


def _kind(device: torch.device) -> str:
    """Return which of the figures of this module hold for a device."""
    return "cpu" if device.type == "cpu" else "cuda"


class _Held(NamedTuple):
    """A group between its forward and its backward pass: its plan and what `ops.Forward` has."""

    plan: list[Tensor]
    nodes: Tensor
    outer: list[Tensor]
    kept: list[Tensor]
    num_leaves: int


class _Chunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        extra: Tensor,
        seed: Tensor,
        leaves: Leaves,
        settings: Settings,
        *weights: Tensor,
    ) -> Tensor:
        stretch = leaves.stretch
        results = states.new_zeros(len(states), stretch.num_results, states.shape[2])
        most = group_merges(states, settings.operator)
        once = settings._replace(keeps_hidden=False)
        goes_back, num_rows = any(ctx.needs_input_grad), len(stretch.rows.sequences)
        ctx.save_for_backward(states, extra, seed, *weights)
        ctx.leaves, ctx.settings, ctx.groups, ctx.held = leaves, settings, [], None
        num_done = 0
        for rows, plan in leaves.groups(most, states.device):
            num_done += len(rows.sequences)
            if goes_back and num_done == num_rows:
                found, ctx.held = _hold(states, extra, list(weights), seed, rows, leaves, settings)
            else:
                inputs = leaves.take(states, rows, seed)
                found = forward_pass(inputs, extra, list(weights), seed, list(plan), once)[0]
            results[:, torch.from_numpy(stretch.results_of(rows)).to(states.device)] = found
            ctx.groups.append(rows)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_results: Tensor) -> tuple[Any, ...]:
        states, extra, seed, *weights = ctx.saved_tensors
        leaves, settings = ctx.leaves, ctx.settings
        dtype = compute_dtype(states.dtype)
        d_states = torch.zeros_like(states, dtype=dtype if leaves.adds else states.dtype)
        d_extra = torch.zeros_like(extra, dtype=dtype)
        d_folded: Tensor | None = None
        held, ctx.held = ctx.held, None
        for rows in reversed(ctx.groups):
            if held is None:
                _, held = _hold(states, extra, weights, seed, rows, leaves, settings)
            places = torch.from_numpy(leaves.stretch.results_of(rows)).to(states.device)
            d_inputs, d_of_group, _ = backward_pass(
                d_results[:, places],
                held.nodes,
                held.outer,
                held.kept,
                weights,
                seed,
                held.plan,
                settings,
            )
            num_leaves, held = held.num_leaves, None
            leaves.give(d_states, d_inputs[:, :num_leaves], rows, seed)
            d_extra += d_inputs[:, num_leaves:]
            d_folded = d_of_group if d_folded is None else d_folded.add_(d_of_group)
        if d_folded is None:
            # nobody has a token in this stretch
            d_weights = [torch.zeros_like(weight) for weight in weights]
        else:
            d_outer = unfold(d_folded, weights, settings.operator, states.dtype)
            d_weights = gradients_of(weights, d_folded, d_outer, settings.operator)
        return d_states.to(states.dtype), d_extra.to(extra.dtype), None, None, None, *d_weights


def _hold(
    states: Tensor,
    extra: Tensor,
    weights: list[Tensor],
    seed: Tensor,
    rows: Rows,
    leaves: Leaves,
    settings: Settings,
) -> tuple[Tensor, _Held]:
    """Return the results of a group, and what its backward pass needs."""
    plan = list(leaves.plan(rows, states.device, has_readers=True))
    inputs = leaves.take(states, rows, seed)
    found, nodes, outer, kept = forward_pass(inputs, extra, weights, seed, plan, settings)
    return found, _Held(plan, nodes, outer, kept, inputs.shape[1])


def join(
    results: Tensor,
    stretch: Stretch,
    made: Prepared,
    high: int | None = None,
) -> Tensor:
    """Return what the results of a stretch's chunks come to.

    Args:
        results: of `reduce_stretch`, or of several workers.
        stretch: that they are of.
        made: all else that a plan is run with.
        high: height of the larger chunk that the stretch is, [P, B * (1 + D above), E]; None where
            it is the whole, [P, B, E].
    """
    counts = stretch.num_tokens.tolist()
    is_open = [high is not None and length > 1 << high for length in stretch.lengths]
    heights = stretch.height, high
    above = () if high is None else digits_below(high, stretch.lengths, stretch.lone_node)
    plan = plan_for(
        build_join,
        counts,
        results.shape[1] // len(counts),
        results.device,
        lone_node=stretch.lone_node,
        is_open=tuple(is_open),
        heights=heights,
        digits=stretch.digits,
        digits_above=above,
    )
    if stretch.numbering is not None:
        batch = np.arange(len(counts))
        starts = np.full(len(counts), stretch.start)
        plan = plan.numbered(
            stretch.numbering.of_part(batch, starts, stretch.num_tokens, is_open, heights)
        )
    extra = made.extra
    if stretch.lone_node == "pad_power_of_two":
        extra = _zero_tree(stretch, made)
    return run_plan(results, extra, made.tensors, made.seed, list(plan), made.settings)


def _zero_tree(stretch: Stretch, made: Prepared) -> Tensor:
    """Return the padding element at the height of the chunks, [P, 1, E]."""
    schedule = build_zero_tree(stretch.height)
    with torch.inference_mode(mode=False):
        plan = make_plan(schedule, 0).to(made.extra.device)
    if stretch.numbering is not None:
        numbers = stretch.numbering.of_zero_tree(stretch.height)
        if len(numbers) < stretch.height:
            # no node is alone further up, and nobody reads it
            return torch.zeros_like(made.extra)
        plan = plan.numbered(numbers)
    none = made.extra[:, :0]
    return run_plan(made.extra, none, made.tensors, made.seed, list(plan), made.settings)


def token_leaves(
    stretch: Stretch, tokens: Tensor, num_symbols: int, dropout: float, *, is_shared: bool
) -> TokenLeaves:
    """Return the leaves of tokens, shared where equal subtrees have equal states.

    Raises:
        ValueError: the table has no row for a token.
    """
    tokens = tokens.cpu()
    num_tokens = torch.from_numpy(stretch.num_tokens)[:, None]
    for begin in range(0, tokens.shape[1], _MOST_SHARED):
        part = tokens[:, begin : begin + _MOST_SHARED]
        is_read = torch.arange(begin, begin + part.shape[1]) < num_tokens
        if is_read.any():
            check_symbols(part[is_read], num_symbols)
    kind = SharedLeaves if is_shared else TokenLeaves
    return kind(stretch, tokens, num_symbols, dropout)


def reduce_in_chunks(
    leaves: Leaves,
    states: Tensor,
    extra: Tensor | None,
    weights: MergeWeights,
    execution: Execution,
    seed: Tensor | None = None,
) -> Tensor:
    """Return the roots of sequences that are one stretch, [P, B, E]; arguments as in `frontend`."""
    most = group_merges(states, operator_name(weights.operator))
    made = prepare(states, extra, weights, execution, most, seed)
    return join(reduce_stretch(leaves, made), leaves.stretch, made)


def whole(
    lengths: Sequence[int], num_tokens: int, lone_node: str, height: int, *, is_random: bool
) -> Stretch:
    """Return the stretch that whole sequences are, with room for ``num_tokens``."""
    numbering = Numbering(lengths, lone_node) if is_random else None
    return Stretch(tuple(lengths), lone_node, height, 0, num_tokens, numbering)
