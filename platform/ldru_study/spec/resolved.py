"""A study with nothing left to look up: every trial with its configuration and questions."""

from __future__ import annotations

from typing import Any

from ldru_study.spec.plan import StudyPlan
from ldru_study.spec.study import StudySpec


def resolved(spec: StudySpec, plan: StudyPlan) -> dict[str, Any]:
    """Return what the store keeps of a study, as JSON values.

    A question is ``[length, num_total, eval_seed]``.
    """
    file = spec.file
    return {
        "study": spec.name,
        "question": file.question,
        "changes": list(spec.changes),
        "evaluate": file.evaluate.model_dump(mode="json"),
        "analysis": file.analysis.model_dump(mode="json"),
        "resources": file.resources.model_dump(mode="json"),
        "trials": [
            {
                "trial_id": trial.trial_id,
                "cell": trial.cell.key,
                "model_label": trial.cell.axes["model"],
                "axes": dict(trial.cell.axes),
                "suggestion": trial.suggestion,
                "config": trial.config.model_dump(mode="json"),
                "questions": [[q.length, q.num_total, q.eval_seed] for q in trial.questions],
            }
            for trial in plan.trials
        ],
    }
