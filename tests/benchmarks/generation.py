"""What strings cost: drawing them against training on them, and strings of 100 000 tokens.

Run it with `python tests/benchmarks/generation.py`. Times are processor seconds of one thread, so
that what else runs on the machine matters little; with --cuda trainers are timed by the clock.
Of a rnn of width 32 on one core, 8 to 10 ms a step: strings of automata take a sixteenth to a
sixtieth, those of ListOps a sixteenth when drawn as they come and a twelfth when labels are
balanced, since then a tree in nine is drawn in vain.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import click
import numpy as np
import torch

from ldru_study.spec.model import MODEL_CONFIGS
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.registry import find_task, task_names
from ldru_study.tasks.samplers import Sampling, sampler_of, samplings_of
from ldru_study.training.batches import TrainingBatches
from ldru_study.training.training import Training

LENGTH, BATCH, LONG = 40, 256, 100_000


def median_s(call: Callable[[], object], clock: Callable[[], float], budget_s: float) -> float:
    """Return the median seconds of one call, after one that is not counted."""
    call()
    seconds: list[float] = []
    while len(seconds) < 5 or sum(seconds) < budget_s:
        begun = clock()
        call()
        seconds.append(clock() - begun)
    return statistics.median(seconds)


def trial(task: str, sampling: Sampling, model: dict[str, object]) -> TrialConfig:
    """Return a trial whose batches all have strings of the length that is measured."""
    length = sampler_of(task, sampling).nearest_covered(LENGTH)
    train = {
        "max_length": length,
        "min_length": length,
        "batch_size": BATCH,
        "steps": 10**6,
    }
    return TrialConfig.model_validate(
        {"task": task, "sampling": sampling, "model": model, "train": train}
    )


def trainer_s(kind: str, width: int, device: torch.device, budget_s: float) -> float:
    """Return the seconds of one optimiser step, the drawing of its batch aside."""
    fields = MODEL_CONFIGS[kind].model_fields
    model: dict[str, object] = {"kind": kind}
    if "width" in fields:
        model["width"] = width
    if "layers" in fields:
        model["layers"] = 1
    config = trial("parity_check", "balanced", model)
    training = Training(config, device)

    def step() -> None:
        training.advance()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    clock = time.perf_counter if device.type == "cuda" else time.process_time
    # batches are drawn many at once: the step between others draws none
    return median_s(step, clock, budget_s)


def drawing_s(config: TrialConfig, budget_s: float) -> float:
    """Return the seconds of one batch where steps follow each other, as in training."""
    batches, steps = TrainingBatches(config), itertools.count()

    def draw() -> None:
        for _ in range(batches.num_ahead):
            batches.at(next(steps))

    return median_s(draw, time.process_time, budget_s) / batches.num_ahead


@click.command()
@click.option("--budget", "budget_s", default=0.2, help="Seconds per measurement.")
@click.option("--width", default=32, help="Of every trainer; 32 is as small as anyone trains.")
@click.option("--cuda", "on_cuda", is_flag=True, help="Train on the GPU.")
@click.option("--task", "tasks", multiple=True, help="Only these; repeatable.")
def main(budget_s: float, width: int, on_cuda: bool, tasks: tuple[str, ...]) -> None:
    """Measure every kind of trainer, then every task and sampling against the fastest."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if on_cuda else "cpu")
    kinds = [kind for kind in sorted(MODEL_CONFIGS) if kind != "constant"]
    steps = {kind: trainer_s(kind, width, device, budget_s) for kind in kinds}
    for kind, seconds in sorted(steps.items(), key=lambda item: item[1]):
        click.echo(f"trainer {kind:<14} {1e3 * seconds:8.2f} ms per step of {BATCH} x {LENGTH}")
    fastest = min(steps.values())
    click.echo(f"{'task':<30} {'sampling':<9} {'ms/batch':>8} {'x trainer':>9} {'s/100 000':>9}")
    ratios = []
    for task in tasks or task_names():
        for sampling in samplings_of(task):
            config = trial(task, sampling, {"kind": "constant"})
            drawing = drawing_s(config, budget_s)
            ratios.append(fastest / drawing)
            long = _long_s(task, sampling)
            click.echo(
                f"{task:<30} {sampling:<9} {1e3 * drawing:8.2f} {ratios[-1]:9.1f} "
                + (f"{long:9.1f}" if long is not None else f"{'-':>9}")
            )
    share = np.mean(np.array(ratios) >= 10)
    click.echo(
        f"slowest {min(ratios):.1f} x, median {np.median(ratios):.1f} x; {share:.0%} >= 10 x"
    )


def _long_s(task: str, sampling: Sampling) -> float | None:
    """Return the seconds for 8 strings of 100 000 tokens, tables and labels included."""
    if not find_task(task).is_regular:
        return None
    sampler = sampler_of.__wrapped__(task, sampling)
    begun = time.process_time()
    sampler.sample(np.full(8, sampler.nearest_covered(LONG)), np.random.default_rng(0))
    return time.process_time() - begun


if __name__ == "__main__":
    main()
