"""One attempt at one trial: train or continue, evaluate, commit, and leave a record either way.

The order of the writes is what makes results exactly-once: metrics, then weights, then counts,
then the end of the attempt. Killed between any two of them, the next attempt does what is missing.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from ldru_study.errors import StoreError
from ldru_study.results.heartbeat import beating
from ldru_study.results.store import Store, new_attempt_id
from ldru_study.training.evaluate import Answer, evaluate
from ldru_study.training.failures import DamagedError, cause_of
from ldru_study.training.training import Training, dump_weights, load_weights
from ldru_study.training.work import Outcome, Progress, Work

# how often a running trial reports its step
_REPORT_S = 1.0


def run_attempt(work: Work, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
    """Do the work, commit its rows and return how it ended.

    A failure of the trial is an outcome, recorded with cause and traceback; it is not raised.

    Raises:
        StoreError: the store cannot be written, so nothing could be recorded.
    """
    return _Attempt(work, on_progress or (lambda _: None)).run()


class _Attempt:
    def __init__(self, work: Work, on_progress: Callable[[Progress], None]) -> None:
        self.work, self.on_progress = work, on_progress
        self.store = Store(work.store)
        self.trial_id = work.config.trial_id
        self.attempt_id = new_attempt_id()
        self.name = f"{self.trial_id}-{self.attempt_id}"
        self.device = torch.device(work.device)
        self.start = time.monotonic()
        self.step = 0

    def run(self) -> Outcome:
        self._record("start", config=self.work.config.model_dump_json(), versions=self._versions())
        steps = self.work.config.train.steps
        with beating(
            self.store,
            self.trial_id,
            self.attempt_id,
            driver_pid=self.work.driver_pid or os.getpid(),
            steps=steps,
        ) as self.beat:
            try:
                self._evaluate(self._trained_model())
            except StoreError:
                # what cannot be recorded must not look like a finished trial
                raise
            except Exception as error:  # noqa: BLE001 - recorded; other trials must go on
                return self._end(
                    "failed",
                    cause=cause_of(error),
                    message=str(error) or type(error).__name__,
                    traceback=traceback.format_exc(),
                )
            return self._end("done")

    def _trained_model(self) -> torch.nn.Module:
        weights, state = (f"checkpoints/{self.trial_id}/{n}.safetensors" for n in _FILES)
        files, config = self.store.files, self.work.config
        if files.exists(weights):
            self.step = self.beat[0] = config.train.steps
            try:
                return load_weights(files.read(weights), config, self.device)
            except DamagedError as error:
                text = f"{weights}: {error}. Delete it; `submit` then trains the trial again."
                raise DamagedError(text) from error
        training = Training(config, self.device)
        if files.exists(state):
            try:
                training.restore(files.read(state))
            except DamagedError:
                # from the start it ends at the same bits, only later
                training = Training(config, self.device)
        self._train(training, lambda: files.write(state, training.state()))
        self.store.commit("metrics", self.name, [self._keys(asdict(m)) for m in training.history])
        files.write(weights, dump_weights(training.model, config))
        files.delete(state)
        return training.model

    def _train(self, training: Training, save: Callable[[], None]) -> None:
        train, now = self.work.config.train, time.monotonic
        last_save = last_report = last_tick = now()
        accuracy = _accuracy(training)
        while not training.is_finished:
            result = training.advance()
            self.step = self.beat[0] = training.step
            tick = now()
            training.seconds += tick - last_tick
            last_tick = tick
            if is_measured(training.step, train.steps):
                training.measure(result, self.work.validation_strings)
                accuracy = _accuracy(training)
                # validation is no training time
                last_tick = now()
            if not training.is_finished and tick - last_save >= self.work.checkpoint_every_s:
                save()
                last_save = last_tick = now()
            if tick - last_report >= _REPORT_S:
                self.on_progress(Progress(training.step, train.steps, accuracy))
                last_report = tick
        self.on_progress(Progress(training.step, train.steps, accuracy))

    def _evaluate(self, model: torch.nn.Module) -> None:
        answers: list[Answer] = []
        try:
            for question in self.work.questions:
                answers.append(evaluate(model, self.work.config, question, self.device))
        finally:
            # the lengths that fitted into memory are kept when a longer one did not
            if answers:
                rows = [self._keys(_row(answer)) for answer in answers]
                self.store.commit("evaluations", self.name, rows)

    def _keys(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"trial_id": self.trial_id, "attempt_id": self.attempt_id} | row

    def _end(self, state: str, **failure: str) -> Outcome:
        seconds = time.monotonic() - self.start
        self._record("end", state=state, seconds=seconds, **failure)
        return Outcome(state, failure.get("cause"), failure.get("message"), seconds)

    def _record(self, event: str, **columns: Any) -> None:
        row = self._keys(
            {
                "study": self.work.study,
                "event": event,
                "step": self.step,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "at": datetime.datetime.now(datetime.UTC),
            }
            | columns
        )
        self.store.commit("attempts", f"{self.name}-{event}", [row])

    def _versions(self) -> str:
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return json.dumps(
            {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "machine": platform.machine(),
                "threads": torch.get_num_threads(),
                "gpu": gpu,
                "revision": self.work.revision,
            }
        )


_FILES = ("weights", "state")


def is_measured(step: int, steps: int) -> bool:
    """Whether a training is validated after ``step``: at 1, 2, 5, 10, 20, 50 ... and at the end."""
    return step == steps or str(step).rstrip("0") in {"1", "2", "5"}


def _accuracy(training: Training) -> float | None:
    if not training.history:
        return None
    last = training.history[-1]
    return last.validation_num_correct / last.validation_num_total


def _row(answer: Answer) -> dict[str, Any]:
    return {
        "length": answer.question.length,
        "multiple": answer.multiple,
        "num_correct": answer.num_correct,
        "num_total": answer.question.num_total,
        "chance": answer.chance,
        "loss": answer.loss,
        "eval_seed": answer.question.eval_seed,
        "seconds": answer.seconds,
        "committed_at": datetime.datetime.now(datetime.UTC),
    }
