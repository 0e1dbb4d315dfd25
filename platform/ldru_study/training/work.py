"""The words between a driver and its workers: an order, how far it is, how it ended. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrialConfig
from ldru_study.training.prediction import Prediction


@dataclass(frozen=True)
class Work:
    """An order to answer questions about one trial, training it first where it must be.

    ``driver_pid`` is the process that waits for the answer, on ``driver_host``; ``revision`` the
    code it runs. ``cell`` names the cell of the grid, ``suggestion`` the number in its search.
    ``cpus`` and ``gpus`` are what the trial takes, for the record. ``micro_batch_size`` is the
    most strings that go through the model at once in training, None for the whole batch; the
    attempt lowers it by itself when memory runs out. ``trial_timeout_s`` bounds one attempt. At
    ``report_steps`` the attempt validates and reports, whatever the time. ``prediction`` is what
    its first steps are compared with.
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
    cpus: float = 1
    gpus: float = 0
    micro_batch_size: int | None = None
    trial_timeout_s: float | None = None
    report_steps: tuple[int, ...] = ()
    prediction: Prediction | None = None

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
        if raw["prediction"] is not None:
            steps_s = tuple((length, time) for length, time in raw["prediction"].pop("steps_s"))
            raw["prediction"] = Prediction(steps_s, **raw["prediction"])
        return cls(**raw)


@dataclass(frozen=True)
class Progress:
    """How far an attempt is.

    ``validation_accuracy`` is None before the first validation. ``at_rung`` says that ``step`` is
    one of the order's ``report_steps``; only then is ``validation_loss`` given, and the training
    curve up to there is in the store. ``note`` is worth telling whoever watches, once.
    """

    step: int
    steps: int
    validation_accuracy: float | None
    validation_loss: float | None = None
    at_rung: bool = False
    attempt_id: str = ""
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: ``state`` is done, pruned or failed, ``message`` says why."""

    state: str
    cause: str | None = None
    message: str | None = None
    seconds: float = 0.0
    attempt_id: str | None = None
