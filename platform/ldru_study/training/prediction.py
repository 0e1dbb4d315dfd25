"""What a step was predicted to cost, kept in the store until the first steps show it. No torch."""

from __future__ import annotations

import hashlib
import json
import math
import socket
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ldru_study.results.store import Store
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.registry import find_task

# lengths, shortest first, each with what was measured at it
Points = Sequence[tuple[int, float]]

_FOLDER = "predictions"
# off by more than this is worth a word
_FACTOR = 1.5
# differences below this are the allocator's
_SMALL_MIB = 64.0
# the first steps pay for what is made once; lengths vary, so several are needed, if time allows
_WARM_UP_STEPS, _NUM_STEPS, _PATIENCE_S = 3, 10, 30.0


@dataclass(frozen=True)
class Prediction:
    """What `plan --estimate` measured on ``host`` for a worker of a trial.

    ``steps_s`` maps longest lengths to the seconds of a step, ``memory_mib`` is the peak above
    what the process held before.
    """

    steps_s: tuple[tuple[int, float], ...]
    memory_mib: float
    host: str

    def step_s(self, length: int) -> float:
        """Return the seconds of a step on strings of up to ``length`` tokens."""
        return power_law(self.steps_s, length)


def power_law(points: Points, length: int) -> float:
    """Follow the power law through the two measured lengths that are nearest."""
    if len(points) == 1:
        return points[0][1]
    above = next(
        (n for n, (measured, _) in enumerate(points) if measured >= length), len(points) - 1
    )
    (x0, y0), (x1, y1) = points[max(above, 1) - 1 : max(above, 1) + 1]
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    # beyond what was measured nothing is cheaper than what is shorter
    slope = max(slope, 0.0) if length > x1 else slope
    return y1 * math.exp(slope * math.log(length / x1))


def shape_of(config: TrialConfig) -> str:
    """Return what decides the cost of a trial, as text: of its task, only the sizes."""
    task, parts = find_task(config.task), config.model_dump(mode="json")
    return json.dumps([parts["model"], parts["train"], task.num_symbols, task.num_classes])


def keep_prediction(store: Store, config: TrialConfig, prediction: Prediction) -> None:
    """Keep what was predicted for trials of a shape on this machine.

    Raises:
        StoreError: the store cannot be written.
    """
    data = json.dumps({"shape": shape_of(config), **asdict(prediction)}).encode()
    store.files.write(f"{_FOLDER}/{_file_name(shape_of(config), prediction.host)}", data)


def kept_predictions(store: Store) -> dict[str, Prediction]:
    """Return the predictions for this machine, by shape; a damaged one is none.

    Raises:
        StoreError: the store cannot be read.
    """
    found = {}
    host = socket.gethostname()
    for entry in store.files.list(_FOLDER):
        try:
            raw = json.loads(store.files.read(entry.name))
            steps_s = tuple((int(length), float(time)) for length, time in raw["steps_s"])
            if raw["host"] == host:
                found[raw["shape"]] = Prediction(steps_s, float(raw["memory_mib"]), host)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue
    return found


def _file_name(shape: str, host: str) -> str:
    return f"{hashlib.sha256(f'{host} {shape}'.encode()).hexdigest()[:16]}.json"


class FirstSteps:
    """Compares what the first steps took with what was predicted.

    Args:
        prediction: None, or one of another machine, is compared with nothing.
    """

    def __init__(self, prediction: Prediction | None) -> None:
        is_ours = prediction is not None and prediction.host == socket.gethostname()
        self._prediction = prediction if is_ours else None
        self._num_seen, self._spent_s = 0, 0.0
        self._ratios: list[float] = []

    @property
    def are_open(self) -> bool:
        """Whether further steps are waited for."""
        return self._prediction is not None

    def take_in(
        self, num_steps: int, seconds: float, length: int, memory_mib: float | None
    ) -> str | None:
        """Take in steps that were made together.

        Args:
            num_steps: how many.
            seconds: what they took.
            length: the longest strings that they could draw.
            memory_mib: the peak so far, None where it cannot be told.

        Returns:
            Once, what was wrong with the prediction; None before, and when it was right.
        """
        if self._prediction is None:
            return None
        if self._num_seen >= _WARM_UP_STEPS or seconds > _PATIENCE_S:
            ratio = seconds / num_steps / self._prediction.step_s(length)
            self._ratios += [ratio] * num_steps
        self._num_seen += num_steps
        self._spent_s += seconds
        if not self._ratios or (len(self._ratios) < _NUM_STEPS and self._spent_s < _PATIENCE_S):
            return None
        prediction, self._prediction = self._prediction, None
        ratio, words = statistics.median(self._ratios), []
        if not 1 / _FACTOR <= ratio <= _FACTOR:
            step_s = prediction.step_s(length)
            words.append(f"a step takes {ratio * step_s:.3g} s, predicted were {step_s:.3g} s")
        predicted = prediction.memory_mib
        # a process that has worked before needs less, so only more than predicted tells something
        if memory_mib is not None and memory_mib > max(_FACTOR * predicted, predicted + _SMALL_MIB):
            words.append(f"it holds {memory_mib:.0f} MiB, predicted were {predicted:.0f} MiB")
        return f"unlike `plan --estimate` said: {'; '.join(words)}" if words else None
