"""The workers of a trial that has several: actors in the placement group of its Tune trial.

They are driven in chunks of steps and idle in between, so that whatever Tune asks of a trial is
heard as it is by one without workers, and so that they can serve the next trial: to start them
takes seconds, to reuse them a fraction of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ldru_kernels import keep_freed_memory
from ldru_study.execution.deaths import cause_of_death
from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrialConfig
from ldru_study.training.evaluate import Answer
from ldru_study.training.failures import OUT_OF_MEMORY, WorkerLostError, is_out_of_memory
from ldru_study.training.ranks import Meeting, join, open_meeting
from ldru_study.training.training import Metrics, StepResult, Training
from ldru_study.training.work import Work
from ldru_study.training.workers import ThisProcess, Trainee

# what a chunk of steps should take, so that requests are heard soon and messages cost little
_CHUNK_S = 0.5
# how often whoever waits for an evaluation looks at the time
_LOOK_S = 1.0
# for the others to show how they are when one has failed
_GRACE_S = 5.0


def rank_group(work: Work, *, cpus: float, gpus: float, threads: int) -> RankGroup | None:
    """Return the workers for an order, those of the trial before where they live; None for one.

    To be called by a Tune trial, in the placement group that `bundles` describes.

    Args:
        work: the order.
        cpus: what one worker takes.
        gpus: the same.
        threads: for torch, in each worker.

    Raises:
        WorkerLostError: a worker died while they were made.
    """
    size = work.config.train.workers
    if size == 1:
        return None
    held = _HELD.get(size)
    if held is None or not held.is_whole():
        _HELD[size] = held = RankGroup(size, work.device, cpus, gpus, threads)
    return held


# of this process: a trial's actor is reused by Tune, and its placement group with it
_HELD: dict[int, RankGroup] = {}


class RankGroup:
    """Processes that train one trial together; `Workers` for an attempt.

    Args:
        size: how many.
        device: ``cpu`` or ``cuda``.
        cpus: what one takes.
        gpus: the same.
        threads: for torch, in each.
    """

    def __init__(self, size: int, device: str, cpus: float, gpus: float, threads: int) -> None:
        group = ray.util.get_current_placement_group()
        # Tune leaves the trial's own, empty bundle out
        self.ranks = [
            ray.remote(_Rank)
            .options(
                num_cpus=cpus,
                num_gpus=gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=rank
                ),
            )
            .remote(rank, device, threads)
            for rank in range(size)
        ]
        meeting = self.all_of([self.ranks[0].open_meeting.remote()])[0]
        self.call("join", size, meeting)

    def is_whole(self) -> bool:
        """Whether every worker lives."""
        try:
            self.call("ping")
        except WorkerLostError:
            return False
        return True

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every worker, at once, and return what each returned.

        Raises:
            WorkerLostError: one of them died, or had no memory for what may fit in parts.
        """
        return self.all_of([getattr(rank, method).remote(*arguments) for rank in self.ranks])

    def all_of(self, results: Sequence[Any]) -> list[Any]:
        """Return results when all are there; see `call` for what is raised."""
        try:
            return list(ray.get(list(results)))
        except ray.exceptions.RayError as error:
            # the others may wait for one that will never answer
            lost = _first_death(results) or error
            self.drop()
            if not isinstance(lost, ray.exceptions.RayTaskError):
                cause, message = cause_of_death(lost)
                raise WorkerLostError(cause, f"of {len(self.ranks)} workers, {message}") from error
            raise lost.cause from error

    def drop(self) -> None:
        """End all workers."""
        for held in [size for size, group in _HELD.items() if group is self]:
            del _HELD[held]
        for rank in self.ranks:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(rank)

    def training(self, config: TrialConfig, micro_batch_size: int | None) -> Trainee:
        """Return a new training, at step 0."""
        self.call("begin", config.model_dump_json(), micro_batch_size)
        return _GroupTraining(self, config, micro_batch_size)

    def load(self, weights: bytes, config: TrialConfig) -> None:
        """Take the weights of a finished training, to answer with."""
        loaded = self.ranks[0].load.remote(weights, config.model_dump_json())
        self.all_of([loaded])

    def answer(self, question: Question, between_batches: Callable[[], None]) -> Answer:
        """Answer with the weights that were loaded; the first worker does it alone."""
        result = self.ranks[0].answer.remote(question)
        while not ray.wait([result], timeout=_LOOK_S)[0]:
            try:
                between_batches()
            except BaseException:
                # it is busy with what nobody waits for any more
                self.drop()
                raise
        found: Answer = self.all_of([result])[0]
        return found


def _first_death(results: Sequence[Any]) -> BaseException | None:
    """Return the error of a worker that died: those who waited for it fail too, and often first."""
    ray.wait(list(results), num_returns=len(results), timeout=_GRACE_S)
    for result in results:
        try:
            ray.get(result, timeout=0)
        except (ray.exceptions.RayTaskError, ray.exceptions.GetTimeoutError):
            continue
        except ray.exceptions.RayError as error:
            death: BaseException = error
            return death
    return None


class _GroupTraining:
    """A training that the workers of a group do; see `Training` for what each means."""

    def __init__(self, group: RankGroup, config: TrialConfig, micro_batch_size: int | None) -> None:
        self.group, self.config, self.micro_batch_size = group, config, micro_batch_size
        self.step, self.last, self.is_moving = 0, None, False
        self.history: list[Metrics] = []
        self._step_s = float("inf")

    step: int
    last: StepResult | None
    is_moving: bool

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.train.steps

    def advance_towards(self, step: int) -> None:
        """Let the workers take a chunk of steps."""
        num_steps = max(1, min(step - self.step, int(_CHUNK_S / self._step_s)))
        self.is_moving = True
        try:
            self.step, seconds, self.last = self.group.call("advance", num_steps)[0]
        except WorkerLostError:
            raise
        except Exception as error:
            if not is_out_of_memory(error) or self._at_once == 1:
                raise
            # all must begin again, with less at once
            message = f"of {len(self.group.ranks)} workers, one ran out of memory ({error})"
            raise WorkerLostError(OUT_OF_MEMORY, message) from error
        self.is_moving = False
        self._step_s = max(seconds / num_steps, 1e-6)

    @property
    def _at_once(self) -> int:
        return self.micro_batch_size or self.config.train.strings_at_once

    def measure(self, last: StepResult, num_strings: int) -> Metrics:
        """Validate, in all workers."""
        measured: Metrics = self.group.call("measure", last, num_strings)[0]
        self.history.append(measured)
        return measured

    def state(self) -> bytes:
        """Return everything that continuing needs."""
        state: bytes = self.group.call("state")[0]
        return state

    def restore(self, state: bytes) -> None:
        """Continue from a state, in all workers."""
        found = self.group.call("restore", ray.put(state))[0]
        self.step, self.history, self.last, self.micro_batch_size = found

    def weights(self) -> bytes:
        """Return all weights in fp32."""
        weights: bytes = self.group.call("weights")[0]
        return weights

    def memory_mib(self) -> float:
        """Return the most memory of any worker, above what it held before, in MiB."""
        return float(max(self.group.call("memory_mib")))

    def close(self) -> None:
        """Give back what is held."""
        # workers that were lost hold nothing
        if self.group in _HELD.values():
            self.group.call("close")


class _Rank:
    """One worker: a process with a part in every training of its group."""

    def __init__(self, rank: int, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self.rank, self.device = rank, torch.device(device)
        self.training: Training | None = None
        self.here = ThisProcess(self.device)

    def open_meeting(self) -> Meeting:
        return open_meeting(ray.util.get_node_ip_address())

    def join(self, size: int, meeting: Meeting) -> None:
        join(self.rank, size, meeting, self.device)

    def ping(self) -> None:
        pass

    def begin(self, config: str, micro_batch_size: int | None) -> None:
        self.close()
        read = TrialConfig.model_validate_json(config)
        self.training = self.here.training(read, micro_batch_size)

    def advance(self, num_steps: int) -> tuple[int, float, StepResult | None]:
        before = self._training.seconds
        for _ in range(num_steps):
            self._training.advance_towards(self._training.step + 1)
        now = self._training
        return now.step, now.seconds - before, now.last

    def measure(self, last: StepResult, num_strings: int) -> Metrics:
        return self._training.measure(last, num_strings)

    def state(self) -> bytes:
        return self._training.state()

    def restore(self, state: bytes) -> tuple[int, list[Metrics], StepResult | None, int | None]:
        now = self._training
        now.restore(state)
        return now.step, now.history, now.last, now.micro_batch_size

    def weights(self) -> bytes:
        return self._training.weights()

    def memory_mib(self) -> float:
        return self._training.memory_mib()

    def close(self) -> None:
        if self.training is not None:
            self.training.close()
            self.training = None

    def load(self, weights: bytes, config: str) -> None:
        self.here.load(weights, TrialConfig.model_validate_json(config))

    def answer(self, question: Question) -> Answer:
        return self.here.answer(question, lambda: None)

    @property
    def _training(self) -> Training:
        assert self.training is not None  # noqa: S101 - our own invariant
        return self.training
