"""From a store's rows to the curves of a study: the only place where analysis reads files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.verdict import VerdictSettings
from ldru_study.results.query import Database
from ldru_study.results.store import Store

_COUNTS = ("lengths", "num_correct", "num_total", "chance")


@dataclass(frozen=True)
class Failure:
    """A trial whose newest attempt failed; ``seed`` and ``cell`` say which, ``cause`` why."""

    cell: str
    seed: int
    cause: str
    message: str
    traceback: str


@dataclass(frozen=True)
class StudyCounts:
    """What a store holds of one study.

    Args:
        name: the study.
        question: what it asks, may be ''.
        cells: every cell of the grid in its order, also those without a single result.
        settings: where the study draws the lines of its verdicts.
        states: trials in each state.
        failures: the trials that failed, in the order of the grid.
        damage: files of the store that were left out, as messages.
    """

    name: str
    question: str
    cells: tuple[CellCurves, ...]
    settings: VerdictSettings
    states: Mapping[str, int]
    failures: tuple[Failure, ...]
    damage: tuple[str, ...]


def collect(store: Store, study: str) -> StudyCounts:
    """Read every count that the study asks for and the store holds.

    Raises:
        NotFoundError: the store holds no such study.
        StoreError: the study's own files are damaged, or the store cannot be read.
    """
    asked = store.study(study)
    database = Database(store)
    trials = {
        row["trial_id"]: row
        for row in database.rows(
            "select trial_id, state, cause from trials where study = $study", study=study
        )
    }
    curves = _curves(database, study, asked["trials"])
    cells: dict[str, list[dict[str, Any]]] = {}
    for trial in asked["trials"]:
        cells.setdefault(trial["cell"], []).append(trial)
    states = [row["state"] for row in trials.values()]
    analysis = asked["analysis"]
    return StudyCounts(
        name=study,
        question=asked["question"],
        cells=tuple(_cell(key, mine, curves, trials) for key, mine in cells.items()),
        settings=VerdictSettings(
            sharp_ratio=analysis["sharp_ratio"],
            learned_level=analysis["learned_level"],
            near_perfect=analysis["near_perfect"],
        ),
        states={state: states.count(state) for state in sorted(set(states))},
        failures=_failures(database, asked["trials"], trials),
        damage=tuple(map(str, database.damage)),
    )


def _curves(database: Database, study: str, trials: list[dict[str, Any]]) -> dict[str, LengthCurve]:
    rows = database.rows(
        "select trial_id, list(length) as lengths, list(num_correct) as num_correct, "
        "list(num_total) as num_total, list(chance) as chance "
        "from evaluations where study = $study group by trial_id",
        study=study,
    )
    configs = {trial["trial_id"]: trial["config"] for trial in trials}
    return {
        row["trial_id"]: LengthCurve(
            seed=configs[row["trial_id"]]["seed"],
            train_max_length=configs[row["trial_id"]]["train"]["max_length"],
            **{name: row[name] for name in _COUNTS},
        )
        for row in rows
    }


def _cell(
    key: str,
    trials: list[dict[str, Any]],
    curves: Mapping[str, LengthCurve],
    states: Mapping[str, Mapping[str, Any]],
) -> CellCurves:
    axes = {name: shown for name, shown in trials[0]["axes"].items() if name not in _NAMED}
    return CellCurves(
        task=trials[0]["config"]["task"],
        model=trials[0]["model_label"],
        key=key,
        curves=tuple(curves[trial["trial_id"]] for trial in trials if trial["trial_id"] in curves),
        axes=axes,
        failed={
            trial["config"]["seed"]: states[trial["trial_id"]]["cause"]
            for trial in trials
            if trial["trial_id"] not in curves and states[trial["trial_id"]]["state"] == "failed"
        },
    )


_NAMED = ("task", "model")


def _failures(
    database: Database, trials: list[dict[str, Any]], states: Mapping[str, Mapping[str, Any]]
) -> tuple[Failure, ...]:
    ends = {
        row["trial_id"]: row
        for row in database.rows(
            "select trial_id, message, traceback from attempts where event = 'end' "
            "and state = 'failed' order by attempt_id"
        )
    }
    return tuple(
        Failure(
            cell=trial["cell"],
            seed=trial["config"]["seed"],
            cause=states[trial["trial_id"]]["cause"],
            message=ends[trial["trial_id"]]["message"] or "",
            traceback=ends[trial["trial_id"]]["traceback"] or "",
        )
        for trial in trials
        if states[trial["trial_id"]]["state"] == "failed"
    )
