"""DeepSpeed behind `ldru_study.training.engine`: its JSON, and its shards put together again.

DeepSpeed refuses to load the optimiser state of ZeRO in another number of workers, so it is never
asked to save any: moments and fp32 weights are gathered from the shards here, and cut again.
DeepSpeed is not told which ranks share a string: the plain mean over all of them is the gradient.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldru_study.errors import StudyError
from ldru_study.spec.engine import DeepSpeedEngine
from ldru_study.spec.trial import TrainConfig
from ldru_study.training.engine import DTYPES, OptimizerState
from ldru_study.training.failures import is_out_of_memory
from ldru_study.training.optimiser import (
    build_optimizer,
    centralise_gradients,
    set_learning_rate,
)
from ldru_study.training.ranks import join, open_meeting


class EngineError(StudyError):
    """An engine that cannot be had on this machine; the message names train.engine."""


def deepspeed_json(train: TrainConfig) -> dict[str, Any] | None:
    """Return DeepSpeed's configuration for a training; None for another engine.

    DeepSpeed clips and averages; optimiser, learning rate and the cutting of batches are ours.
    """
    engine = train.engine
    if not isinstance(engine, DeepSpeedEngine):
        return None
    share = train.batch_size // train.data_parallel
    zero: dict[str, Any] = {"stage": engine.zero_stage}
    if engine.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
        if engine.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        # our own loop marks the last of the parts, so DeepSpeed sees one part of any size
        "train_micro_batch_size_per_gpu": share,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if train.clip_norm is None else train.clip_norm,
        "zero_optimization": zero,
        # the moments must stay torch's: DeepSpeed's own are compiled on first use
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": engine.precision == "bf16"},
        "fp16": {"enabled": engine.precision == "fp16"},
        "communication_data_type": "fp32",
        "steps_per_print": None,
    }


class DeepSpeed:
    """A model under DeepSpeed; see `ldru_study.training.engine.Engine`.

    Raises:
        EngineError: DeepSpeed is missing or broken, or refuses the configuration.
    """

    def __init__(
        self,
        new_model: Callable[[], nn.Module],
        train: TrainConfig,
        device: torch.device,
    ) -> None:
        assert isinstance(train.engine, DeepSpeedEngine)  # noqa: S101 - our own invariant
        self.new_model, self.train, self.device = new_model, train, device
        self.stage, self.precision = train.engine.zero_stage, train.engine.precision
        deepspeed = _deepspeed(device)
        model = new_model()
        # the copies that compute are rounded from these, not the other way round
        exact = {name: value.clone() for name, value in model.state_dict().items()}
        model = model.to(device)
        if train.gradient_centralisation:
            centralise_gradients(model.parameters())
        try:
            self._engine, self.optimizer, *_ = deepspeed.initialize(
                model=model,
                optimizer=build_optimizer(model.parameters(), train),
                config=deepspeed_json(train),
                dist_init_required=False,
            )
        except (RuntimeError, ValueError, AssertionError, OSError) as error:
            if is_out_of_memory(error):
                raise
            raise EngineError(
                f"train.engine {train.engine.model_dump(mode='json')}: DeepSpeed "
                f"{deepspeed.__version__} refuses it: {error}"
            ) from error
        self.model: nn.Module = self._engine.module
        if self.stage == 3:
            # the matrices of an operator are read by another module than holds them
            for parameter in self.model.parameters():
                deepspeed.zero.register_external_parameter(self.model, parameter)
        self._shards = _shards(deepspeed, self.stage, self.precision, self.model, self.optimizer)
        self.load(exact, {})

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.optimizer.zero_grad()
        self._engine.zero_grad()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits [B, C], to be differentiated."""
        logits: Tensor = self._engine(tokens, lengths)
        return logits

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradient of a part's loss; the last part averages it over the workers."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip and move, or do nothing where the gradient is not finite; return its norm."""
        set_learning_rate(self.optimizer, learning_rate)
        if self.stage or self.precision != "fp32":
            self._engine.step()
            return float(self._engine.get_global_grad_norm())
        # here DeepSpeed clips and forgets the norm
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if math.isfinite(norm):
            self._engine.step()
        return norm

    @property
    def has_skipped(self) -> bool:
        """Whether the last step changed the scale of the loss only."""
        return self.precision == "fp16" and bool(self.optimizer.overflow)

    def weights(self) -> dict[str, Tensor]:
        """Return all weights in fp32."""
        return dict(zip(self._names(), self._shards.whole(None), strict=True))

    def optimizer_state(self) -> dict[int, dict[str, Tensor]]:
        """Return all moments."""
        step, names = self._shards.step(), self._shards.moments()
        if step is None:
            return {}
        moments = {name: self._shards.whole(name) for name in names}
        return {
            # a file holds no tensor twice
            number: {"step": step.clone()}
            | {name: values[number] for name, values in moments.items()}
            for number in range(len(self._names()))
        }

    def load(self, weights: Mapping[str, Tensor], state: OptimizerState) -> None:
        """Continue from weights and moments."""
        parameters = [weights[name].to(self.device) for name in self._names()]
        self._shards.set_copies(parameters)
        self._shards.set_whole(None, parameters)
        if not state:
            return
        # of parameters that no gradient reaches an engine may know no moments
        any_moments = next(iter(state.values()))
        names = [name for name in any_moments if name != "step"]
        self._shards.begin(max(float(values["step"]) for values in state.values()), names)
        for name in names:
            whole = [
                state[number][name].to(self.device) if number in state else torch.zeros_like(each)
                for number, each in enumerate(parameters)
            ]
            self._shards.set_whole(name, whole)

    def scoring_model(self) -> nn.Module:
        """Return a model to be called outside of training."""
        if self.stage < 3:
            return self.model
        # the model's own weights are elsewhere until its turn comes
        model = self.new_model().to(self.device, DTYPES[self.precision])
        model.load_state_dict(self.weights())
        return model

    def close(self) -> None:
        """Give back what is held."""
        self._engine.destroy()

    def _names(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters()]


class _Copies:
    """Stage 0: every rank has all of the optimiser's parameters, one by one."""

    def __init__(self, model: nn.Module, masters: Sequence[Tensor], optimizer: Any) -> None:
        # DeepSpeed gives them methods
        self.parameters: list[Any] = list(model.parameters())
        self.masters, self.optimizer = list(masters), optimizer
        # some stages begin with an empty step, which would count
        optimizer.state.clear()

    def step(self) -> Tensor | None:
        """Return how many steps the optimiser has made, None for none."""
        return next((values["step"] for values in self.optimizer.state.values()), None)

    def moments(self) -> list[str]:
        """Return the names of what the optimiser keeps for every weight, on all ranks alike."""
        values: dict[str, Tensor] = next(iter(self.optimizer.state.values()), {})
        return sorted(name for name in values if name != "step")

    def whole(self, moment: str | None) -> list[Tensor]:
        """Return a moment, or with None the weights in fp32, of every parameter."""
        if moment is None:
            return [master.detach() for master in self.masters]
        state = self.optimizer.state
        return [
            state[master][moment] if master in state else torch.zeros_like(master)
            for master in self.masters
        ]

    def begin(self, step: float, moments: Sequence[str]) -> None:
        """Let the optimiser believe that it has made ``step`` steps; all moments are 0."""
        for master in self.masters:
            self.optimizer.state[master] = _state_of(master, step, moments)

    def set_whole(self, moment: str | None, values: Sequence[Tensor]) -> None:
        """Set what `whole` returns."""
        for whole, value in zip(self.whole(moment), values, strict=True):
            whole.copy_(value)

    def set_copies(self, values: Sequence[Tensor]) -> None:
        """Set the parameters that compute, rounded to their precision."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)


class _Shards12(_Copies):
    """Stages 1 and 2: a rank's share is one flat tensor, in which parameters have fragments."""

    def __init__(self, model: nn.Module, zero: Any) -> None:
        super().__init__(model, zero.single_partition_of_fp32_groups, zero.optimizer)
        self.zero = zero

    def whole(self, moment: str | None) -> list[Tensor]:
        """See `_Copies`."""
        return [parameter.get_full_hp_param(moment) for parameter in self.parameters]

    def begin(self, step: float, moments: Sequence[str]) -> None:
        """See `_Copies`."""
        super().begin(step, moments)
        self.zero._hp_optimizer_states_linked = False
        self.zero._lazy_init_hp_params_optimizer_state()

    def set_whole(self, moment: str | None, values: Sequence[Tensor]) -> None:
        """See `_Copies`."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.set_full_hp_param(value.float(), moment)


class _Shards3(_Copies):
    """Stage 3: every parameter is cut evenly, its last part padded."""

    def __init__(self, model: nn.Module, zero: Any, gathered: Any) -> None:
        super().__init__(model, zero.fp32_partitioned_groups_flat, zero.optimizer)
        self.zero, self.gathered = zero, gathered

    def whole(self, moment: str | None) -> list[Tensor]:
        """See `_Copies`."""
        return [self.zero.get_full_hp_param(p, moment) for p in self.parameters]

    def set_whole(self, moment: str | None, values: Sequence[Tensor]) -> None:
        """See `_Copies`."""
        rank = dist.get_rank()
        for parameter, value in zip(self.parameters, values, strict=True):
            mine, _ = self.zero._get_fp32_opt_state_partition(parameter, False, moment)
            size = mine.numel()
            cut = value.reshape(-1)[rank * size : (rank + 1) * size]
            mine.data[: cut.numel()].copy_(cut)

    def set_copies(self, values: Sequence[Tensor]) -> None:
        """See `_Copies`."""
        with self.gathered(self.parameters, modifier_rank=0):
            super().set_copies(values)


def _state_of(master: Tensor, step: float, moments: Sequence[str]) -> dict[str, Tensor]:
    zeros = {name: torch.zeros_like(master.detach()) for name in moments}
    return {"step": torch.tensor(step, device=master.device)} | zeros


def _shards(
    deepspeed: Any, stage: int, precision: str, model: nn.Module, optimizer: Any
) -> _Copies:
    """Return the way to the fp32 weights and moments behind DeepSpeed's optimiser."""
    if stage == 3:
        return _Shards3(model, optimizer, deepspeed.zero.GatheredParameters)
    if stage:
        return _Shards12(model, optimizer)
    if precision == "fp32":
        return _Copies(model, list(model.parameters()), optimizer)
    masters = [master for group in optimizer.fp32_groups for master in group]
    return _Copies(model, masters, optimizer.optimizer)


def _deepspeed(device: torch.device) -> Any:
    """Return the package, ready to be used by this process.

    Raises:
        EngineError: it is missing or broken.
    """
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        import deepspeed
    except Exception as error:
        # a package that compiles and probes while it is imported fails in many ways
        raise EngineError(
            f"train.engine: kind deepspeed needs the package deepspeed, which cannot be imported "
            f"here ({type(error).__name__}: {error}). Install it, or use kind plain, which "
            "continues the same trials."
        ) from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # torch has new names for what DeepSpeed calls; said once for every call
    for old in ("all_gather_into_tensor", "reduce_scatter_tensor"):
        message = f"`torch.distributed.{old}` is deprecated"
        warnings.filterwarnings("ignore", message, FutureWarning)
    # an operation that would be compiled on first use, for minutes and behind a lock, is not needed
    deepspeed.ops.__compatible_ops__ = {}
    if not dist.is_initialized():
        join(0, 1, open_meeting("127.0.0.1"), device)
    backend = dist.get_backend()
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
    return deepspeed
