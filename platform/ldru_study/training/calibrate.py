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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import psutil
import torch

from ldru_kernels import keep_freed_memory
from ldru_study.errors import StudyError
from ldru_study.models.registry import num_parameters
from ldru_study.spec.engine import DeepSpeedEngine
from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrainConfig, TrialConfig
from ldru_study.tasks.samplers import sampler_of
from ldru_study.training.attempt import is_measured
from ldru_study.training.batches import longest_length
from ldru_study.training.evaluate import evaluate, evaluation_batch_size
from ldru_study.training.memory import peak_mib
from ldru_study.training.prediction import power_law
from ldru_study.training.training import StepResult, Training

# the first steps pay for what is made once
_WARM_UP_STEPS, _LEAST_STEPS = 3, 3
# beyond this the steps of shorter strings tell how those of longer ones grow
_LONG_TOKENS = 512
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

    ``steps_s`` maps longest training lengths, shortest first, to the median of the steps measured,
    ``validation_s`` is one validation, ``string_s`` maps lengths, shortest first, to the seconds
    that the evaluation of one string takes. Of a trial with several workers it is the cost of one
    of them, without what they say to each other. ``memory_mib`` is the peak above what the process
    held before, ``process_mib``. On a GPU it is the peak of the tensors there, and ``process_mib``
    is 0: the process is elsewhere.
    """

    steps_s: tuple[tuple[int, float], ...]
    validation_s: float
    string_s: tuple[tuple[int, float], ...]
    memory_mib: float
    process_mib: float

    def training_s(self, train: TrainConfig) -> float:
        """Return the seconds that a whole training takes, with its validations."""
        num_measured = sum(is_measured(step, train.steps) for step in range(1, train.steps + 1))
        num_steps = Counter(longest_length(train, step) for step in range(train.steps))
        steps = sum(n * power_law(self.steps_s, length) for length, n in num_steps.items())
        return steps + num_measured * self.validation_s

    def evaluation_s(self, questions: Iterable[Question]) -> float:
        """Return the seconds that answering takes."""
        return sum(q.num_total * power_law(self.string_s, q.length) for q in questions)


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
    # libraries may have printed before
    found = json.loads(done.stdout.splitlines()[-1])
    for field in ("steps_s", "string_s"):
        found[field] = tuple((length, seconds) for length, seconds in found[field])
    return Cost(**found)


def measure_cost(
    config: TrialConfig,
    questions: Sequence[Question],
    device: torch.device,
    validation_strings: int,
) -> Cost:
    """Measure in this process; the memory is right once, before anything else is done in it."""
    before = psutil.Process().memory_info().rss / _MIB
    one = one_worker(config)
    lengths = _step_lengths(one.train)
    steps_s: list[tuple[int, float]] = []
    peaks: list[tuple[int, float]] = []
    for number, length in enumerate(lengths):
        is_last = number == len(lengths) - 1
        training = Training(_up_to(one, length), device)
        num_warm_up = 1 if number else _WARM_UP_STEPS
        seconds, last = _step_seconds(training, device, num_warm_up, _BUDGET_S / len(lengths))
        # a worker has but a part of each string
        whole = min(config.train.max_length, length * config.train.sequence_parallel)
        steps_s.append((whole, seconds))
        peaks.append((whole, peak_mib(device)))
        if number and not is_last and seconds > _BUDGET_S:
            break
        if not is_last:
            training.close()
    validation_s = _timed(lambda: training.measure(last, validation_strings), device)
    string_s = _string_seconds(training.engine.scoring_model(), config, questions, device)
    before = 0.0 if device.type == "cuda" else before
    peak = max(peak_mib(device), _extended(peaks, config.train.max_length))
    spared = zero_spares_mib(config.train, num_parameters(training.model))
    training.close()
    memory = max(0.0, peak - before - spared)
    return Cost(tuple(steps_s), validation_s, string_s, memory, before)


def one_worker(config: TrialConfig) -> TrialConfig:
    """Return a trial that does alone what one worker of ``config`` does."""
    train = config.train
    size, parts = train.batch_size // train.data_parallel, train.sequence_parallel
    share = train.model_copy(
        update={
            "batch_size": size,
            "lengths_per_batch": math.gcd(train.lengths_per_batch, size),
            "max_length": -(-train.max_length // parts),
            "min_length": -(-train.min_length // parts),
            "curriculum": None,
            "data_parallel": 1,
            "sequence_parallel": 1,
        }
    )
    return config.model_copy(update={"train": share})


def zero_spares_mib(train: TrainConfig, num_weights: int) -> float:
    """Return what a worker need not hold since ZeRO shares it out, in MiB.

    Source: Rajbhandari et al. 2020, section 3.1: per weight, 12 bytes of fp32 weights and moments
    of Adam, and its gradient and itself in the precision of the training.
    """
    engine = train.engine
    if not isinstance(engine, DeepSpeedEngine):
        return 0.0
    each = 4 if engine.precision == "fp32" else 2
    moments = 16 if train.optimizer == "amsgrad" else 12
    held = (moments, each, each)[: engine.zero_stage]
    return num_weights * sum(held) * (1 - 1 / train.workers) / _MIB


def _step_lengths(train: TrainConfig) -> list[int]:
    """Return longest lengths to measure steps at: one, or doubling where strings are long."""
    lengths = [train.max_length]
    while lengths[0] > _LONG_TOKENS:
        lengths.insert(0, -(-lengths[0] // 2))
    return lengths


def _up_to(config: TrialConfig, length: int) -> TrialConfig:
    """Return a trial with strings of at most ``length``."""
    lengths = {"max_length": length, "min_length": min(config.train.min_length, length)}
    return config.model_copy(update={"train": config.train.model_copy(update=lengths)})


def _step_seconds(
    training: Training, device: torch.device, num_warm_up: int, budget_s: float
) -> tuple[float, StepResult]:
    """Return the median of some steps, and what the last of them saw."""
    for _ in range(num_warm_up):
        last = training.advance()
    steps: list[float] = []
    while len(steps) < _LEAST_STEPS or sum(steps) < budget_s:
        steps.append(_timed(training.advance, device))
        # so long that a second one would tell nothing more
        if steps[-1] > _BUDGET_S:
            break
    return statistics.median(steps), last


def _extended(peaks: Sequence[tuple[int, float]], length: int) -> float:
    """Return the peak at ``length``: beyond what was measured it grows as between the last two."""
    (x1, y1) = peaks[-1]
    if len(peaks) == 1 or length <= x1:
        return y1
    (x0, y0) = peaks[-2]
    return y1 + max(0.0, y1 - y0) / (x1 - x0) * (length - x1)


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
    sys.stdout.write(f"\n{json.dumps(asdict(cost))}\n")


if __name__ == "__main__":
    _main()
