"""What moves the weights: PyTorch alone here, DeepSpeed in its own module, behind one interface.

All engines compute in the precision of the configuration and keep weights and moments in fp32; the
gradient is the mean over all workers. So they differ by rounding only, and what `Engine.weights`
and `Engine.optimizer_state` return is the same from every engine and any number of workers.

Source: Micikevicius et al. 2018 (mixed precision with fp32 master weights); Kalamkar et al. 2019
for bf16, which needs no loss scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ldru_study.spec.trial import TrainConfig
from ldru_study.training.optimiser import (
    build_optimizer,
    centralise_gradients,
    set_learning_rate,
)
from ldru_study.training.ranks import Ranks

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# number of a parameter in `nn.Module.parameters` -> its moments by name, all of the same on
# every rank; numbers as in torch's own optimisers
OptimizerState = Mapping[int, Mapping[str, Tensor]]


class Engine(Protocol):
    """Moves the weights of one model; with several workers, each calls every method in turn."""

    # with parameters of the training's precision, which may be elsewhere between calls
    model: nn.Module

    def zero_grad(self) -> None:
        """Forget all gradients."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C], to be differentiated; see `ldru_study.models`."""

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradient of a part's loss; after the last part it is averaged over workers."""

    def step(self, learning_rate: float) -> float:
        """Clip the gradient and move the weights; a gradient that is not finite moves none.

        Returns:
            The norm of the gradient before it was clipped.
        """

    @property
    def has_skipped(self) -> bool:
        """Whether the last step moved nothing but the scale of the loss, as fp16 does at times."""

    def weights(self) -> dict[str, Tensor]:
        """Return all weights by name in fp32, on every rank."""

    def optimizer_state(self) -> dict[int, dict[str, Tensor]]:
        """Return all moments, on every rank; empty before the first step."""

    def load(self, weights: Mapping[str, Tensor], state: OptimizerState) -> None:
        """Continue from what `weights` and `optimizer_state` returned."""

    def scoring_model(self) -> nn.Module:
        """Return a model with these weights that can be called outside of training."""

    def close(self) -> None:
        """Give back what the engine holds; nothing else may be called afterwards."""


class Plain:
    """Every worker holds everything and does the same step on the same mean gradient."""

    has_skipped = False

    def __init__(
        self,
        new_model: Callable[[], nn.Module],
        train: TrainConfig,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.train, self.ranks = train, ranks
        model = new_model().to(device)
        # what the optimiser moves; the model computes in copies of it, where fp32 is not meant
        self.masters: list[nn.Parameter] = list(model.parameters())
        self._has_copies = train.engine.precision != "fp32"
        if self._has_copies:
            self.masters = [nn.Parameter(p.detach().clone()) for p in self.masters]
        self.model = model.to(DTYPES[train.engine.precision])
        if train.gradient_centralisation:
            centralise_gradients(self.model.parameters())
        self.optimizer = build_optimizer(self.masters, train)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.model.zero_grad()
        self.optimizer.zero_grad()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C], to be differentiated."""
        logits: Tensor = self.model(tokens, lengths)
        return logits

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradient of a part's loss; the last part averages it over the workers."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self._has_copies:
            # parts are added up in fp32
            for master, parameter in zip(self.masters, self.model.parameters(), strict=True):
                if parameter.grad is not None:
                    gradient = parameter.grad.float()
                    master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                    parameter.grad = None
        if is_last:
            self.ranks.average([p.grad for p in self.masters if p.grad is not None])

    def step(self, learning_rate: float) -> float:
        """Clip and move, or do nothing where the gradient is not finite; return its norm."""
        limit = math.inf if self.train.clip_norm is None else self.train.clip_norm
        norm = float(nn.utils.clip_grad_norm_(self.masters, limit))
        if math.isfinite(norm):
            set_learning_rate(self.optimizer, learning_rate)
            self.optimizer.step()
            self._refresh_copies()
        return norm

    def _refresh_copies(self) -> None:
        if self._has_copies:
            with torch.no_grad():
                for master, parameter in zip(self.masters, self.model.parameters(), strict=True):
                    parameter.copy_(master)

    def weights(self) -> dict[str, Tensor]:
        """Return all weights in fp32."""
        names = (name for name, _ in self.model.named_parameters())
        masters = {n: p.detach() for n, p in zip(names, self.masters, strict=True)}
        return self.model.state_dict() | masters

    def optimizer_state(self) -> dict[int, dict[str, Tensor]]:
        """Return all moments."""
        return dict(self.optimizer.state_dict()["state"])

    def load(self, weights: Mapping[str, Tensor], state: OptimizerState) -> None:
        """Continue from weights and moments."""
        self.model.load_state_dict(weights)
        with torch.no_grad():
            for (name, _), master in zip(self.model.named_parameters(), self.masters, strict=True):
                master.copy_(weights[name])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def scoring_model(self) -> nn.Module:
        """Return a model to be called outside of training."""
        return self.model

    def close(self) -> None:
        """Give back what is held: nothing beyond Python's own memory."""


def build_engine(
    new_model: Callable[[], nn.Module], train: TrainConfig, device: torch.device, ranks: Ranks
) -> Engine:
    """Return the engine that a training asks for.

    Args:
        new_model: makes the model with its initial weights, in fp32 and on the CPU.
        train: the training.
        device: where.
        ranks: this process among those that train.

    Raises:
        EngineError: DeepSpeed is asked for, and is missing or broken.
    """
    if train.engine.kind == "plain":
        return Plain(new_model, train, device, ranks)
    from ldru_study.training.deepspeed_engine import DeepSpeed

    return DeepSpeed(new_model, train, device)
