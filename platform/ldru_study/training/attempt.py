"""One attempt at one trial: train or continue, evaluate, commit, and leave a record either way.

The order of the writes is what makes results exactly-once: metrics, then weights, then counts,
then the end of the attempt. Killed between any two of them, the next attempt does what is missing.
Asked to stop, it saves the training first.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import platform
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from ldru_study.errors import StoreError
from ldru_study.results.heartbeat import beating
from ldru_study.results.store import Store, new_attempt_id
from ldru_study.training.batches import longest_length
from ldru_study.training.deepspeed_engine import deepspeed_json
from ldru_study.training.evaluate import Answer
from ldru_study.training.failures import (
    TIMED_OUT,
    DamagedError,
    TimedOutError,
    WorkerLostError,
    cause_of,
)
from ldru_study.training.prediction import FirstSteps
from ldru_study.training.training import Metrics
from ldru_study.training.watchdog import watched
from ldru_study.training.work import Outcome, Progress, Work
from ldru_study.training.workers import ThisProcess, Trainee, Workers

# how often a running trial reports its step
_REPORT_S = 1.0
_CONTINUE = "`submit` continues from the last checkpoint; raise trial_timeout_s if it needs longer."


def run_attempt(
    work: Work,
    on_progress: Callable[[Progress], None] | None = None,
    workers: Workers | None = None,
) -> Outcome:
    """Do the work, commit its rows and return how it ended.

    Args:
        work: what to do.
        on_progress: told about once a second, and at every rung.
        workers: who trains and evaluates; None for this process.

    A failure of the trial is an outcome, recorded with cause and traceback; it is not raised.
    `KeyboardInterrupt`, `SystemExit` and `GeneratorExit`, also from ``on_progress``, are raised
    when the training is saved; whoever sent them records the end.

    When the attempt hangs long after ``work.trial_timeout_s``, its end is recorded and the process
    ended.

    Raises:
        StoreError: the store cannot be written, so nothing could be recorded.
        WorkerLostError: of several workers one is gone; whoever hears of it records the end.
    """
    return _Attempt(work, on_progress or (lambda _: None), workers).run()


class _Attempt:
    def __init__(
        self,
        work: Work,
        on_progress: Callable[[Progress], None],
        workers: Workers | None = None,
    ) -> None:
        self.work, self.on_progress = work, on_progress
        self.store = Store(work.store)
        self.trial_id = work.config.trial_id
        self.attempt_id = new_attempt_id()
        self.name = f"{self.trial_id}-{self.attempt_id}"
        self.device = torch.device(work.device)
        self.workers = workers or ThisProcess(self.device)
        self.start = time.monotonic()
        self.step = 0
        self.training: Trainee | None = None
        whole = work.config.train.strings_at_once
        size = work.micro_batch_size or whole
        self.micro_batch_size = size if size < whole else None
        # rows of the training curve that this attempt has committed, and looked at for rungs
        self.num_committed = self.num_heard = 0
        self.ending, self.is_over = threading.Lock(), False
        self.first_steps = FirstSteps(work.prediction)
        self.note: str | None = None

    def run(self) -> Outcome:
        self._record("start", config=self.work.config.model_dump_json(), versions=self._versions())
        steps = self.work.config.train.steps
        with (
            beating(
                self.store,
                self.trial_id,
                self.attempt_id,
                driver_pid=self.work.driver_pid or os.getpid(),
                driver_host=self.work.driver_host or socket.gethostname(),
                steps=steps,
            ) as self.pulse,
            watched(self.work.trial_timeout_s, self._end_hung),
        ):
            try:
                self._train_or_load()
                self._evaluate()
            except (StoreError, WorkerLostError):
                # what cannot be recorded must not look like a finished trial; and who is told
                # of lost workers tries again, or records that it does not
                raise
            except Exception as error:  # noqa: BLE001 - recorded; other trials must go on
                return self._end(
                    "failed",
                    cause=cause_of(error),
                    message=str(error) or type(error).__name__,
                    traceback=traceback.format_exc(),
                )
            # a trial that went well has something to say where its first steps had
            return self._end("done", **({"message": self.note} if self.note else {}))

    def _train_or_load(self) -> None:
        """Leave the workers with the weights of the trained model."""
        name, state = (f"checkpoints/{self.trial_id}/{n}.safetensors" for n in _FILES)
        files, config = self.store.files, self.work.config
        if files.exists(name):
            self.step = self.pulse.step = config.train.steps
            self.micro_batch_size = None
            # left behind by an attempt that was stopped between the two
            files.delete(state)
            try:
                self.workers.load(files.read(name), config)
            except DamagedError as error:
                text = f"{name}: {error}. Delete it; `submit` then trains the trial again."
                raise DamagedError(text) from error
            return
        self.training = training = self._restored(state)
        try:
            with self._saved_when_stopped(training, state):
                self._train(training, state)
                self._commit_metrics(training.history)
                weights = training.weights()
                files.write(name, weights)
            files.delete(state)
        finally:
            training.close()
        self.workers.load(weights, config)

    def _restored(self, state: str) -> Trainee:
        config, size = self.work.config, self.micro_batch_size
        training = self.workers.training(config, size)
        if self.store.files.exists(state):
            try:
                training.restore(self.store.files.read(state))
            except DamagedError:
                # from the start it ends at the same bits, only later
                training.close()
                training = self.workers.training(config, size)
        return training

    @contextmanager
    def _saved_when_stopped(self, training: Trainee, state: str) -> Iterator[None]:
        try:
            yield
        except (TimedOutError, KeyboardInterrupt, SystemExit, GeneratorExit):
            # in the middle of an optimiser step the last checkpoint is the one to continue from
            if not training.is_moving:
                self.store.files.write(state, training.state())
            raise

    def _train(self, training: Trainee, state: str) -> None:
        now = time.monotonic
        last_save = last_report = now()
        self.step = self.pulse.step = training.step
        self._measure(training)
        while not training.is_finished:
            before, begun = training.step, now()
            training.advance_towards(self._next_due(before))
            self._compare(training, training.step - before, now() - begun)
            self.step = self.pulse.step = training.step
            self._measure(training)
            if training.is_finished:
                break
            self._check_time()
            if now() - last_save >= self.work.checkpoint_every_s:
                self.store.files.write(state, training.state())
                last_save = now()
            if now() - last_report >= _REPORT_S:
                self._report(training.step, training.history)
                last_report = now()
        self._report(training.step, training.history)

    def _compare(self, training: Trainee, num_steps: int, seconds: float) -> None:
        """Tell once when the first steps are unlike what was predicted of them."""
        if not self.first_steps.are_open:
            return
        length = longest_length(self.work.config.train, training.step - 1)
        note = self.first_steps.take_in(num_steps, seconds, length, training.memory_mib())
        if note is not None:
            self.note = note
            steps = self.work.config.train.steps
            self.on_progress(
                Progress(training.step, steps, None, attempt_id=self.attempt_id, note=note)
            )

    def _report(self, step: int, history: list[Metrics], *, at_rung: bool = False) -> None:
        accuracy = self.pulse.validation_accuracy = _accuracy(history)
        loss = history[-1].validation_loss if at_rung else None
        steps = self.work.config.train.steps
        self.on_progress(Progress(step, steps, accuracy, loss, at_rung, self.attempt_id))

    def _measure(self, training: Trainee) -> None:
        """Do what is due after a step, also when the attempt that took it was stopped before."""
        rungs, history = self.work.report_steps, training.history
        is_due = self._is_due(training.step)
        is_done = bool(history) and history[-1].step == training.step
        if training.last is not None and is_due and not is_done:
            training.measure(training.last, self.work.validation_strings)
        # a resumed attempt reports the rungs that it has passed: who listens may be new as well
        for number in range(self.num_heard, len(history)):
            self.num_heard, row = number + 1, history[number]
            if row.step in rungs:
                # the listener may end the trial here
                self._commit_metrics(history)
                self._report(row.step, history[: number + 1], at_rung=True)

    def _is_due(self, step: int) -> bool:
        """Whether the training is measured after ``step``."""
        return is_measured(step, self.work.config.train.steps) or step in self.work.report_steps

    def _next_due(self, step: int) -> int:
        """Return the first step after ``step`` at which it is measured."""
        return next(later for later in itertools.count(step + 1) if self._is_due(later))

    def _commit_metrics(self, history: list[Metrics]) -> None:
        """Commit the rows that this attempt has not: a step twice in one attempt counts twice."""
        if rows := [self._keys(asdict(row)) for row in history[self.num_committed :]]:
            self.store.commit("metrics", f"{self.name}-{history[-1].step}", rows)
            self.num_committed = len(history)

    def _check_time(self) -> None:
        seconds, limit = time.monotonic() - self.start, self.work.trial_timeout_s
        if limit is not None and seconds > limit:
            raise TimedOutError(
                f"step {self.step} of {self.work.config.train.steps}: took {seconds:.0f} s, "
                f"trial_timeout_s is {limit:g}. {_CONTINUE}"
            )

    def _evaluate(self) -> None:
        answers: list[Answer] = []
        try:
            for question in self.work.questions:
                # one answer at least, so that every attempt gets further
                if answers:
                    self._check_time()
                answers.append(self.workers.answer(question, self._check_time))
        finally:
            # the lengths that were answered are kept when a longer one could not be
            if answers:
                rows = [self._keys(_row(answer)) for answer in answers]
                self.store.commit("evaluations", self.name, rows)

    def _keys(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"trial_id": self.trial_id, "attempt_id": self.attempt_id} | row

    def _end(self, state: str, **failure: str) -> Outcome:
        seconds = time.monotonic() - self.start
        with self.ending:
            self.is_over = True
            self._record("end", state=state, seconds=seconds, **failure)
        cause, message = failure.get("cause"), failure.get("message")
        return Outcome(state, cause, message, seconds, self.attempt_id)

    def _end_hung(self, stack: str) -> None:
        seconds = time.monotonic() - self.start
        # held to the end of the process, so that no second end can follow
        with self.ending:
            if self.is_over:
                return
            try:
                self._record(
                    "end",
                    state="failed",
                    cause=TIMED_OUT,
                    message=f"step {self.step} of {self.work.config.train.steps}: hung for "
                    f"{seconds:.0f} s, trial_timeout_s is {self.work.trial_timeout_s:g}. "
                    f"The traceback shows where. {_CONTINUE}",
                    traceback=stack,
                    seconds=seconds,
                )
            finally:
                os._exit(1)

    def _record(self, event: str, **columns: Any) -> None:
        trained = self.training
        row = self._keys(
            {
                "study": self.work.study,
                "event": event,
                "step": self.step,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "micro_batch_size": trained.micro_batch_size if trained else self.micro_batch_size,
                "cpus": self.work.cpus,
                "gpus": self.work.gpus,
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
                "deepspeed": deepspeed_json(self.work.config.train),
            }
        )


_FILES = ("weights", "state")


def is_measured(step: int, steps: int) -> bool:
    """Whether a training is validated after ``step``: at 1, 2, 5, 10, 20, 50 ... and at the end."""
    return step == steps or str(step).rstrip("0") in {"1", "2", "5"}


def _accuracy(history: list[Metrics]) -> float | None:
    if not history:
        return None
    return history[-1].validation_num_correct / history[-1].validation_num_total


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
