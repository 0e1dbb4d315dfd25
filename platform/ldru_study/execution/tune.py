"""Ray Tune as the engine: every trial of a study in one Tuner, on this machine or on a cluster.

Tune schedules, packs and restarts; it decides nothing and remembers nothing. Each trial keeps its
own records and checkpoints in the store, so Tune's state is thrown away when the run is over.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

# before ray is imported: no usage statistics, no second copy of every result, no chdir
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
# what ends a trial is recorded and said in one line; its traceback is in the store
os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
# Tune's own snapshots serve nobody here
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"
# a trial more than can run at once: who gets a worker that is free need not be made first
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "2")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune.search import Searcher

from ldru_study.errors import SpecError, StoreError
from ldru_study.execution.brake import Brake, Reason
from ldru_study.execution.deaths import (
    cause_of_death,
    close_attempt,
    close_attempts,
    newest_error,
)
from ldru_study.execution.scheduler import CellAsha, CellSchedulers
from ldru_study.execution.submit import Submission
from ldru_study.results.facts import read_facts
from ldru_study.results.store import Store
from ldru_study.spec.study import ResourcesConfig
from ldru_study.training.failures import INTERRUPTED, OUT_OF_MEMORY
from ldru_study.training.work import Outcome, Progress, Work

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OrderBook(Protocol):
    """Hands out orders and takes in how they ended; an `Agenda` is one."""

    submission: Submission
    brake: Brake

    @property
    def is_over(self) -> bool:
        """Whether nothing will be handed out any more."""

    def next(self) -> Work | None:
        """Return the next order; None while there is none, or none yet."""

    def asha(self, work: Work) -> CellAsha | None:
        """Return the early stopping that an order takes part in."""

    def ended(self, work: Work, outcome: Outcome) -> None:
        """Take in how an order ended."""


class Listener(Protocol):
    """Hears what becomes of every trial, in the driver's process."""

    def started(self, work: Work) -> None:
        """An attempt began; also called when a trial is tried again."""

    def progressed(self, work: Work, progress: Progress) -> None:
        """A trial is further on."""

    def ended(self, work: Work, outcome: Outcome) -> None:
        """A trial is over, well or not."""

    def said(self, text: str) -> None:
        """Something else is worth knowing."""


@dataclass(frozen=True)
class RunResult:
    """What became of the trials, and why the run ended before all of them were over.

    ``reason`` is None when nothing is left to do.
    """

    done: tuple[str, ...]
    pruned: tuple[str, ...]
    failed: tuple[str, ...]
    reason: Reason | None
    message: str


@dataclass(frozen=True)
class RunOptions:
    """How a run goes about it.

    Args:
        resources: what one worker of a trial takes; fractions share a core or a GPU.
        retries: further attempts after the process of a trial died.
        fail_fast: stop at the first trial that fails.
        address: ``auto`` for the cluster that this process is part of, None for this machine.
    """

    resources: ResourcesConfig
    retries: int = 0
    fail_fast: bool = False
    address: str | None = None


def run_trials(
    agenda: OrderBook, store: Store, options: RunOptions, *, brake: Brake, listener: Listener
) -> RunResult:
    """Run what the agenda hands out and return when all is over, or the brake was pulled.

    Args:
        agenda: what to do, in order.
        store: where the trials keep their records.
        options: how.
        brake: ends the run early; also pulled by Ctrl-C.
        listener: told of everything as it happens.

    Raises:
        SpecError: one trial asks for more than this machine has.
        StoreError: what became of a trial cannot be written, or no temporary file.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    cells = agenda.submission.spec.cells
    _start_ray(options, listener, max(cell.config.train.workers for cell in cells))
    # a polite kill ends as Ctrl-C does; Ray's own handler would leave without a word
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    scratch = tempfile.mkdtemp(prefix="ldru-study-")
    orders = _Orders(agenda, options)
    relay = _Relay(orders, store, options, brake, listener)
    resources = options.resources
    try:
        tune.Tuner(
            tune.with_resources(_trial, lambda config: _places(config["workers"], resources)),
            tune_config=tune.TuneConfig(
                search_alg=orders,
                scheduler=CellSchedulers(relay.stops, brake),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                verbose=0,
                callbacks=[relay],
                failure_config=tune.FailureConfig(max_failures=options.retries),
            ),
        ).fit()
    except KeyboardInterrupt:
        brake.pull("now", "interrupted", "it was interrupted")
    except Exception as error:  # noqa: BLE001 -- raised again, in our words where it is the disk
        _tell_disk_from_bug(error, scratch)
    finally:
        _leave_ray()
        shutil.rmtree(scratch, ignore_errors=True)
        # Tune leaves its own handler behind, which hears nothing any more
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if brake.error is not None:
        # a store that took no word of one trial may still take the others' last ones
        with suppress(StoreError):
            relay.result()
        raise brake.error
    return relay.result()


def _leave_ray() -> None:
    """Leave Ray, also when its last words about the workers find no room on the disk."""
    try:
        ray.shutdown()
    except OSError:
        # it has forgotten them now, and goes on from there
        with suppress(OSError):
            ray.shutdown()


def _tell_disk_from_bug(error: Exception, scratch: str) -> None:
    """Raise ``error`` in our own words when this machine could not hold Tune's notes on a trial.

    Raises:
        StoreError: it could not.
        Exception: ``error`` itself; something else happened.
    """
    # Tune hands on the text of what it met, not the thing itself, and may meet more on its way out
    met: list[str] = []
    link: BaseException | None = error
    while link is not None:
        met += str(link).splitlines()
        link = link.__cause__ or link.__context__
    no_room = [line for line in met if any(os.strerror(number) in line for number in _NO_ROOM)]
    if not no_room:
        raise error
    raise StoreError(
        f"{scratch}: cannot be written: {no_room[0].strip()}. Make room on this machine, or name "
        "another folder by TMPDIR, then run the same command again."
    ) from error


def _places(workers: int, resources: ResourcesConfig) -> Any:
    return tune.PlacementGroupFactory(bundles(workers, resources.cpus, resources.gpus))


def bundles(workers: int, cpus: float, gpus: float) -> list[dict[str, float]]:
    """Return what a trial takes, for Tune: one bundle per process that computes."""
    each = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    # the trial itself waits for its workers and computes nothing
    return [each] if workers == 1 else [{}, *[each] * workers]


def _start_ray(options: RunOptions, listener: Listener, workers: int) -> None:
    for name in ("ray", "ray.tune", "ray.data", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if options.address is None:
        # "local" also when RAY_ADDRESS names a cluster: this is for this machine
        ray.init(address="local", include_dashboard=False, **quiet)
    else:
        ray.init(address=options.address, **quiet)
    here = ray.cluster_resources()
    for field, unit in (("cpus", "CPU"), ("gpus", "GPU")):
        each, held = getattr(options.resources, field), here.get(unit, 0)
        wanted = each * workers
        if wanted <= held:
            continue
        problem = f"resources.{field}: a trial wants {wanted:g}"
        if workers > 1:
            problem += f" ({workers} workers x {each:g})"
        if options.address is None:
            ray.shutdown()
            text = f"{problem}, this machine has {held:g}. Lower it, or run on a larger machine."
            raise SpecError("resources", [text])
        # an autoscaler may bring what is not there yet
        listener.said(f"{problem}, the cluster has {held:g} so far: waiting for machines.")


def _trial(config: dict[str, Any]) -> None:
    # Tune calls this in a worker that is reused for many trials. only there, for a driver that has
    # not to wait for torch has its workers seconds earlier
    import torch

    from ldru_kernels import keep_freed_memory
    from ldru_study.execution.rank_group import rank_group
    from ldru_study.training.attempt import run_attempt

    torch.set_num_threads(config["threads"])
    keep_freed_memory()
    work = Work.from_json(config["order"])
    size = work.config.train.workers
    group = rank_group(
        work, cpus=work.cpus / size, gpus=work.gpus / size, threads=config["threads"]
    )
    outcome = run_attempt(work, lambda progress: tune.report({"progress": asdict(progress)}), group)
    tune.report({"outcome": asdict(outcome)})


class _Orders(Searcher):  # type: ignore[misc]
    """Hands the agenda's orders to Tune, each as the configuration of a trial."""

    def __init__(self, agenda: OrderBook | None = None, options: RunOptions | None = None) -> None:
        super().__init__()
        self.agenda = agenda
        self.threads = 1 if options is None else max(1, int(options.resources.cpus))
        self.works: dict[str, Work] = {}

    def __reduce__(self) -> Any:
        # Tune pickles its searcher into the state that we throw away
        return _Orders, ()

    def __deepcopy__(self, memo: Any) -> _Orders:
        return self

    def suggest(self, trial_id: str) -> Any:
        assert self.agenda is not None  # noqa: S101 - our own invariant
        work = None
        with self.agenda.brake.on_store_error():
            work = self.agenda.next()
        if work is None:
            # Tune waits in vain for what a brake holds back
            is_over = self.agenda.is_over or self.agenda.brake.mode
            return Searcher.FINISHED if is_over else None
        self.works[trial_id] = work
        workers = work.config.train.workers
        return {"order": work.to_json(), "threads": self.threads, "workers": workers}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Learn nothing here: the agenda hears of every end from the relay."""

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: a search is rebuilt from the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class _Relay(tune.Callback):  # type: ignore[misc]
    """Turns Tune's callbacks into the agenda's and the listener's."""

    def __init__(
        self, orders: _Orders, store: Store, options: RunOptions, brake: Brake, listener: Listener
    ) -> None:
        self.orders, self.store, self.options = orders, store, options
        self.brake, self.listener = brake, listener
        self.ends: dict[str, list[str]] = {"done": [], "pruned": [], "failed": []}
        self.open: dict[str, Work] = {}
        self.attempts: dict[str, str] = {}
        self.pruned: dict[str, int] = {}
        self.has_braked = False

    def __reduce__(self) -> Any:
        # Tune pickles its callbacks too; a live table cannot be
        return tune.Callback, ()

    def stops(self, trial: Any, result: dict[str, Any]) -> bool:
        """Whether early stopping ends a trial at this result."""
        # a scheduler gets results flattened, a callback as they were reported
        if not result.get("progress/at_rung"):
            return False
        work = self.orders.works[trial.trial_id]
        agenda = self.orders.agenda
        asha = None if agenda is None else agenda.asha(work)
        step, loss = result["progress/step"], result["progress/validation_loss"]
        if asha is None or not asha.stops(work.config.trial_id, step, loss):
            return False
        self.pruned[trial.trial_id] = step
        return True

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        work = self.orders.works[trial.trial_id]
        self.open[trial.trial_id] = work
        self.listener.started(work)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        work = self.orders.works[trial.trial_id]
        if "progress" in result:
            progress = Progress(**result["progress"])
            self.attempts[trial.trial_id] = progress.attempt_id
            self.listener.progressed(work, progress)
            if progress.note:
                self.listener.said(f"{work.cell} seed {work.config.seed}: {progress.note}")
        if "outcome" in result:
            with self.brake.on_store_error():
                self._end(trial, Outcome(**result["outcome"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        step = self.pruned.get(trial.trial_id)
        if trial.trial_id not in self.open or step is None:
            return
        work, attempt_id = self.open[trial.trial_id], self.attempts[trial.trial_id]
        message = f"stopped early at step {step}: others of its cell were better there"
        with self.brake.on_store_error():
            close_attempt(self.store, work, attempt_id, state="pruned", message=message, step=step)
            self._end(trial, Outcome("pruned", None, message, attempt_id=attempt_id))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self.brake.on_store_error():
            self._recover(trial)

    def _recover(self, trial: Any) -> None:
        cause, message = self._close(trial, "interrupted")
        work = self.orders.works[trial.trial_id]
        self.listener.said(f"{work.cell} seed {work.config.seed}: {message}; tried again")
        if cause == OUT_OF_MEMORY:
            # the machine as a whole ran out, which the attempt itself could not see
            size = work.micro_batch_size or work.config.train.strings_at_once
            work = replace(work, micro_batch_size=max(1, size // 2))
            self.orders.works[trial.trial_id] = self.open[trial.trial_id] = work
            trial.config["order"] = work.to_json()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self.brake.on_store_error():
            cause, message = self._close(trial, "failed")
            self._end(trial, Outcome("failed", cause, message))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        # nothing is started any more: a drain is over once nothing runs
        is_over = self.brake.mode == "now" or (self.brake.mode == "drain" and not self.open)
        if is_over and not self.has_braked:
            self.has_braked = True
            # Tune ends on this as it does on Ctrl-C: workers are stopped, `fit` returns
            os.kill(os.getpid(), signal.SIGINT)

    def result(self) -> RunResult:
        """Return what became of the trials, and leave no attempt open."""
        if self.open:
            close_attempts(
                self.store,
                {work.config.trial_id for work in self.open.values()},
                state="interrupted",
                cause=INTERRUPTED,
                message=self.brake.message or "the study was interrupted",
            )
        agenda = self.orders.agenda
        # what was handed out and never began is in nobody's list
        num_ended = sum(map(len, self.ends.values()))
        is_over = agenda is not None and agenda.is_over and num_ended == len(self.orders.works)
        reason = None if is_over else (self.brake.reason or "interrupted")
        done, pruned, failed = (tuple(self.ends[state]) for state in ("done", "pruned", "failed"))
        return RunResult(done, pruned, failed, reason, self.brake.message)

    def _close(self, trial: Any, state: str) -> tuple[str, str]:
        work, error = self.orders.works[trial.trial_id], newest_error(trial)
        trial_id = work.config.trial_id
        cause, message = cause_of_death(error)
        is_closed = close_attempts(
            self.store,
            {trial_id},
            state=state,
            cause=cause,
            message=message,
            traceback=None if error is None else str(error),
        )
        if not is_closed:
            # it died by its own hand, and said why
            end = read_facts(self.store).ended.get(trial_id)
            if end is not None and end["cause"]:
                return str(end["cause"]), str(end["message"])
        return cause, message

    def _end(self, trial: Any, outcome: Outcome) -> None:
        work = self.open.pop(trial.trial_id, None)
        if work is None:
            return
        self.ends[outcome.state].append(work.config.trial_id)
        self.listener.ended(work, outcome)
        if self.orders.agenda is not None:
            self.orders.agenda.ended(work, outcome)
        if self.options.fail_fast and outcome.state == "failed":
            self.brake.pull("now", "failed", "a trial failed, and --fail-fast was given")
