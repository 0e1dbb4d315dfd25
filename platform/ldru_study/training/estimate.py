"""How long a study would take on this machine: from its store where it knows, else measured."""

from __future__ import annotations

import heapq
import json
import os
import socket
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from ldru_study.errors import SpecError
from ldru_study.results.facts import Facts
from ldru_study.spec.plan import PlannedTrial, Question, StudyPlan
from ldru_study.spec.study import ResourcesConfig, StudySpec
from ldru_study.spec.trial import TrialConfig
from ldru_study.training.calibrate import CalibrationError, Cost, calibrate
from ldru_study.training.prediction import Prediction, keep_prediction, shape_of

RECORDED, MEASURED, UNKNOWN = "recorded", "measured", "unknown"


@dataclass(frozen=True)
class CellEstimate:
    """What the trials of a cell that are to run will take.

    ``trial_s`` is the median of one trial and ``total_s`` their sum, ``memory_mib`` what one adds
    to its process; None where it is not known. ``source`` is ``recorded`` for times of this store
    and this machine, ``measured`` for a calibration now, ``unknown`` when that failed.
    """

    cell: str
    num_trials: int
    trial_s: float | None
    total_s: float | None
    memory_mib: float | None
    source: str


@dataclass(frozen=True)
class Estimate:
    """What is left of a study, ``at_once`` trials at a time.

    ``total_s`` counts the trials alone, without the start and the end of Ray, and leaves out those
    of unknown length; ``memory_mib`` is that of the largest trial and its process, ``at_once``
    times, or that of the tensors where trials take GPUs. It is None when no trial was measured.
    """

    cells: tuple[CellEstimate, ...]
    at_once: int
    total_s: float
    memory_mib: float | None


def estimate_plan(
    spec: StudySpec, plan: StudyPlan, facts: Facts, announce: Callable[[str], None]
) -> Estimate:
    """Estimate what is left of a study on this machine.

    Shapes that the store has no times of are measured side by side, as many as would run at once,
    so that they get in each other's way as the trials would. What was measured is kept in the
    store, where the first steps of a trial are compared with it.

    Args:
        spec: a valid study.
        plan: what is left of it.
        facts: what its store knows.
        announce: told of every measurement, in one line.

    Raises:
        SpecError: this machine cannot run a single trial.
        StoreError: what was measured cannot be kept.
    """
    workers = max((trial.config.train.workers for trial in plan.to_run), default=1)
    places = _places(spec, workers)
    at_once = min(places // workers, max(1, len(plan.to_run)))
    recorded = _recorded(facts, spec.file.resources)
    known = {
        trial.trial_id: statistics.median(times)
        for trial in plan.in_state("train")
        if (times := recorded.get((_cell(trial.config), frozenset(trial.missing))))
    }
    others = [trial for trial in plan.to_run if trial.trial_id not in known]
    # every worker is measured by itself, in the company that it will have
    cost_of = _costs(spec, others, at_once * workers, announce)
    for trial in others:
        if cost := cost_of[trial.trial_id]:
            prediction = Prediction(cost.steps_s, cost.memory_mib, socket.gethostname())
            keep_prediction(facts.store, trial.config, prediction)
    seconds: dict[str, tuple[float | None, str]] = {
        trial_id: (time, RECORDED) for trial_id, time in known.items()
    }
    seconds |= {trial.trial_id: _seconds(trial, cost_of[trial.trial_id]) for trial in others}
    sizes = [
        trial.config.train.workers * (cost.process_mib + cost.memory_mib)
        for trial in others
        if (cost := cost_of[trial.trial_id])
    ]
    in_order = [seconds[trial.trial_id][0] or 0.0 for trial in _in_order(spec, plan)]
    return Estimate(
        cells=tuple(_cell_estimates(plan, seconds, cost_of)),
        at_once=at_once,
        total_s=_makespan(in_order, at_once),
        memory_mib=at_once * max(sizes) if sizes else None,
    )


def _places(spec: StudySpec, workers: int) -> int:
    """Return how many workers this machine has room for, if it is a trial at least."""
    resources = spec.file.resources
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    limits = []
    for field, here in (("cpus", cpus), ("gpus", torch.cuda.device_count())):
        wanted = getattr(resources, field)
        if wanted * workers > here:
            each = f" ({workers} workers x {wanted:g})" if workers > 1 else ""
            problem = (
                f"resources.{field}: a trial wants {wanted * workers:g}{each}, "
                f"this machine has {here}."
            )
            advice = "Lower it, or estimate on the machine that is to run it."
            raise SpecError(spec.name, [f"{problem} {advice}"])
        if wanted:
            # 0.1 goes ten times into 1, whatever the last bit says
            limits.append(int(here / wanted + 1e-9))
    return min(limits)


def _cell(config: TrialConfig) -> str:
    """Return what the trials of a cell have in common, in every study."""
    return json.dumps(config.model_dump(mode="json") | {"seed": None}, sort_keys=True)


def _recorded(
    facts: Facts, resources: ResourcesConfig
) -> dict[tuple[str, frozenset[Question]], list[float]]:
    """Return the seconds of whole trials, by cell and questions, on this machine and share of it.

    Whole are attempts that were the first at their trial: others found work done already.
    """
    answered: dict[str, set[Question]] = {}
    for row in facts.evaluations.to_pylist():
        question = Question(row["length"], row["num_total"], row["eval_seed"])
        answered.setdefault(row["attempt_id"], set()).add(question)
    attempts = facts.attempts.to_pylist()
    configs = {row["attempt_id"]: row["config"] for row in attempts if row["event"] == "start"}
    first = {attempts[0] for attempts in facts.started.values()}
    found: dict[tuple[str, frozenset[Question]], list[float]] = {}
    for row in attempts:
        attempt_id = row["attempt_id"]
        is_whole = row["state"] == "done" and attempt_id in first and attempt_id in configs
        if not is_whole or row["host"] != socket.gethostname():
            continue
        # read as today's: fields that it was written without have their defaults
        config = TrialConfig.model_validate_json(configs[attempt_id])
        workers = config.train.workers
        if (row["cpus"], row["gpus"]) == (resources.cpus * workers, resources.gpus * workers):
            key = (_cell(config), frozenset(answered.get(attempt_id, ())))
            found.setdefault(key, []).append(row["seconds"])
    return found


def _costs(
    spec: StudySpec,
    trials: Sequence[PlannedTrial],
    at_once: int,
    announce: Callable[[str], None],
) -> dict[str, Cost | None]:
    """Measure each shape once; return the costs by trial, None for what cannot be measured."""
    resources = spec.file.resources
    shapes: dict[str, list[PlannedTrial]] = {}
    for trial in trials:
        shapes.setdefault(shape_of(trial.config), []).append(trial)

    def measured(alike: Sequence[PlannedTrial]) -> Cost:
        return calibrate(
            alike[0].config,
            sorted({question for trial in alike for question in trial.missing}),
            torch.device("cuda" if resources.gpus else "cpu"),
            threads=max(1, int(resources.cpus)),
            validation_strings=spec.file.evaluate.validation_strings,
        )

    cost_of: dict[str, Cost | None] = {}
    with ThreadPoolExecutor(at_once) as pool:
        jobs = {pool.submit(measured, alike): alike for alike in shapes.values()}
        for number, job in enumerate(as_completed(jobs), start=1):
            name = f"[{number}/{len(jobs)}] {_name(jobs[job])}"
            cost: Cost | None = None
            try:
                cost = job.result()
                announce(f"{name}: measured")
            except CalibrationError as error:
                announce(f"{name}: {error}")
            cost_of |= {trial.trial_id: cost for trial in jobs[job]}
    return cost_of


def _name(alike: Sequence[PlannedTrial]) -> str:
    first, *more = dict.fromkeys(trial.cell.key for trial in alike)
    return f"{first} and {len(more)} alike" if more else first


def _seconds(trial: PlannedTrial, cost: Cost | None) -> tuple[float | None, str]:
    if cost is None:
        return None, UNKNOWN
    training = cost.training_s(trial.config.train) if trial.state == "train" else 0.0
    return training + cost.evaluation_s(trial.missing), MEASURED


def _cell_estimates(
    plan: StudyPlan,
    seconds: Mapping[str, tuple[float | None, str]],
    cost_of: Mapping[str, Cost | None],
) -> list[CellEstimate]:
    trials_of: dict[str, list[PlannedTrial]] = {}
    for trial in plan.to_run:
        trials_of.setdefault(trial.cell.key, []).append(trial)
    found = []
    for cell, trials in trials_of.items():
        each = [seconds[trial.trial_id] for trial in trials]
        known = [value for value, _ in each if value is not None]
        costs = [cost for trial in trials if (cost := cost_of.get(trial.trial_id))]
        found.append(
            CellEstimate(
                cell=cell,
                num_trials=len(trials),
                trial_s=statistics.median(known) if known else None,
                total_s=sum(known) if len(known) == len(each) else None,
                memory_mib=max((cost.memory_mib for cost in costs), default=None),
                source=", ".join(sorted({source for _, source in each})),
            )
        )
    return found


def _in_order(spec: StudySpec, plan: StudyPlan) -> list[PlannedTrial]:
    """Return the trials as a submit would start them: the first seed of every cell first."""
    rank = {seed: number for number, seed in enumerate(spec.file.seeds)}
    return sorted(plan.to_run, key=lambda trial: rank.get(trial.config.seed, -1))


def _makespan(seconds: Sequence[float], at_once: int) -> float:
    """Return when the last is over if each starts as soon as a place is free."""
    free = [0.0] * at_once
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)
