"""One trial's training: the model, its optimiser and the step that they have reached.

Every random number is a function of (seed, stream, step), so the step *is* the position of all
streams: a training restored from `Training.state` continues to the same bits on the same machine.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldru_study.models.registry import associativity_defect, build_model
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.streams import random_stream
from ldru_study.training.batches import Batch, training_batch, validation_batch
from ldru_study.training.failures import DamagedError, DivergedError
from ldru_study.training.memory import halved, in_parts, release
from ldru_study.training.optimiser import build_optimizer, learning_rate_at, set_learning_rate

_LARGEST_SEED = 2**63


@dataclass(frozen=True)
class Metrics:
    """The state of a training after ``step`` optimiser steps; a row of the table ``metrics``.

    Losses are mean cross-entropies in nats; ``seconds`` counts training only, over all attempts.
    """

    step: int
    train_loss: float
    validation_loss: float
    validation_num_correct: int
    validation_num_total: int
    learning_rate: float
    gradient_norm: float
    associativity_defect: float | None
    seconds: float


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step saw, before the weights moved."""

    loss: float
    gradient_norm: float
    learning_rate: float


@dataclass
class Training:
    """A model in training.

    Args:
        config: what is trained.
        device: where.
        micro_batch_size: strings that go through the model at once, fewer than the batch has;
            None for the whole batch. It changes no gradient but by rounding, and is halved
            whenever memory runs out.
    """

    config: TrialConfig
    device: torch.device
    step: int = 0
    seconds: float = 0.0
    history: list[Metrics] = field(default_factory=list)
    micro_batch_size: int | None = None
    # of the step before, None at the beginning: what a measurement that is due still needs
    last: StepResult | None = field(default=None, init=False)
    # while an optimiser step moves the weights, they are those of no step
    is_moving: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.model = new_model(self.config).to(self.device)
        self.optimizer = build_optimizer(self.model, self.config.train)

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.train.steps

    def advance(self) -> StepResult:
        """Take one optimiser step.

        Raises:
            DivergedError: the loss or the gradient norm is not finite; the weights have not moved.
            NoMemoryError: memory runs out even for one string at a time; the same holds.
        """
        train = self.config.train
        rate = learning_rate_at(self.step, train)
        set_learning_rate(self.optimizer, rate)
        batch = training_batch(self.config, self.step).to(self.device)
        loss = self._gradient(batch)
        limit = float("inf") if train.clip_norm is None else train.clip_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        result = StepResult(float(loss), float(norm), rate)
        if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
            raise DivergedError(
                f"step {self.step + 1}: loss {result.loss}, gradient norm {result.gradient_norm}. "
                "Lower train.learning_rate, lengthen train.warmup or set train.clip_norm."
            )
        self.is_moving = True
        self.optimizer.step()
        self.step, self.last = self.step + 1, result
        self.is_moving = False
        return result

    def _gradient(self, batch: Batch) -> Tensor:
        """Give every weight its gradient of the mean loss over ``batch``; return that loss."""
        while True:
            size = self.micro_batch_size or len(batch.labels)
            try:
                return self._accumulated(batch, size)
            except (RuntimeError, MemoryError) as error:
                self.micro_batch_size = halved(size, error, batch)
            # part of the gradient may have been added up already
            self.optimizer.zero_grad()
            release()

    def _accumulated(self, batch: Batch, size: int) -> Tensor:
        # dropout draws from torch's own generator: put it at this step's place
        noise = random_stream(self.config.seed, "dropout", self.step)
        torch.manual_seed(int(noise.integers(_LARGEST_SEED)))
        self.model.train()
        self.optimizer.zero_grad()
        num_strings = len(batch.labels)
        losses = []
        for start in range(0, num_strings, size):
            part = batch.part(start, start + size)
            loss = F.cross_entropy(self.model(part.tokens, part.lengths), part.labels)
            # a mean over the whole batch is the sum of its parts' means by their shares
            share = loss * (len(part.labels) / num_strings)
            share.backward()  # type: ignore[no-untyped-call]
            losses.append(share.detach())
        return torch.stack(losses).sum()

    def measure(self, last: StepResult, num_strings: int) -> Metrics:
        """Validate in distribution and add the result to ``history``."""
        batch = validation_batch(self.config, num_strings).to(self.device)
        # what fits in training fits without gradients
        size = self.micro_batch_size or num_strings
        scores, _ = in_parts(lambda part: score(self.model, part), batch, size)
        measured = Metrics(
            step=self.step,
            train_loss=last.loss,
            validation_loss=sum(loss for loss, _ in scores) / num_strings,
            validation_num_correct=sum(correct for _, correct in scores),
            validation_num_total=num_strings,
            learning_rate=last.learning_rate,
            gradient_norm=last.gradient_norm,
            associativity_defect=associativity_defect(self.model, batch.tokens, batch.lengths),
            seconds=self.seconds,
        )
        self.history.append(measured)
        return measured

    def state(self) -> bytes:
        """Return everything that continuing needs, as one safetensors file without pickle."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{key}": value for key, value in values.items()}
        about = {
            "trial_id": self.config.trial_id,
            "step": self.step,
            "seconds": self.seconds,
            "history": [asdict(row) for row in self.history],
            "last": asdict(self.last) if self.last else None,
            "micro_batch_size": self.micro_batch_size,
        }
        return _dump(tensors, about)

    def restore(self, state: bytes) -> None:
        """Continue from what `state` returned; of the two micro-batches the smaller one holds.

        Raises:
            DamagedError: the bytes are damaged or belong to another trial.
        """
        tensors, about = _load(state, self.config)
        groups: dict[int, dict[str, Tensor]] = {}
        weights = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "model":
                weights[rest] = value
            else:
                number, key = rest.split("/")
                groups.setdefault(int(number), {})[key] = value
        self.model.load_state_dict(weights)
        groups_now = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": groups, "param_groups": groups_now})
        self.step, self.seconds = int(about["step"]), float(about["seconds"])
        self.history = [Metrics(**row) for row in about["history"]]
        # a state from before these were kept was written after the measurement, with whole batches
        if last := about.get("last"):
            self.last = StepResult(**last)
        sizes = (self.micro_batch_size, about.get("micro_batch_size"))
        self.micro_batch_size = min((size for size in sizes if size), default=None)


def new_model(config: TrialConfig) -> nn.Module:
    """Return the trial's model with its initial weights, on the CPU."""
    task = find_task(config.task)
    return build_model(
        config.model,
        num_symbols=task.num_symbols,
        num_classes=task.num_classes,
        seed=int(random_stream(config.seed, "init").integers(_LARGEST_SEED)),
    )


def score(model: nn.Module, batch: Batch) -> tuple[float, int]:
    """Return the summed cross-entropy in nats and the number of strings that are right."""
    model.eval()
    with torch.inference_mode():
        logits = model(batch.tokens, batch.lengths)
        loss = F.cross_entropy(logits.double(), batch.labels, reduction="sum")
        return float(loss), int((logits.argmax(1) == batch.labels).sum())


def dump_weights(model: nn.Module, config: TrialConfig) -> bytes:
    """Return a model's weights as a safetensors file that carries its trial's configuration."""
    about = {"trial_id": config.trial_id, "config": config.model_dump(mode="json")}
    return _dump(model.state_dict(), about)


def load_weights(data: bytes, config: TrialConfig, device: torch.device) -> nn.Module:
    """Return the trial's model with the weights of `dump_weights`.

    Raises:
        DamagedError: the bytes are damaged or belong to another trial.
    """
    tensors, _ = _load(data, config)
    model = new_model(config)
    model.load_state_dict(tensors)
    return model.to(device)


def _dump(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    plain = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    sealed = {"about": about, "sha256": _digest(plain, about)}
    data: bytes = safetensors.torch.save(plain, {"ldru_study": json.dumps(sealed)})
    return data


def _load(data: bytes, config: TrialConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        tensors = safetensors.torch.load(data)
        # the library reads tensors from bytes, and metadata only from files: take the header here
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        sealed = json.loads(header["__metadata__"]["ldru_study"])
        about: dict[str, Any] = sealed["about"]
        is_whole = sealed["sha256"] == _digest(tensors, about)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"it is damaged ({error})") from error
    if not is_whole:
        raise DamagedError("it is damaged (its content does not match its checksum)")
    if about["trial_id"] != config.trial_id:
        raise DamagedError(f"it is of trial {about['trial_id']}, wanted {config.trial_id}")
    return tensors, about


def _digest(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """Return the SHA-256 of all content: a flipped bit is damage, not another model."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
