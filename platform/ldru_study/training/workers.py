"""Who trains and evaluates for an attempt: this process, or others that it commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrialConfig
from ldru_study.training.evaluate import Answer, evaluate
from ldru_study.training.training import Metrics, StepResult, Training, load_weights


class Trainee(Protocol):
    """A training as an attempt sees it; see `Training` for what each means."""

    step: int
    history: list[Metrics]
    micro_batch_size: int | None
    last: StepResult | None
    is_moving: bool

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""

    def advance_towards(self, step: int) -> None:
        """Take at least one step and none beyond ``step``; return within seconds if one can."""

    def measure(self, last: StepResult, num_strings: int) -> Metrics:
        """Validate in distribution and add the result to ``history``."""

    def state(self) -> bytes:
        """Return everything that continuing needs."""

    def restore(self, state: bytes) -> None:
        """Continue from what `state` returned."""

    def weights(self) -> bytes:
        """Return the weights as they are stored."""

    def memory_mib(self) -> float:
        """Return the most memory of a process so far, above what it held before, in MiB."""

    def close(self) -> None:
        """Give back what it holds."""


class Workers(Protocol):
    """The processes at an attempt's disposal."""

    def training(self, config: TrialConfig, micro_batch_size: int | None) -> Trainee:
        """Return a new training, at step 0."""

    def load(self, weights: bytes, config: TrialConfig) -> None:
        """Take the weights of a finished training, to answer with.

        Raises:
            DamagedError: the bytes are damaged or belong to another trial.
        """

    def answer(self, question: Question, between_batches: Callable[[], None]) -> Answer:
        """Answer with the weights that were loaded; see `evaluate` for what is raised."""


class ThisProcess:
    """The attempt's own process does everything.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._model: nn.Module | None = None
        self._config: TrialConfig | None = None

    def training(self, config: TrialConfig, micro_batch_size: int | None) -> Training:
        """See `Workers`, also for the other methods."""
        return Training(config, self.device, micro_batch_size=micro_batch_size)

    def load(self, weights: bytes, config: TrialConfig) -> None:
        """Take weights to answer with."""
        self._model, self._config = load_weights(weights, config, self.device), config

    def answer(self, question: Question, between_batches: Callable[[], None]) -> Answer:
        """Answer with the weights that were loaded."""
        assert self._model is not None and self._config is not None  # noqa: S101 - ours
        return evaluate(self._model, self._config, question, self.device, between_batches)
