"""One early stopping per cell inside one Tuner: different tasks must not compete for a rung."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ldru_study.execution.brake import Brake
from ldru_study.spec.search import AshaConfig


class CellAsha:
    """Asynchronous successive halving among the trials of one cell.

    A trial goes on from a rung when its loss is among the best ``1 / reduction_factor`` that came
    so far; until ``reduction_factor`` have come, nobody can be said to be worse. (Ray's own
    AsyncHyperBandScheduler stops the second that comes if it is worse than the first.)

    Args:
        config: when a trial may be stopped.
        rungs: trial id -> step -> validation loss: what earlier trials reached.

    Source: Li et al. 2020, "A system for massively parallel hyperparameter tuning", algorithm 2,
    in the variant that stops instead of promoting.
    """

    def __init__(self, config: AshaConfig, rungs: Mapping[str, Mapping[int, float]]) -> None:
        self.reduction_factor = config.reduction_factor
        self._losses: dict[int, dict[str, float]] = {}
        for trial_id, losses in rungs.items():
            for step, loss in losses.items():
                self._losses.setdefault(step, {})[trial_id] = loss

    def stops(self, trial_id: str, step: int, validation_loss: float) -> bool:
        """Take in a loss at a rung; True when the trial is not good enough to go on."""
        losses = self._losses.setdefault(step, {})
        if trial_id in losses:
            # it has passed here before: a continued trial tells its rungs again
            return False
        losses[trial_id] = validation_loss
        num_kept = len(losses) // self.reduction_factor
        return num_kept > 0 and validation_loss > sorted(losses.values())[num_kept - 1]


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
