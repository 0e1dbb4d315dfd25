"""The searches of a study as Optuna studies, for optuna-dashboard and Optuna's own tools."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from ldru_study.errors import StudyError
from ldru_study.execution.search import distribution_of, external
from ldru_study.spec.plan import PlannedSearch
from ldru_study.spec.study import StudySpec
from ldru_study.spec.suggestions import space_of

_STATES = {
    "done": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}


def export_searches(searches: Sequence[PlannedSearch], spec: StudySpec, path: Path) -> None:
    """Write one Optuna study per cell into a new SQLite file.

    Suggestions without a result are left out: nobody will ever tell Optuna how they end.

    Raises:
        StudyError: the file is there already, or cannot be written.
    """
    if path.exists():
        raise StudyError(f"{path}: is there already. Remove it, or give another name.")
    assert spec.file.search is not None  # noqa: S101 - our own invariant
    objectives = list(spec.file.search.objective)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    except Exception as error:
        raise StudyError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from error
    for search in searches:
        study = optuna.create_study(
            storage=storage,
            study_name=f"{spec.name}/{search.cell.key}",
            directions=["minimize"] * len(objectives),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([str(name) for name in objectives])
        if search.is_oracle:
            study.set_user_attr("oracle selection", "chosen on lengths that also judge")
        space = space_of(search.cell.config, spec.file.search)
        for one in search.suggestions:
            if not one.is_over:
                continue
            finite = one.values is not None and all(map(math.isfinite, one.values))
            state = _STATES[one.state]
            if state is TrialState.COMPLETE and not finite:
                state = TrialState.FAIL
            study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    values=list(one.values or ()) if state is TrialState.COMPLETE else None,
                    params={path: external(space[path], v) for path, v in one.params.items()},
                    distributions={path: distribution_of(space[path]) for path in one.params},
                    intermediate_values=dict(one.rungs),
                    user_attrs={
                        "number": one.number,
                        "trial_id": one.config.trial_id if one.config else None,
                        "state": one.state,
                    },
                )
            )
