"""The words between a driver and its workers: an order, how far it is, how it ended. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrialConfig


@dataclass(frozen=True)
class Work:
    """An order to answer questions about one trial, training it first where it must be.

    ``driver_pid`` is the process that waits for the answer, on ``driver_host``; ``revision`` the
    code it runs. ``cell`` names the cell of the grid, ``suggestion`` the number in its search.
    """

    config: TrialConfig
    questions: tuple[Question, ...]
    study: str
    store: str
    device: str = "cpu"
    validation_strings: int = 512
    checkpoint_every_s: float = 20.0
    driver_pid: int = 0
    driver_host: str = ""
    revision: str = "unknown"
    cell: str = ""
    suggestion: int | None = None
    report_steps: tuple[int, ...] = ()

    def to_json(self) -> str:
        """Return the order as text, for a worker elsewhere."""
        return json.dumps(asdict(self) | {"config": self.config.model_dump(mode="json")})

    @classmethod
    def from_json(cls, text: str) -> Work:
        """Return the order that `to_json` wrote."""
        raw = json.loads(text)
        raw["config"] = TrialConfig.model_validate(raw["config"])
        raw["questions"] = tuple(Question(**question) for question in raw["questions"])
        raw["report_steps"] = tuple(raw["report_steps"])
        return cls(**raw)


@dataclass(frozen=True)
class Progress:
    """How far an attempt is. ``validation_accuracy`` is None before the first validation."""

    step: int
    steps: int
    validation_accuracy: float | None
    validation_loss: float | None = None
    at_rung: bool = False
    attempt_id: str = ""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: ``state`` is done, pruned or failed, ``message`` says why."""

    state: str
    cause: str | None = None
    message: str | None = None
    seconds: float = 0.0
    attempt_id: str | None = None
