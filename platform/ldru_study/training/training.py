"""One trial's training: the model, its optimiser and the step that they have reached.

Every random number is a function of (seed, stream, step), so the step *is* the position of all
streams: a training restored from `Training.state` continues to the same bits on the same machine.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldru_kernels import give_back_freed_memory
from ldru_study.models.registry import (
    associativity_defect,
    associativity_penalty,
    build_model,
    draw_brackets,
    level_norms,
    recompute_layers,
    share_strings,
)
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.streams import random_stream
from ldru_study.training.batches import Batch, TrainingBatches, validation_batch
from ldru_study.training.checkpoint import dump, dump_weights, load
from ldru_study.training.engine import DTYPES, build_engine
from ldru_study.training.failures import DivergedError
from ldru_study.training.memory import halved, in_parts, peak_mib, release
from ldru_study.training.optimiser import learning_rate_at
from ldru_study.training.ranks import arrange

_LARGEST_SEED = 2**63
# as many tell how large states and gradients are
_NUM_NORM_STRINGS = 64
# a hundredth of the time of small steps at most, a hundred megabytes of crumbs in between
_STEPS_BETWEEN_TRIMS = 128


@dataclass(frozen=True)
class Metrics:
    """The state of a training after ``step`` optimiser steps; a row of the table ``metrics``.

    Losses are mean cross-entropies in nats; ``seconds`` counts training only, over all attempts.
    ``level_state_norms`` and ``level_gradient_norms`` have a number per level of a tree, leaves
    first: do states and gradients get through it?
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
    level_state_norms: list[float] | None = None
    level_gradient_norms: list[float] | None = None


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step saw, before the weights moved."""

    loss: float
    gradient_norm: float
    learning_rate: float


@dataclass
class Training:
    """A model in training, in one process or as one of several that train it together.

    With several, all of them call every method that takes a step, measures, saves or restores.

    Args:
        config: what is trained.
        device: where.
        micro_batch_size: strings that go through the model at once, fewer than this process has
            of each batch; None for all of them. It changes no gradient but by rounding, and is
            halved whenever memory runs out where the process is alone.

    Raises:
        EngineError: the engine cannot be had here.
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
        train = self.config.train
        self._held_mib = peak_mib(self.device)
        self.batches = TrainingBatches(self.config)
        self.ranks = arrange(train, self.device)
        if train.engine.gradient_accumulation > 1:
            size = train.strings_at_once
            self.micro_batch_size = min(size, self.micro_batch_size or size)
        self.engine = build_engine(self._new_model, train, self.device, self.ranks)

    def _new_model(self) -> nn.Module:
        model = new_model(self.config)
        share_strings(model, self.ranks.sequence_group)
        if self.config.train.engine.activation_checkpointing:
            recompute_layers(model)
        return model

    @property
    def model(self) -> nn.Module:
        """The model, with weights in the precision of the training."""
        return self.engine.model

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.train.steps

    def advance_towards(self, step: int) -> None:
        """Take one step; other ways to train may take several, none beyond ``step``."""
        begun = time.monotonic()
        self.advance()
        self.seconds += time.monotonic() - begun

    def advance(self) -> StepResult:
        """Take one optimiser step.

        Raises:
            DivergedError: the loss or the gradient norm is not finite; the weights have not moved.
            NoMemoryError: memory runs out even for one string at a time; the same holds.
        """
        rate = learning_rate_at(self.step, self.config.train)
        batch = self.ranks.part(self.batches.at(self.step)).to(self.device)
        loss = float(self._gradient(batch))
        if not math.isfinite(loss):
            raise self._diverged(f"loss {loss}")
        self.is_moving = True
        norm = self.engine.step(rate)
        if not math.isfinite(norm) and not self.engine.has_skipped:
            self.is_moving = False
            raise self._diverged(f"loss {loss}, gradient norm {norm}")
        self.step, self.last = self.step + 1, StepResult(loss, norm, rate)
        self.is_moving = False
        if self.step % _STEPS_BETWEEN_TRIMS == 0 and self.device.type == "cpu":
            give_back_freed_memory()
        return self.last

    def _diverged(self, found: str) -> DivergedError:
        return DivergedError(
            f"step {self.step + 1}: {found}. "
            "Lower train.learning_rate, lengthen train.warmup or set train.clip_norm."
        )

    def _gradient(self, batch: Batch) -> Tensor:
        """Give every weight its gradient of the mean loss over ``batch``; return that loss."""
        while True:
            size = self.micro_batch_size or len(batch.labels)
            try:
                return self._accumulated(batch, size)
            except (RuntimeError, MemoryError) as error:
                if self.ranks.size > 1:
                    # the others wait for this one: all must begin again
                    raise
                self.micro_batch_size = halved(size, error, batch)
            # part of the gradient may have been added up already
            self.engine.zero_grad()
            release()

    def _accumulated(self, batch: Batch, size: int) -> Tensor:
        # dropout and noise draw from torch's own generator: put it at this step's place
        place = (self.step, self.ranks.data) if self.ranks.data else (self.step,)
        noise = random_stream(self.config.seed, "dropout", *place)
        torch.manual_seed(int(noise.integers(_LARGEST_SEED)))
        # the same ones for all parts of the batch, wherever they are trained on
        brackets = random_stream(self.config.seed, "brackets", self.step)
        draw_brackets(self.model, int(brackets.integers(_LARGEST_SEED)))
        self.model.train()
        self.engine.zero_grad()
        num_strings = len(batch.labels)
        losses = []
        for start in range(0, num_strings, size):
            part = batch.part(start, start + size)
            logits = self.engine.forward(part.tokens, part.lengths)
            loss = F.cross_entropy(logits.float(), part.labels)
            # a mean over the whole batch is the sum of its parts' means by their shares
            weight = len(part.labels) / num_strings
            losses.append(loss.detach() * weight)
            if penalty := self.config.train.associativity_penalty:
                loss = loss + penalty * associativity_penalty(self.model, part.tokens, part.lengths)
            self.engine.backward(loss * weight, is_last=start + size >= num_strings)
        mean = torch.stack(losses).sum()
        self.ranks.average([mean])
        return mean

    def measure(self, last: StepResult, num_strings: int) -> Metrics:
        """Validate in distribution and add the result to ``history``."""
        batch = validation_batch(self.config, num_strings).to(self.device)
        model = self.engine.scoring_model()
        # what fits in training fits without gradients
        size = self.micro_batch_size or num_strings
        scores, _ = in_parts(lambda part: score(model, part), batch, size)
        some = batch.part(0, _NUM_NORM_STRINGS)
        norms = level_norms(model, some.tokens, some.lengths, some.labels) or (None, None)
        measured = Metrics(
            step=self.step,
            train_loss=last.loss,
            validation_loss=sum(loss for loss, _ in scores) / num_strings,
            validation_num_correct=sum(correct for _, correct in scores),
            validation_num_total=num_strings,
            learning_rate=last.learning_rate,
            gradient_norm=last.gradient_norm,
            associativity_defect=associativity_defect(model, batch.tokens, batch.lengths),
            seconds=self.seconds,
            level_state_norms=norms[0],
            level_gradient_norms=norms[1],
        )
        self.history.append(measured)
        return measured

    def state(self) -> bytes:
        """Return everything that continuing needs, as one safetensors file without pickle.

        Whoever continues may have another engine, or other workers. Only rank 0 returns it; the
        other ranks take part and return nothing.
        """
        weights, moments = self.engine.weights(), self.engine.optimizer_state()
        if self.ranks.rank:
            return b""
        tensors = {f"model/{name}": value for name, value in weights.items()}
        for number, values in moments.items():
            tensors |= {f"optimizer/{number}/{key}": value for key, value in values.items()}
        about = {
            "trial_id": self.config.trial_id,
            "step": self.step,
            "seconds": self.seconds,
            "history": [asdict(row) for row in self.history],
            "last": asdict(self.last) if self.last else None,
            "micro_batch_size": self.micro_batch_size,
        }
        return dump(tensors, about)

    def weights(self) -> bytes:
        """Return the trained weights, see `dump_weights`; as `state`, of rank 0 only."""
        weights = self.engine.weights()
        return b"" if self.ranks.rank else dump_weights(weights, self.config)

    def restore(self, state: bytes) -> None:
        """Continue from what `state` returned; of the two micro-batches the smaller one holds.

        Raises:
            DamagedError: the bytes are damaged or belong to another trial.
        """
        tensors, about = load(state, self.config)
        moments: dict[int, dict[str, Tensor]] = {}
        weights = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "model":
                weights[rest] = value
            else:
                number, key = rest.split("/")
                moments.setdefault(int(number), {})[key] = value
        self.engine.load(weights, moments)
        self.step, self.seconds = int(about["step"]), float(about["seconds"])
        self.history = [Metrics(**row) for row in about["history"]]
        # a state from before these were kept was written after the measurement, with whole batches
        if last := about.get("last"):
            self.last = StepResult(**last)
        sizes = (self.micro_batch_size, about.get("micro_batch_size"))
        self.micro_batch_size = min((size for size in sizes if size), default=None)

    def memory_mib(self) -> float:
        """Return the most memory that this process has held, above what it held before, in MiB."""
        return max(0.0, peak_mib(self.device) - self._held_mib)

    def close(self) -> None:
        """Give back what the engine holds; nothing else may be called afterwards."""
        self.engine.close()


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


def load_weights(data: bytes, config: TrialConfig, device: torch.device) -> nn.Module:
    """Return the trial's model with the weights of `dump_weights`, in the trial's precision.

    Raises:
        DamagedError: the bytes are damaged or belong to another trial.
    """
    tensors, _ = load(data, config)
    model = new_model(config)
    model.load_state_dict(tensors)
    return model.to(device, DTYPES[config.train.engine.precision])
