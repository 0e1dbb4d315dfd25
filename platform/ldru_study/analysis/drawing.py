"""How test strings were drawn and how their chance is known, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from ldru_study.tasks.registry import find_task
from ldru_study.tasks.samplers import Sampling, is_chance_exact
from ldru_study.tasks.trees import LONGEST_EXACT

# a task and the sampling of its strings
Draw = tuple[str, str]
_REGULAR = {
    "balanced": "every class equally often, uniformly among its strings of that length",
    "hard": "every class equally often, those of a task that accepts or rejects as uniform "
    "accepted strings and as near misses of them, the others as strings that turn to their class "
    "late",
}
# under `paper` sampling by `Task.paper`
_PAPER = {
    "uniform": "uniformly among all strings of that length, so that classes are as frequent as "
    "they happen to be",
    "half_accepted": "half of them accepted, where a string of that length is, the others uniform "
    "strings, which a short window mostly tells from the accepted ones",
    "half_walks": "every class that exists at that length equally often, by random walks through "
    "the automaton, which are not uniform",
}
_TREES = {
    "balanced": "every answer equally often, among random expression trees of that length",
    "paper": "random expression trees of that length, so that answers are as frequent as they "
    "happen to be",
}
# tasks that are named one by one; of more only the number is said
_MOST_NAMED = 4


def how_drawn(draws: Iterable[Draw]) -> str:
    """Say how strings were drawn, a clause for each sampling: "balanced: every class ...".

    Tasks are named where one sampling draws them in several ways.

    Args:
        draws: of every cell.

    Raises:
        UnknownNameError: there is no such task.
    """
    ways: dict[str, dict[str, list[str]]] = {}
    for task, sampling in sorted(set(draws)):
        ways.setdefault(sampling, {}).setdefault(_way(task, sampling), []).append(task)
    clauses = []
    for sampling, found in sorted(ways.items()):
        for way, tasks in found.items():
            where = f" on {_named(tasks)}" if len(found) > 1 else ""
            clauses.append(f"{sampling}{where}: {way}")
    return "; ".join(clauses)


def how_chance_is_known(draws: Iterable[Draw]) -> str:
    """Say whether chance is computed or estimated, and of which tasks.

    Raises:
        UnknownNameError: there is no such task.
    """
    found = sorted(set(draws))
    estimated = [d for d in found if not is_chance_exact(d[0], cast("Sampling", d[1]))]
    computed = "computed exactly"
    if not estimated:
        return computed
    tasks = _named(sorted({task for task, _ in estimated}))
    said = (
        f"beyond {LONGEST_EXACT} tokens, and at rare lengths, under paper sampling of {tasks}, "
        "which has no automaton here, estimated from strings that are drawn for it"
    )
    return f"{computed}; {said}"


def _way(task: str, sampling: str) -> str:
    found = find_task(task)
    if not found.is_regular:
        return _TREES[sampling]
    return _PAPER[found.paper] if sampling == "paper" else _REGULAR[sampling]


def _named(tasks: list[str]) -> str:
    labels = [find_task(task).label for task in tasks]
    return ", ".join(labels) if len(labels) <= _MOST_NAMED else f"{len(labels)} tasks"
