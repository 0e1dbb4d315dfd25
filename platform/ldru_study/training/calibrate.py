"""What a trial costs, measured by doing a little of it in a process of its own.

python -m ldru_study.training.calibrate < order.json > cost.json
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from ldru_kernels import keep_freed_memory
from ldru_study.errors import StudyError
from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrainConfig, TrialConfig
from ldru_study.tasks.samplers import sampler_of
from ldru_study.training.attempt import is_measured
from ldru_study.training.evaluate import evaluate, evaluation_batch_size
from ldru_study.training.training import Training

# the first steps pay for what is made once
_WARM_UP_STEPS, _LEAST_STEPS = 3, 3
# for the steps, and again for the evaluations
_BUDGET_S = 2.0
# a calibration that takes longer says that the trial is too long for this machine
_TIMEOUT_S = 300.0
_MIB = 2**20


class CalibrationError(StudyError):
    """A configuration that cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Cost:
    """What a trial costs on this machine, by its parts.

    ``step_s`` is the median of the steps measured, ``validation_s`` one validation,
    ``string_s`` maps lengths, shortest first, to the seconds that the evaluation of one string
    takes. ``memory_mib`` is the peak above what the process held before, ``process_mib``. On a
    GPU it is the peak of the tensors there, and ``process_mib`` is 0: the process is elsewhere.
    """

    step_s: float
    validation_s: float
    string_s: tuple[tuple[int, float], ...]
    memory_mib: float
    process_mib: float

    def training_s(self, train: TrainConfig) -> float:
        """Return the seconds that a whole training takes, with its validations."""
        num_measured = sum(is_measured(step, train.steps) for step in range(1, train.steps + 1))
        return train.steps * self.step_s + num_measured * self.validation_s

    def evaluation_s(self, questions: Iterable[Question]) -> float:
        """Return the seconds that answering takes."""
        return sum(q.num_total * self._string_s(q.length) for q in questions)

    def _string_s(self, length: int) -> float:
        """Follow the power law through the two measured lengths that are nearest."""
        if len(self.string_s) == 1:
            return self.string_s[0][1]
        above = next(
            (n for n, (measured, _) in enumerate(self.string_s) if measured >= length),
            len(self.string_s) - 1,
        )
        (x0, y0), (x1, y1) = self.string_s[max(above, 1) - 1 : max(above, 1) + 1]
        slope = math.log(y1 / y0) / math.log(x1 / x0)
        # beyond what was measured no string is cheaper than a shorter one
        slope = max(slope, 0.0) if length > x1 else slope
        return y1 * math.exp(slope * math.log(length / x1))


def calibrate(
    config: TrialConfig,
    questions: Sequence[Question],
    device: torch.device,
    *,
    threads: int = 1,
    validation_strings: int = 512,
) -> Cost:
    """Measure what a trial costs, in a fresh process that ends with the measurement.

    Args:
        config: what is trained.
        questions: what it is asked; measured up to the length that a second or two allows.
        device: where.
        threads: for torch, as in the worker of a trial.
        validation_strings: as in the study.

    Raises:
        CalibrationError: the process failed or took minutes.
    """
    order = {
        "config": config.model_dump(mode="json"),
        "questions": [asdict(question) for question in questions],
        "device": str(device),
        "threads": threads,
        "validation_strings": validation_strings,
    }
    command = [sys.executable, "-m", "ldru_study.training.calibrate"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(order),
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CalibrationError(
            f"a few steps and strings took more than {_TIMEOUT_S:.0f} s. Make the model or the "
            "strings shorter, or plan on a faster machine."
        ) from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise CalibrationError(f"a few steps of it fail here: {reason}") from error
    found = json.loads(done.stdout)
    found["string_s"] = tuple((length, seconds) for length, seconds in found["string_s"])
    return Cost(**found)


def measure_cost(
    config: TrialConfig,
    questions: Sequence[Question],
    device: torch.device,
    validation_strings: int,
) -> Cost:
    """Measure in this process; the memory is right once, before anything else is done in it."""
    before = psutil.Process().memory_info().rss / _MIB
    training = Training(config, device)
    for _ in range(_WARM_UP_STEPS):
        last = training.advance()
    steps: list[float] = []
    while len(steps) < _LEAST_STEPS or sum(steps) < _BUDGET_S:
        steps.append(_timed(training.advance, device))
    validation_s = _timed(lambda: training.measure(last, validation_strings), device)
    string_s = _string_seconds(training.model, config, questions, device)
    if device.type == "cuda":
        memory, before = torch.cuda.max_memory_allocated(device) / _MIB, 0.0
    else:
        memory = max(0.0, _peak_mib() - before)
    return Cost(statistics.median(steps), validation_s, string_s, memory, before)


def _string_seconds(
    model: torch.nn.Module,
    config: TrialConfig,
    questions: Sequence[Question],
    device: torch.device,
) -> tuple[tuple[int, float], ...]:
    """Time one full batch at growing lengths, two of them at least where there are two."""
    most = max(question.num_total for question in questions)
    found: dict[int, float] = {}
    spent = 0.0
    for length in _anchors(config, sorted(question.length for question in questions)):
        num_strings = evaluation_batch_size(length, most)
        # per string, a length twice as large may cost four times as much
        if len(found) >= 2 and spent + 4 * num_strings * max(found.values()) > _BUDGET_S:
            break
        question = Question(length, num_strings, 0)
        if not found:
            # the first pays for what is made once
            evaluate(model, config, question, device)
        seconds = _timed(lambda: evaluate(model, config, question, device), device)  # noqa: B023
        found[length] = seconds / num_strings
        spent += seconds
    return tuple(found.items())


def _anchors(config: TrialConfig, lengths: Sequence[int]) -> list[int]:
    """Return lengths to measure at: one that is short, then doubling to the longest asked."""
    sampler, length = sampler_of(config.task, config.sampling), config.train.max_length
    anchors = {sampler.nearest_covered(min(lengths[0], length)), lengths[-1]}
    while length < lengths[-1]:
        anchors.add(sampler.nearest_covered(length))
        length *= 2
    return sorted(anchors)


def _timed(call: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _peak_mib() -> float:
    """Return the most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        # not getrusage: there a child begins with its parent's peak
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    import resource

    # kilobytes on other systems but macOS, which counts bytes
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB


def _main() -> None:
    order = json.load(sys.stdin)
    torch.set_num_threads(order["threads"])
    keep_freed_memory()
    cost = measure_cost(
        TrialConfig.model_validate(order["config"]),
        [Question(**question) for question in order["questions"]],
        torch.device(order["device"]),
        order["validation_strings"],
    )
    json.dump(asdict(cost), sys.stdout)


if __name__ == "__main__":
    _main()
