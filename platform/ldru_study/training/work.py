"""The words between a driver and its workers: an order, how far it is, how it ended. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrialConfig


@dataclass(frozen=True)
class Work:
    """An order to answer questions about one trial, training it first where it must be.

    ``driver_pid`` is the process that waits for the answer; ``revision`` the code it runs.
    """

    config: TrialConfig
    questions: tuple[Question, ...]
    study: str
    store: str
    device: str = "cpu"
    validation_strings: int = 512
    checkpoint_every_s: float = 20.0
    driver_pid: int = 0
    revision: str = "unknown"

    def to_json(self) -> str:
        """Return the order as text, for a worker elsewhere."""
        return json.dumps(asdict(self) | {"config": self.config.model_dump(mode="json")})

    @classmethod
    def from_json(cls, text: str) -> Work:
        """Return the order that `to_json` wrote."""
        raw = json.loads(text)
        raw["config"] = TrialConfig.model_validate(raw["config"])
        raw["questions"] = tuple(Question(**question) for question in raw["questions"])
        return cls(**raw)


@dataclass(frozen=True)
class Progress:
    """How far an attempt is. ``validation_accuracy`` is None before the first validation."""

    step: int
    steps: int
    validation_accuracy: float | None


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: ``state`` is done or failed, ``cause`` and ``message`` say why."""

    state: str
    cause: str | None = None
    message: str | None = None
    seconds: float = 0.0
