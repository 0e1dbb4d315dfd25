"""What many tests build on: a store, small trials, and one thread, so that bits are repeatable."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    # Triton asks once, when it is first imported, and other packages import it
    os.environ["TRITON_INTERPRET"] = "1"

from ldru_study.execution.submit import Submission, new_record, prepare
from ldru_study.results.store import Store
from ldru_study.spec.plan import Question
from ldru_study.spec.study import parse_study
from ldru_study.spec.trial import TrialConfig
from ldru_study.training.attempt import run_attempt
from ldru_study.training.work import Work

torch.set_num_threads(1)

MODELS: dict[str, dict[str, Any]] = {
    "ldru": {"kind": "ldru", "width": 8, "lone_node": "carry", "dropout": 0.1},
    "lstm": {"kind": "lstm", "width": 8},
    "rnn": {"kind": "rnn", "width": 8},
    "transformer": {"kind": "transformer", "width": 8, "layers": 1, "heads": 2, "dropout": 0.1},
    "constant": {"kind": "constant"},
}


TINY = """
name: tiny
question: Is one hop enough?
grid:
  model: [{kind: constant}, {kind: lstm, width: 4}]
task: parity_check
train: {steps: 2, max_length: 8, batch_size: 8}
seeds: 2
evaluate: {multiples: [1, 2], strings: 64}
"""


def small_trial(model: str = "lstm", *, seed: int = 0, **train: Any) -> TrialConfig:
    """Return a trial that trains in well under a second."""
    settings = {"max_length": 8, "steps": 12, "batch_size": 16, "lengths_per_batch": 4} | train
    return TrialConfig.model_validate(
        {"task": "parity_check", "model": MODELS[model], "train": settings, "seed": seed}
    )


def small_work(config: TrialConfig, store: Store, *lengths: int, **more: Any) -> Work:
    """Return an order to answer 64 strings at each of ``lengths``."""
    questions = tuple(Question(length, 64, 0) for length in lengths or (8, 16))
    settings = {"study": "test", "validation_strings": 32, "revision": "test"} | more
    return Work(config=config, questions=questions, store=store.uri, **settings)


def submission_of(text: str, store: Store) -> Submission:
    """Return a prepared submission of the study in a text."""
    study = parse_study(text, "study.yaml")
    return prepare(study, store, new_record(["submit", "study.yaml"]))


def submit_tiny(store: Store) -> None:
    """Put the study `TINY` into ``store`` and run all of its four trials but the last.

    The second is evaluated at a length that nobody asks for as well.
    """
    submission = submission_of(TINY, store)
    for number, trial in enumerate(submission.plan.trials[:3]):
        run_attempt(small_work(trial.config, store, *((8, 16, 99) if number == 1 else (8, 16))))


@pytest.fixture
def store(tmp_path: Any) -> Store:
    """Return an empty store."""
    return Store(str(tmp_path / "results"))
