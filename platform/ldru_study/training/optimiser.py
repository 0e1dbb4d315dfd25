"""Optimisers and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ldru_study.spec.trial import TrainConfig


def build_optimizer(parameters: Iterable[nn.Parameter], train: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW, or its AMSGrad variant, over all ``parameters``.

    Source: Loshchilov & Hutter 2019 (AdamW); Reddi et al. 2018 (AMSGrad).
    """
    return torch.optim.AdamW(
        parameters,
        lr=train.learning_rate,
        weight_decay=train.weight_decay,
        amsgrad=train.optimizer == "amsgrad",
        fused=True,
    )


def centralise_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Let every backward pass from now on subtract from a gradient the mean of each of its rows.

    A row is what stands at one place of a tensor's first axis, as the model stores the tensor;
    vectors and scalars keep their gradients. The map is linear, so parts of a batch and workers
    may be added up after it, and clipping sees what it leaves.

    Source: Yong et al. 2020, arXiv 2004.01461; the axes are those of `optax.centralize`, which
    like the matrices of our ldru meets [in, out].
    """
    for parameter in parameters:
        # ZeRO stage 3 takes the shape away between calls, but never from the gradient
        parameter.register_hook(_centred)  # type: ignore[no-untyped-call]


def _centred(gradient: Tensor) -> Tensor:
    if gradient.ndim < 2:
        return gradient
    return gradient - gradient.mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)


def learning_rate_at(step: int, train: TrainConfig) -> float:
    """Return the learning rate of optimiser step ``step``, counted from 0.

    It rises linearly over the first ``warmup`` share of the steps and reaches the peak at their
    end; then it stays (``constant``) or falls along half a cosine to zero (``cosine``).
    """
    num_warmup = round(train.warmup * train.steps)
    if step < num_warmup:
        return train.learning_rate * (step + 1) / num_warmup
    if train.schedule == "constant":
        return train.learning_rate
    done = (step - num_warmup) / max(1, train.steps - num_warmup)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
