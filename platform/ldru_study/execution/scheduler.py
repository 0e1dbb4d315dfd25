"""One early stopping per cell inside one Tuner: different tasks must not compete for a rung."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from ldru_study.execution.brake import Brake
from ldru_study.spec.search import AshaConfig


@dataclass(frozen=True)
class _Runner:
    """A trial as the scheduler knows it: by its own id, which a restart does not change."""

    trial_id: str


class CellAsha:
    """Asynchronous successive halving among the trials of one cell.

    Args:
        config: when a trial may be stopped.
        steps: the steps of a whole training.
        rungs: trial id -> step -> validation loss: what earlier trials reached.
    """

    def __init__(
        self, config: AshaConfig, steps: int, rungs: Mapping[str, Mapping[int, float]]
    ) -> None:
        self._asha = AsyncHyperBandScheduler(
            time_attr="step",
            metric="validation_loss",
            mode="min",
            max_t=max(steps, config.min_steps),
            grace_period=config.min_steps,
            reduction_factor=config.reduction_factor,
        )
        self._known: set[str] = set()
        for trial_id, losses in rungs.items():
            for step, loss in sorted(losses.items()):
                self.stops(trial_id, step, loss)

    def stops(self, trial_id: str, step: int, validation_loss: float) -> bool:
        """Take in a loss at a rung; True when the trial is not good enough to go on."""
        runner = _Runner(trial_id)
        if trial_id not in self._known:
            self._known.add(trial_id)
            self._asha.on_trial_add(None, runner)
        result = {"step": step, "validation_loss": validation_loss}
        return bool(self._asha.on_trial_result(None, runner, result) == TrialScheduler.STOP)


class CellSchedulers(FIFOScheduler):  # type: ignore[misc]
    """Asks the early stopping of a trial's own cell, and starts nothing while braking.

    Args:
        stops: says for a Tune trial and its result whether it ends here.
        brake: starts no trial once it is pulled.
    """

    def __init__(self, stops: Any, brake: Brake) -> None:
        super().__init__()
        self._stops, self._brake = stops, brake

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its scheduler into a state that is thrown away
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Let a trial go on, or stop it."""
        ends = self._stops(trial, result)
        return str(TrialScheduler.STOP if ends else TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the next trial, none while braking."""
        return None if self._brake.mode else super().choose_trial_to_run(tune_controller)
