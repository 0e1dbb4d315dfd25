"""One forward and one backward pass for any plan, as autograd and as a compiler want them.

`run_plan` runs any plan on any states; for a compiler it is the registered op `merge_nodes`.
`plan_tree`, `plan_scan` and `plan_tokens` make the plan inside a compiled graph, where the host may
not look at lengths; sizes must then be known before, so that they are the largest possible.
"""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldru_kernels import torch_path
from ldru_kernels.checks import check_lengths, check_symbols
from ldru_kernels.folding import (
    compute_dtype,
    fold,
    folded,
    gradients_of,
    num_folded,
    unfold,
)
from ldru_kernels.levels import needs_padding
from ldru_kernels.plan import NUM_ON_DEVICE, Plan, largest_sizes, make_plan, pad, plan_for
from ldru_kernels.schedule import build_scan, build_schedule
from ldru_kernels.torch_path import Settings

# the results, and for the backward pass the states of all nodes, what `folding.fold` returned and
# the hidden layers, of no use to anybody else
Forward = tuple[Tensor, Tensor, list[Tensor], list[Tensor]]
# gradients of the inputs, and of the weights as `folding.gradients_of` takes them
Gradients = tuple[Tensor, Tensor, list[Tensor]]


def run_plan(
    leaves: Tensor,
    extra: Tensor,
    weights: list[Tensor],
    seed: Tensor,
    plan: list[Tensor],
    settings: Settings,
) -> Tensor:
    """Run a plan and return its results, [P, R, E]; arguments as in `merge_nodes`.

    The dispatcher costs a small batch a twentieth of its time, so only a compiler, or who else
    brings tensors of its own kind, meets the registered op.
    """
    if torch.compiler.is_compiling() or type(leaves) is not Tensor:
        compiled: Tensor = merge_nodes(leaves, extra, weights, seed, plan, *settings)[0]
        return compiled
    results: Tensor = _MergeNodes.apply(leaves, extra, seed, plan, settings, *weights)  # type: ignore[no-untyped-call]
    return results


def forward_pass(
    leaves: Tensor,
    extra: Tensor,
    weights: list[Tensor],
    seed: Tensor,
    plan: list[Tensor],
    settings: Settings,
) -> Forward:
    """Run a plan without autograd; see `Forward`, and `merge_nodes` for the arguments."""
    made = Plan(*plan)
    population, num_leaves, width = leaves.shape
    num_nodes = num_leaves + extra.shape[1] + len(made.children)
    states = leaves.new_empty(population, num_nodes, width)
    states[:, :num_leaves] = leaves
    states[:, num_leaves : num_leaves + extra.shape[1]] = extra
    with _without_autocast(leaves.device):
        outer = fold(weights, settings.operator, leaves.dtype)
        by_name = folded(weights, outer, settings.operator, leaves.dtype)
        kept = _path(settings.backend).forward(states, by_name, seed, made, settings)
    return states.index_select(1, made.results), states, outer, kept


def backward_pass(
    d_results: Tensor,
    states: Tensor,
    outer: list[Tensor],
    kept: list[Tensor],
    weights: list[Tensor],
    seed: Tensor,
    plan: list[Tensor],
    settings: Settings,
) -> Gradients:
    """Run the backward pass of what `forward_pass` returned; see `Gradients`."""
    with _without_autocast(states.device):
        by_name = folded(weights, outer, settings.operator, states.dtype)
        d_inputs, d_folded = _path(settings.backend).backward(
            d_results, states, kept, by_name, seed, Plan(*plan), settings
        )
        return d_inputs, d_folded, unfold(d_folded, weights, settings.operator, states.dtype)


class _Saved(NamedTuple):
    """What a backward pass needs besides the settings, and how to save it as one row of tensors."""

    states: Tensor
    seed: Tensor
    weights: list[Tensor]
    plan: list[Tensor]
    outer: list[Tensor]
    kept: list[Tensor]

    def save(self, ctx: Any) -> None:
        """Leave it with autograd."""
        ctx.sizes = [len(tensors) for tensors in self[2:]]
        ctx.save_for_backward(*self[:2], *itertools.chain(*self[2:]))

    @classmethod
    def of(cls, ctx: Any) -> _Saved:
        """Return what was saved."""
        states, seed, *saved = ctx.saved_tensors
        ends = itertools.accumulate(ctx.sizes)
        lists = (saved[end - size : end] for size, end in zip(ctx.sizes, ends, strict=True))
        return cls(states, seed, *lists)


class _MergeNodes(torch.autograd.Function):
    """`merge_nodes` without the dispatcher."""

    @staticmethod
    def forward(
        ctx: Any,
        leaves: Tensor,
        extra: Tensor,
        seed: Tensor,
        plan: list[Tensor],
        settings: Settings,
        *weights: Tensor,
    ) -> Tensor:
        results, states, outer, kept = forward_pass(
            leaves, extra, list(weights), seed, plan, settings
        )
        _Saved(states, seed, list(weights), plan, outer, kept).save(ctx)
        ctx.num_leaves, ctx.settings = leaves.shape[1], settings
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_results: Tensor) -> tuple[Any, ...]:
        saved, settings = _Saved.of(ctx), ctx.settings
        d_inputs, d_folded, d_outer = backward_pass(
            d_results,
            saved.states,
            saved.outer,
            saved.kept,
            saved.weights,
            saved.seed,
            saved.plan,
            settings,
        )
        d_leaves, d_extra = d_inputs[:, : ctx.num_leaves], d_inputs[:, ctx.num_leaves :]
        d_weights = gradients_of(saved.weights, d_folded, d_outer, settings.operator)
        return d_leaves, d_extra, None, None, None, *d_weights


@torch.library.custom_op("ldru_kernels::merge_nodes", mutates_args=())
def merge_nodes(
    leaves: Tensor,
    extra: Tensor,
    weights: list[Tensor],
    seed: Tensor,
    plan: list[Tensor],
    operator: str,
    dropout: float,
    operands: str,
    keeps_hidden: bool,
    backend: str,
    node_noise: float,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Run a plan.

    Args:
        leaves: the first inputs, [P, N - K, E].
        extra: the last K inputs, [P, K, E].
        weights: of `weights.listed`; in another dtype than the states they are rounded to theirs.
        seed: of `dropout.new_seed`; not read without dropout and noise.
        plan: the fields of a `Plan`.
        operator: the first field of `Settings`, which the others complete.
        dropout: see there.
        operands: see there.
        keeps_hidden: see there.
        backend: see there.
        node_noise: see there.

    Returns:
        See `Forward`.
    """
    settings = Settings(operator, dropout, operands, keeps_hidden, backend, node_noise)
    return forward_pass(leaves, extra, weights, seed, plan, settings)


@merge_nodes.register_fake
def _(
    leaves: Tensor,
    extra: Tensor,
    weights: list[Tensor],
    seed: Tensor,
    plan: list[Tensor],
    operator: str,
    dropout: float,
    operands: str,
    keeps_hidden: bool,
    backend: str,
    node_noise: float,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    made = Plan(*plan)
    settings = Settings(operator, dropout, operands, keeps_hidden, backend, node_noise)
    population, num_leaves, width = leaves.shape
    num_merges = made.children.shape[0]
    results = leaves.new_empty(population, made.results.shape[0], width)
    states = leaves.new_empty(population, num_leaves + extra.shape[1] + num_merges, width)
    outer = []
    if operator == "mlp":
        sizes = (population, 2 * width, width), (population, 1, width)
        outer = [leaves.new_empty(size, dtype=compute_dtype(leaves.dtype)) for size in sizes]
    if not keeps_hidden or backend != "torch":
        return results, states, outer, []
    return results, states, outer, torch_path.new_hidden(num_merges, settings, states)


@torch.library.custom_op("ldru_kernels::merge_nodes_backward", mutates_args=())
def merge_nodes_backward(
    d_results: Tensor,
    states: Tensor,
    outer: list[Tensor],
    kept: list[Tensor],
    weights: list[Tensor],
    seed: Tensor,
    plan: list[Tensor],
    operator: str,
    dropout: float,
    operands: str,
    keeps_hidden: bool,
    backend: str,
    node_noise: float,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return `Gradients`."""
    settings = Settings(operator, dropout, operands, keeps_hidden, backend, node_noise)
    return backward_pass(d_results, states, outer, kept, weights, seed, plan, settings)


@merge_nodes_backward.register_fake
def _(
    d_results: Tensor,
    states: Tensor,
    outer: list[Tensor],
    kept: list[Tensor],
    weights: list[Tensor],
    seed: Tensor,
    plan: list[Tensor],
    operator: str,
    dropout: float,
    operands: str,
    keeps_hidden: bool,
    backend: str,
    node_noise: float,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    population, num_nodes, width = states.shape
    d_inputs = states.new_empty(population, num_nodes - plan[0].shape[0], width)
    dtype = compute_dtype(states.dtype)
    d_folded = states.new_empty(population, num_folded(operator, width), dtype=dtype)
    d_outer = []
    if operator == "mlp":
        sizes = (
            (population, 2 * width, width),
            (population, 1, width),
            (population, width, width),
        )
        d_outer = [states.new_empty(size, dtype=dtype) for size in sizes]
    return d_inputs, d_folded, d_outer


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    leaves, _, weights, seed, plan, *settings = inputs
    _, states, outer, kept = output
    ctx.set_materialize_grads(False)
    _Saved(states, seed, weights, plan, outer, kept).save(ctx)
    ctx.num_leaves, ctx.settings = leaves.shape[1], settings


def _op_backward(ctx: Any, d_results: Tensor | None, *_: Any) -> tuple[Any, ...]:
    states, seed, weights, plan, outer, kept = _Saved.of(ctx)
    # autograd wants an answer for every argument, in the arguments' own shape
    nothing = (None, [None] * len(plan), *(None for _ in ctx.settings))
    if d_results is None:
        return None, None, [None] * len(weights), *nothing
    d_inputs, d_folded, d_outer = merge_nodes_backward(
        d_results, states, outer, kept, weights, seed, plan, *ctx.settings
    )
    d_weights = gradients_of(weights, d_folded, d_outer, ctx.settings[0])
    return d_inputs[:, : ctx.num_leaves], d_inputs[:, ctx.num_leaves :], d_weights, *nothing


merge_nodes.register_autograd(_op_backward, setup_context=_setup_context)


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Let nobody round inside an op: what is rounded, and where, is its own matter."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _path(backend: str) -> Any:
    if backend == "torch":
        return torch_path
    from ldru_kernels import triton_path

    return triton_path


def tree_plan(
    lengths: Tensor | None, leaves: Tensor, lone_node: str, offsets: tuple[int, ...] = ()
) -> list[Tensor]:
    """Return the plan of `schedule.build_schedule` for leaves [P, B, T, E]."""
    _, batch, num_tokens, _ = leaves.shape
    if torch.compiler.is_compiling():
        return list(plan_tree(lengths, batch, num_tokens, lone_node, leaves.device))
    return list(_tree(lengths, batch, num_tokens, lone_node, leaves.device, offsets))


def scan_plan(
    lengths: Tensor | None,
    leaves: Tensor,
    *,
    inclusive: bool,
    has_root: bool,
    own_roots: bool = False,
) -> list[Tensor]:
    """Return the plan of `schedule.build_scan` for leaves [P, B, T, E]."""
    _, batch, num_tokens, _ = leaves.shape
    if torch.compiler.is_compiling() and not own_roots:
        return list(plan_scan(lengths, batch, num_tokens, inclusive, has_root, leaves.device))
    return list(_scan(lengths, batch, num_tokens, inclusive, has_root, leaves.device, own_roots))


def tokens_plan(
    lengths: Tensor | None,
    tokens: Tensor,
    num_symbols: int,
    lone_node: str,
    device: torch.device,
    offsets: tuple[int, ...] = (),
) -> list[Tensor]:
    """Return the plan that merges equal subtrees of tokens [B, T] once.

    Where gradients are disabled there may be no backward pass with it.
    """
    if torch.compiler.is_compiling():
        return list(plan_tokens(lengths, tokens, num_symbols, lone_node, device))
    has_readers = torch.is_grad_enabled()
    made = _tokens(
        lengths, tokens, num_symbols, lone_node, device, offsets, has_readers=has_readers
    )
    return list(made)


def _tree(
    lengths: Tensor | None,
    batch: int,
    num_tokens: int,
    lone_node: str,
    device: torch.device,
    offsets: tuple[int, ...] = (),
) -> Plan:
    counted = check_lengths(lengths, batch, num_tokens)
    options = {"lone_node": lone_node, "offsets": offsets}
    return plan_for(build_schedule, counted, num_tokens, device, **options)


def _scan(
    lengths: Tensor | None,
    batch: int,
    num_tokens: int,
    inclusive: bool,
    has_root: bool,
    device: torch.device,
    own_roots: bool = False,
) -> Plan:
    counted = check_lengths(lengths, batch, num_tokens)
    options = {"inclusive": inclusive, "has_root": has_root, "own_roots": own_roots}
    return plan_for(build_scan, counted, num_tokens, device, **options)


def _tokens(
    lengths: Tensor | None,
    tokens: Tensor,
    num_symbols: int,
    lone_node: str,
    device: torch.device,
    offsets: tuple[int, ...] = (),
    *,
    has_readers: bool,
) -> Plan:
    batch, num_tokens = tokens.shape
    counted = check_lengths(lengths, batch, num_tokens)
    on_host = tokens.cpu()
    symbols = on_host.numpy()
    # most often no symbol is out of range, wherever it stands
    if symbols.min() < 0 or symbols.max() >= num_symbols:
        is_read = torch.arange(num_tokens) < torch.tensor(counted)[:, None]
        check_symbols(on_host[is_read], num_symbols)
    with torch.inference_mode(mode=False):
        schedule = build_schedule(counted, num_tokens, lone_node, symbols, num_symbols, offsets)
        num_extra = int(needs_padding(lone_node))
        plan = make_plan(schedule, num_extra, has_readers=has_readers, is_shared=True)
        return plan.to(device)


@torch.library.custom_op("ldru_kernels::plan_tree", mutates_args=())
def plan_tree(
    lengths: Tensor | None, batch: int, num_tokens: int, lone_node: str, device: torch.device
) -> list[Tensor]:
    """Make the plan of `schedule.build_schedule`, with the largest sizes."""
    plan = _tree(lengths, batch, num_tokens, lone_node, device)
    return _padded(plan, batch, num_tokens, batch * num_tokens + needs_padding(lone_node), batch)


@plan_tree.register_fake
def _(
    lengths: Tensor | None, batch: int, num_tokens: int, lone_node: str, device: torch.device
) -> list[Tensor]:
    num_inputs = batch * num_tokens + needs_padding(lone_node)
    return _empty(device, batch, num_tokens, num_inputs, batch)


@torch.library.custom_op("ldru_kernels::plan_scan", mutates_args=())
def plan_scan(
    lengths: Tensor | None,
    batch: int,
    num_tokens: int,
    inclusive: bool,
    has_root: bool,
    device: torch.device,
) -> list[Tensor]:
    """Make the plan of `schedule.build_scan`, with the largest sizes."""
    plan = _scan(lengths, batch, num_tokens, inclusive, has_root, device)
    places = batch * num_tokens
    return _padded(plan, batch, num_tokens, places + 1 + has_root, places)


@plan_scan.register_fake
def _(
    lengths: Tensor | None,
    batch: int,
    num_tokens: int,
    inclusive: bool,
    has_root: bool,
    device: torch.device,
) -> list[Tensor]:
    places = batch * num_tokens
    return _empty(device, batch, num_tokens, places + 1 + has_root, places)


@torch.library.custom_op("ldru_kernels::plan_tokens", mutates_args=())
def plan_tokens(
    lengths: Tensor | None,
    tokens: Tensor,
    num_symbols: int,
    lone_node: str,
    device: torch.device,
) -> list[Tensor]:
    """Make the plan that merges equal subtrees once, with the largest sizes."""
    plan = _tokens(lengths, tokens, num_symbols, lone_node, device, has_readers=True)
    batch, num_tokens = tokens.shape
    return _padded(plan, batch, num_tokens, num_symbols + needs_padding(lone_node), batch)


@plan_tokens.register_fake
def _(
    lengths: Tensor | None,
    tokens: Tensor,
    num_symbols: int,
    lone_node: str,
    device: torch.device,
) -> list[Tensor]:
    batch, num_tokens = tokens.shape
    return _empty(device, batch, num_tokens, num_symbols + needs_padding(lone_node), batch)


def _padded(
    plan: Plan, batch: int, num_tokens: int, num_inputs: int, num_results: int
) -> list[Tensor]:
    return list(pad(plan, largest_sizes(batch, num_tokens, num_inputs, num_results)))


def _empty(
    device: torch.device, batch: int, num_tokens: int, num_inputs: int, num_results: int
) -> list[Tensor]:
    sizes = largest_sizes(batch, num_tokens, num_inputs, num_results)
    fields = [sizes[name] for name in Plan._fields]
    on_device, on_host = fields[:NUM_ON_DEVICE], fields[NUM_ON_DEVICE:]
    return [
        *(torch.empty(size, dtype=torch.int32, device=device) for size in on_device),
        *(torch.empty(size, dtype=torch.int64, device="cpu") for size in on_host),
    ]
