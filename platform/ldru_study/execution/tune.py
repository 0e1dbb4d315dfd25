"""Ray Tune as the engine: every trial of a study in one Tuner, on this machine.

Tune schedules, packs and restarts; it decides nothing and remembers nothing. Each trial keeps its
own records and checkpoints in the store, so Tune's state is thrown away when the run is over.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

# before ray is imported: no usage statistics, no second copy of every result, no chdir
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
# Tune's own snapshots serve nobody here
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch
from ray import tune

from ldru_kernels import keep_freed_memory
from ldru_study.errors import SpecError
from ldru_study.execution.deaths import close_attempts
from ldru_study.results.store import Store
from ldru_study.spec.study import ResourcesConfig
from ldru_study.training.attempt import run_attempt
from ldru_study.training.failures import BUG, INTERRUPTED, WORKER_DIED
from ldru_study.training.work import Outcome, Progress, Work

_DIED = "the worker process died; killed for memory, by hand or with its machine"


class Listener(Protocol):
    """Hears what becomes of every trial, in the driver's process."""

    def started(self, work: Work) -> None:
        """An attempt began; also called when a trial is tried again."""

    def progressed(self, work: Work, progress: Progress) -> None:
        """A trial is further on."""

    def ended(self, work: Work, outcome: Outcome) -> None:
        """A trial is over, well or not."""


@dataclass(frozen=True)
class RunResult:
    """What became of the trials; those in neither list were interrupted."""

    done: tuple[str, ...]
    failed: tuple[str, ...]


def run_trials(
    works: Sequence[Work], resources: ResourcesConfig, *, retries: int, listener: Listener
) -> RunResult:
    """Run every trial on this machine and return when all are over or Ctrl-C was pressed.

    Args:
        works: what to do, in order.
        resources: what one trial takes; fractions share a core or a GPU.
        retries: further attempts after the process of a trial died.
        listener: told of everything as it happens.

    Raises:
        SpecError: one trial asks for more than this machine has.
    """
    _start_ray(resources, works[0].study)
    # a polite kill ends as Ctrl-C does; Ray's own handler would leave without a word
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    scratch = tempfile.mkdtemp(prefix="ldru-study-")
    relay = _Relay(works, listener)
    try:
        orders = [work.to_json() for work in works]
        trainable = tune.with_parameters(_trial, orders=orders, threads=max(1, int(resources.cpus)))
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
            param_space={"number": tune.grid_search(list(range(len(works))))},
            tune_config=tune.TuneConfig(reuse_actors=True, num_samples=1),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                verbose=0,
                callbacks=[relay],
                failure_config=tune.FailureConfig(max_failures=retries),
            ),
        ).fit()
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
    over = {*relay.done, *relay.failed}
    if open_trials := {work.config.trial_id for work in works} - over:
        close_attempts(
            Store(works[0].store),
            open_trials,
            state="interrupted",
            cause=INTERRUPTED,
            message="the study was interrupted",
        )
    return RunResult(tuple(relay.done), tuple(relay.failed))


def _start_ray(resources: ResourcesConfig, study: str) -> None:
    for name in ("ray", "ray.tune", "ray.data", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # "local" also when RAY_ADDRESS names a cluster: this function is for this machine
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    here = ray.cluster_resources()
    for field, unit in (("cpus", "CPU"), ("gpus", "GPU")):
        wanted, held = getattr(resources, field), here.get(unit, 0)
        if wanted > held:
            ray.shutdown()
            problem = f"resources.{field}: a trial wants {wanted:g}, this machine has {held:g}."
            raise SpecError(study, [f"{problem} Lower it, or run on a larger machine."])


def _trial(config: dict[str, int], orders: Sequence[str], threads: int) -> None:
    # Tune calls this in a worker that is reused for many trials
    torch.set_num_threads(threads)
    keep_freed_memory()
    work = Work.from_json(orders[config["number"]])
    outcome = run_attempt(work, lambda progress: tune.report({"progress": asdict(progress)}))
    tune.report({"outcome": asdict(outcome)})


class _Relay(tune.Callback):  # type: ignore[misc]
    """Turns Tune's callbacks into the listener's."""

    def __init__(self, works: Sequence[Work], listener: Listener) -> None:
        self.works, self.listener = list(works), listener
        self.done: list[str] = []
        self.failed: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into the state that we throw away; a live table cannot be
        return {"works": [], "listener": None, "done": [], "failed": []}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.listener.started(self._work(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        work = self._work(trial)
        if "progress" in result:
            self.listener.progressed(work, Progress(**result["progress"]))
        if "outcome" in result:
            self._end(work, Outcome(**result["outcome"]))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._close(trial, "interrupted")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        cause, message = self._close(trial, "failed")
        self._end(self._work(trial), Outcome("failed", cause, message))

    def _close(self, trial: Any, state: str) -> tuple[str, str]:
        work, error = self._work(trial), trial.get_error()
        # an attempt records its own failures: what arrives here could not
        has_died = error is None or isinstance(error, ray.exceptions.RayActorError)
        cause = WORKER_DIED if has_died else BUG
        message = _DIED if has_died else str(error).strip().splitlines()[-1]
        close_attempts(
            Store(work.store),
            {work.config.trial_id},
            state=state,
            cause=cause,
            message=message,
            traceback=None if error is None else str(error),
        )
        return cause, message

    def _end(self, work: Work, outcome: Outcome) -> None:
        (self.done if outcome.state == "done" else self.failed).append(work.config.trial_id)
        self.listener.ended(work, outcome)

    def _work(self, trial: Any) -> Work:
        number: int = trial.config["number"]
        return self.works[number]
