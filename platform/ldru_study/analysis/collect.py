"""From a store's rows to the curves of a study: the only place where analysis reads files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.verdict import VerdictSettings
from ldru_study.results.query import Database
from ldru_study.results.store import Store

# field of a curve, column of evaluations
_COUNTS = (
    ("lengths", "length"),
    ("num_correct", "num_correct"),
    ("num_total", "num_total"),
    ("chance", "chance"),
)


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
    return counts_of(Database(store, [study]), study)


def counts_of(database: Database, study: str) -> StudyCounts:
    """Return the counts of one of a database's studies."""
    asked = database.studies[study]
    trials = database.rows(
        "select cell, seed, trial_id, state, cause, suggestion, "
        "train.max_length as train_max_length "
        "from trials where study = $study",
        study=study,
    )
    states = Counter(trial["state"] for trial in trials)
    # a setting that a search tried and that failed is a result of the search
    trials = [trial for trial in trials if trial["suggestion"] is None]
    curves = _curves(database, study, trials)
    of_cell: dict[str, list[dict[str, Any]]] = {cell["cell"]: [] for cell in asked["cells"]}
    for trial in trials:
        of_cell[trial["cell"]].append(trial)
    analysis = asked["analysis"]
    return StudyCounts(
        name=study,
        question=asked["question"],
        cells=tuple(
            _cell(cell, of_cell[cell["cell"]], curves, len(asked["seeds"]))
            for cell in asked["cells"]
        ),
        settings=VerdictSettings(
            sharp_ratio=analysis["sharp_ratio"],
            learned_level=analysis["learned_level"],
            near_perfect=analysis["near_perfect"],
        ),
        states=dict(sorted(states.items())),
        failures=_failures(database, trials),
        damage=tuple(map(str, database.damage)),
    )


def _curves(database: Database, study: str, trials: list[dict[str, Any]]) -> dict[str, LengthCurve]:
    counts = ", ".join(f"list({column} order by length) as {name}" for name, column in _COUNTS)
    rows = database.rows(
        f"select trial_id, {counts} from evaluations where study = $study group by trial_id",
        study=study,
    )
    counts_of = {row.pop("trial_id"): row for row in rows}
    return {
        trial["trial_id"]: LengthCurve(
            seed=trial["seed"],
            train_max_length=trial["train_max_length"],
            **counts_of[trial["trial_id"]],
        )
        for trial in trials
        if trial["trial_id"] in counts_of
    }


def _cell(
    cell: Mapping[str, Any],
    trials: list[dict[str, Any]],
    curves: Mapping[str, LengthCurve],
    num_seeds: int,
) -> CellCurves:
    return CellCurves(
        task=cell["axes"]["task"],
        model=cell["axes"]["model"],
        key=cell["cell"],
        curves=tuple(curves[trial["trial_id"]] for trial in trials if trial["trial_id"] in curves),
        chosen_by=_chosen_by(cell),
        config=cell["config"],
        axes={name: shown for name, shown in cell["axes"].items() if name not in _NAMED},
        failed={
            trial["seed"]: trial["cause"]
            for trial in trials
            if trial["trial_id"] not in curves and trial["state"] == "failed"
        },
        # while a search goes on, its cell has no trials yet
        num_unfinished=sum(trial["state"] not in ("done", "failed") for trial in trials)
        if trials
        else num_seeds,
    )


def _chosen_by(cell: Mapping[str, Any]) -> str | None:
    search = cell.get("search")
    return search and ("oracle" if search["is_oracle"] else "search")


_NAMED = ("task", "model")


def _failures(database: Database, trials: list[dict[str, Any]]) -> tuple[Failure, ...]:
    ends = database.facts.ended
    return tuple(
        Failure(
            cell=trial["cell"],
            seed=trial["seed"],
            cause=trial["cause"],
            message=ends[trial["trial_id"]]["message"] or "",
            traceback=ends[trial["trial_id"]]["traceback"] or "",
        )
        for trial in trials
        if trial["state"] == "failed"
    )
