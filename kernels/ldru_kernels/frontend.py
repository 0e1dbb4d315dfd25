"""What the public ops have in common: from checked arguments to one call of the registered op."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ldru_kernels import torch_path
from ldru_kernels.choice import choose_backend, choose_operands, keeps_hidden
from ldru_kernels.dropout import new_seed
from ldru_kernels.folding import compute_dtype
from ldru_kernels.ops import run_plan
from ldru_kernels.torch_path import Settings
from ldru_kernels.weights import MergeWeights, listed, operator_name


class Execution(NamedTuple):
    """How a call is to run; see `tree_reduce` for what the fields mean."""

    dropout: float
    precision: str | None
    backend: str
    recompute: bool | None
    node_noise: float = 0.0

    @property
    def is_random(self) -> bool:
        """Whether states depend on a seed and on their numbers, so that no two are equal."""
        return self.dropout > 0 or self.node_noise > 0


class Prepared(NamedTuple):
    """The arguments of `ops.run_plan` but for the plan, in the dtype that is computed in."""

    leaves: Tensor
    extra: Tensor
    tensors: list[Tensor]
    seed: Tensor
    settings: Settings


def prepare(
    leaves: Tensor,
    extra: Tensor | None,
    weights: MergeWeights,
    execution: Execution,
    num_merges: int,
    seed: Tensor | None = None,
) -> Prepared:
    """Choose how to run a plan.

    Args:
        leaves: the first inputs, [P, N - K, E]; P is 1 without a population.
        extra: the last K inputs, [P, K, E], or None.
        weights: with or without a population.
        execution: what the caller wishes.
        num_merges: M, of each member and in one pass.
        seed: of `dropout.new_seed`; None draws one where there is dropout or noise.
    """
    dtype = leaves.dtype
    if torch.is_autocast_enabled(leaves.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(leaves.device.type)
    operator = operator_name(weights.operator)
    leaves = leaves.to(dtype)
    tensors = listed(weights)
    if extra is None:
        extra = leaves.new_empty(len(leaves), 0, leaves.shape[2])
    operands = choose_operands(execution.precision, dtype)
    num_rows = len(leaves) * num_merges
    noise = execution.node_noise
    backend = choose_backend(
        execution.backend, operator, leaves, operands, num_rows, node_noise=noise
    )
    settings = Settings(operator, execution.dropout, operands, True, backend, noise)
    keeps = torch.is_grad_enabled() and any(t.requires_grad for t in (leaves, extra, *tensors))
    if keeps:
        num_kept = num_rows * torch_path.kept_size(settings, leaves.shape[2])
        keeps = keeps_hidden(execution.recompute, num_kept, compute_dtype(dtype))
    if not execution.is_random:
        seed = torch.empty(0, dtype=torch.int64, device=leaves.device)
    elif seed is None:
        seed = new_seed(leaves.device)
    settings = settings._replace(keeps_hidden=keeps)
    return Prepared(leaves, extra.to(dtype), tensors, seed, settings)


def run(
    plan: list[Tensor],
    leaves: Tensor,
    extra: Tensor | None,
    weights: MergeWeights,
    execution: Execution,
    seed: Tensor | None = None,
) -> Tensor:
    """Run a plan on states and return the states of its results, [P, R, E].

    Args:
        plan: of `ops.tree_plan` and its like.
        leaves: as in `prepare`, and so on.
        extra: the same.
        weights: the same.
        execution: the same.
        seed: the same.
    """
    made = prepare(leaves, extra, weights, execution, plan[0].shape[0], seed)
    return run_plan(made.leaves, made.extra, made.tensors, made.seed, plan, made.settings)


def padding(weights: MergeWeights, leaves: Tensor) -> Tensor:
    """Return the element that lone nodes merge with, for leaves [P, N, E]: [P, 1, E]."""
    if weights.identity is None:
        return leaves.new_zeros(len(leaves), 1, leaves.shape[2])
    return weights.identity.reshape(len(leaves), 1, -1)
