"""A study with nothing left to look up: every cell with its configuration, questions and trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldru_study.spec.plan import CellPlan, Question, StudyPlan
from ldru_study.spec.study import StudySpec


def resolved(spec: StudySpec, plan: StudyPlan) -> dict[str, Any]:
    """Return what the store keeps of a study, as JSON values.

    What the trials of a cell share is written once: ``config`` lacks only the seed, a question is
    ``[length, num_total, eval_seed]``, and ``trial_ids`` are in the order of ``seeds``. While a
    cell's search goes on it has no ``trial_ids``; then ``config`` is what won.
    """
    file = spec.file
    return {
        "study": spec.name,
        "question": file.question,
        "changes": list(spec.changes),
        "evaluate": file.evaluate.model_dump(mode="json"),
        "analysis": file.analysis.model_dump(mode="json"),
        "objective": None if file.search is None else list(file.search.objective),
        "resources": file.resources.model_dump(mode="json"),
        "seeds": list(file.seeds),
        "cells": [_cell(planned) for planned in plan.cells],
    }


def renamed_cells(record: Mapping[str, Any], plan: StudyPlan) -> list[str]:
    """Return the cells whose trials or search another version of the platform knew by other ids.

    A cell that is not in the record is none of them.

    Args:
        record: what `resolved` said of the study when it was submitted.
        plan: of the same study now.
    """
    known = {cell["cell"]: _ids(cell) for cell in record["cells"]}
    now = [_cell(planned) for planned in plan.cells]
    return [cell["cell"] for cell in now if known.get(cell["cell"], _ids(cell)) != _ids(cell)]


def _ids(cell: Mapping[str, Any]) -> Any:
    # which settings win a search is no matter here
    return cell["search"]["search_id"] if "search" in cell else cell["trial_ids"]


def _cell(planned: CellPlan) -> dict[str, Any]:
    cell, search = planned.cell, planned.search
    judged = [trial for trial in planned.trials if trial.suggestion is None]
    config = judged[0].config if judged else cell.config
    found = {
        "cell": cell.key,
        "axes": dict(cell.axes),
        "config": config.model_dump(mode="json", exclude={"seed"}),
        "questions": _json(planned.questions),
        "trial_ids": [trial.trial_id for trial in judged],
    }
    if search is not None:
        found["search"] = {
            "search_id": search.search_id,
            "num_trials": search.num_trials,
            "questions": _json(search.questions),
            "is_oracle": search.is_oracle,
            "winner": search.winner and search.winner.number,
        }
    return found


def _json(questions: Sequence[Question]) -> list[list[int]]:
    return [[q.length, q.num_total, q.eval_seed] for q in questions]
