"""A study with nothing left to look up: every cell with its configuration, questions and trials."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from ldru_study.spec.plan import StudyPlan
from ldru_study.spec.study import StudySpec


def resolved(spec: StudySpec, plan: StudyPlan) -> dict[str, Any]:
    """Return what the store keeps of a study, as JSON values.

    What the trials of a cell share is written once: ``config`` lacks only the seed, a question is
    ``[length, num_total, eval_seed]``, and ``trial_ids`` are in the order of ``seeds``.
    """
    file = spec.file
    cells = [
        {
            "cell": cell.key,
            "axes": dict(cell.axes),
            "config": cell.config.model_dump(mode="json", exclude={"seed"}),
            "questions": [[q.length, q.num_total, q.eval_seed] for q in trials[0].questions],
            "trial_ids": [trial.trial_id for trial in trials],
        }
        for cell, group in groupby(plan.trials, key=lambda trial: trial.cell)
        if (trials := list(group))
    ]
    return {
        "study": spec.name,
        "question": file.question,
        "changes": list(spec.changes),
        "evaluate": file.evaluate.model_dump(mode="json"),
        "analysis": file.analysis.model_dump(mode="json"),
        "resources": file.resources.model_dump(mode="json"),
        "seeds": list(file.seeds),
        "cells": cells,
    }
