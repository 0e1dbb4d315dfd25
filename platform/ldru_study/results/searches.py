"""What the searches of a study have suggested, and the objectives that came of it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ldru_study.results.facts import Facts, read_facts
from ldru_study.results.rows import newest, rows_of_trials
from ldru_study.results.store import Store
from ldru_study.spec.grid import Cell
from ldru_study.spec.plan import Holdings, Question, questions_of, search_questions
from ldru_study.spec.search import AshaConfig, Objective, SearchConfig
from ldru_study.spec.study import StudySpec
from ldru_study.spec.suggestions import Suggestion, num_trials, search_id
from ldru_study.spec.trial import TrialConfig

# a machine failed, not the trial: the next submit tries again
TRANSIENT = ("interrupted", "node_lost", "preempted", "store", "worker_died")


@dataclass(frozen=True)
class Measures:
    """What a search can choose by, as far as a trial's committed rows tell it.

    ``losses`` are validation losses by step; ``errors`` the shares of wrong answers by question.
    """

    last: Mapping[str, Any]
    losses: Mapping[int, float]
    errors: Mapping[Question, float]

    def rungs(self, early: AshaConfig, steps: int) -> dict[int, float]:
        """Return the losses where a training of so many steps could have been stopped."""
        return {step: self.losses[step] for step in early.rungs(steps) if step in self.losses}

    def value(self, objective: Objective, questions: Sequence[Question]) -> float:
        """Return one objective, in nats, seconds or a share of 1; smaller is better."""
        match objective:
            case "validation_loss":
                return float(self.last["validation_loss"])
            case "validation_error":
                right = self.last["validation_num_correct"] / self.last["validation_num_total"]
                return float(1 - right)
            case "train_seconds":
                return float(self.last["seconds"])
            case "associativity_defect":
                defect = self.last["associativity_defect"]
                # a model that merges nothing has no defect to choose by
                return float("inf") if defect is None else float(defect)
            case "extrapolation_error":
                return sum(self.errors[question] for question in questions) / len(questions)


def record_suggestion(
    store: Store, study: str, cell: Cell, search: SearchConfig, made: Suggestion
) -> None:
    """Write a suggestion before its trial begins, so that a resumed search knows of it.

    Raises:
        StoreError: it cannot be written.
    """
    found_by = search_id(cell.config, search)
    config = made.config
    row = {
        "search_id": found_by,
        "number": made.number,
        "study": study,
        "cell": cell.key,
        "trial_id": None if config is None else config.trial_id,
        "params": json.dumps(dict(made.params)),
        "config": None if config is None else config.model_dump_json(),
        "known": list(made.known),
        "suggested_at": datetime.datetime.now(datetime.UTC),
    }
    store.commit("suggestions", f"{found_by}-{made.number:06d}", [row])


def read_suggestions(
    store: Store, facts: Facts, spec: StudySpec
) -> dict[str, tuple[Suggestion, ...]]:
    """Return every search's suggestions in order, with the results that are committed.

    Raises:
        StoreError: the store cannot be read.
    """
    search = spec.file.search
    if search is None:
        return {}
    cells = _cells_by_search(spec, search)
    rows, _ = store.read("suggestions", cells)
    suggestions: dict[str, dict[int, Suggestion]] = {}
    for row in rows.to_pylist():
        text = row["config"]
        suggestions.setdefault(row["search_id"], {})[row["number"]] = Suggestion(
            row["number"],
            json.loads(row["params"]),
            tuple(row["known"]),
            None if text is None else TrialConfig.model_validate_json(text),
        )
    measured = read_measures(store, facts, rows["trial_id"].drop_null().to_pylist())
    found = {}
    for found_by, by_number in suggestions.items():
        cell = cells[found_by]
        judging = questions_of(cell.config, spec.file.evaluate)
        questions = search_questions(cell.config, search, judging)
        # a gap is a suggestion that was never written; what came after it cannot be led there
        whole = [by_number[n] for n in range(len(by_number)) if n in by_number]
        found[found_by] = tuple(
            with_result(one, search, questions, facts, measured) for one in whole
        )
    return found


def suggested_trials(store: Store, spec: StudySpec) -> frozenset[str]:
    """Return every trial that a study's searches have suggested.

    Raises:
        StoreError: the store cannot be read.
    """
    search = spec.file.search
    if search is None:
        return frozenset()
    rows, _ = store.read("suggestions", _cells_by_search(spec, search))
    return frozenset(rows["trial_id"].drop_null().to_pylist())


def _cells_by_search(spec: StudySpec, search: SearchConfig) -> dict[str, Cell]:
    return {
        search_id(cell.config, search): cell
        for cell in spec.cells
        if num_trials(cell.config, search)
    }


def with_result(
    made: Suggestion,
    search: SearchConfig,
    questions: Sequence[Question],
    facts: Facts,
    measured: Mapping[str, Measures],
) -> Suggestion:
    """Return the suggestion with what became of its trial."""
    if made.config is None:
        return replace(made, state="failed")
    trial_id = made.config.trial_id
    steps = made.config.train.steps
    measures = measured.get(trial_id)
    rungs: dict[int, float] = {}
    if measures is not None and search.early_stopping is not None:
        rungs = measures.rungs(search.early_stopping, steps)
    if (
        measures is not None
        and measures.last["step"] == steps
        and all(question in measures.errors for question in questions)
    ):
        values = tuple(measures.value(name, questions) for name in search.objective)
        return replace(made, state="done", values=values, rungs=rungs)
    end = facts.ended.get(trial_id)
    if trial_id in facts.beats or end is None or end["state"] not in ("failed", "pruned"):
        return replace(made, rungs=rungs)
    if end["state"] == "pruned":
        return replace(made, state="pruned", rungs=rungs)
    if end["cause"] in TRANSIENT:
        return replace(made, rungs=rungs)
    state = "diverged" if end["cause"] == "diverged" else "failed"
    return replace(made, state=state, rungs=rungs)


def read_measures(store: Store, facts: Facts, trial_ids: Sequence[str]) -> dict[str, Measures]:
    """Return what the committed rows of these trials say, for those that have a training curve.

    Raises:
        StoreError: the store cannot be read.
    """
    wanted = set(trial_ids)
    metrics, _ = store.read("metrics", wanted)
    metrics = newest(metrics, ("step",))
    rows = rows_of_trials(facts.evaluations, wanted)
    answers: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        answers.setdefault(row["trial_id"], []).append(row)
    curves: dict[str, list[dict[str, Any]]] = {}
    for row in metrics.to_pylist():
        curves.setdefault(row["trial_id"], []).append(row)
    return {
        trial_id: _measures(curve, answers.get(trial_id, [])) for trial_id, curve in curves.items()
    }


def measures_of(
    store: Store, trial_id: str, attempt_id: str | None, steps: Sequence[int]
) -> Measures | None:
    """Return what is committed of one trial, None without a training curve.

    Args:
        store: where it is.
        trial_id: the trial.
        attempt_id: the attempt that trained it, if that is known: then only its files are read.
        steps: where that attempt committed its curve, if it came so far.

    Raises:
        StoreError: the store cannot be read.
    """
    name = f"{trial_id}-{attempt_id}"
    curves = [store.read_one("metrics", f"{name}-{step}") for step in steps]
    rows = [row for curve in curves if curve is not None for row in curve.to_pylist()]
    # the files come in the order of the steps: before the last one none is missing by itself
    num_files = max((n for n, curve in enumerate(curves, 1) if curve is not None), default=0)
    if rows and all(curve is not None for curve in curves[:num_files]):
        answers = store.read_one("evaluations", name)
        return _measures(rows, [] if answers is None else answers.to_pylist())
    # an earlier attempt trained it, or the files have been compacted since
    return read_measures(store, read_facts(store, [trial_id]), [trial_id]).get(trial_id)


def _measures(curve: list[dict[str, Any]], answers: list[dict[str, Any]]) -> Measures:
    return Measures(
        last=max(curve, key=lambda row: int(row["step"])),
        losses={row["step"]: row["validation_loss"] for row in curve},
        errors={
            Question(row["length"], row["num_total"], row["eval_seed"]): 1
            - row["num_correct"] / row["num_total"]
            for row in answers
        },
    )


def holdings_for(store: Store, facts: Facts, spec: StudySpec) -> Holdings:
    """Return what planning a study needs of its store.

    Raises:
        StoreError: the store cannot be read.
    """
    return replace(facts.holdings, searches=read_suggestions(store, facts, spec))
