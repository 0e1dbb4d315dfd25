"""Run a study: plan, keep what was asked, do what is missing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldru_study.results.facts import read_facts
from ldru_study.results.heartbeat import forget_dead
from ldru_study.results.provenance import provenance
from ldru_study.results.searches import holdings_for
from ldru_study.results.store import Store, new_attempt_id
from ldru_study.spec.plan import CellPlan, PlannedTrial, StudyPlan, plan_study
from ldru_study.spec.resolved import resolved
from ldru_study.spec.study import StudySpec
from ldru_study.training.prediction import Prediction, kept_predictions, shape_of
from ldru_study.training.work import Work


@dataclass
class Submission:
    """A study that is ready to run: its plan, and what was recorded of the request."""

    spec: StudySpec
    store: Store
    plan: StudyPlan
    submission_id: str
    revision: str
    predictions: Mapping[str, Prediction] = field(default_factory=dict)

    def remaining(self) -> StudyPlan:
        """Plan again with what the store holds by now."""
        return plan_study(self.spec, holdings_for(self.store, read_facts(self.store), self.spec))

    def replan(self, planned: CellPlan) -> None:
        """Put a cell's new plan in place of its old one, here and in the store.

        Raises:
            StoreError: the store cannot be written.
        """
        self.plan = self.plan.with_cell(planned)
        record = _json(resolved(self.spec, self.plan))
        self.store.save_study(self.spec.name, {"resolved.json": record})


def new_record(command: Sequence[str]) -> dict[str, Any]:
    """Return the record of a new submission: its id, the code that runs and where it was given."""
    return provenance(command) | {"submission_id": new_attempt_id()}


def prepare(
    spec: StudySpec, store: Store, record: dict[str, Any], *, retry_diverged: bool = False
) -> Submission:
    """Plan a study against its store and record what was asked.

    Args:
        spec: a valid study.
        store: where it lives.
        record: of the submission, by `new_record`; on a cluster by the machine that sent it.
        retry_diverged: train trials again whose training ended in NaN.

    Raises:
        SpecError: a cell cannot be evaluated.
        StoreError: the store cannot be read or written.
    """
    forget_dead(store)
    held = holdings_for(store, read_facts(store), spec)
    plan = plan_study(spec, held, retry_diverged=retry_diverged)
    store.save_study(spec.name, {"spec.yaml": spec.text.encode()})
    keep_record(store, spec.name, record)
    # last: a study exists once its resolved form does
    store.save_study(spec.name, {"resolved.json": _json(resolved(spec, plan))})
    predictions = kept_predictions(store)
    return Submission(spec, store, plan, record["submission_id"], record["revision"], predictions)


def keep_record(store: Store, study: str, record: dict[str, Any]) -> None:
    """Add a record to those of a study; one of the same submission is replaced.

    Raises:
        StoreError: the store cannot be read or written.
    """
    earlier = store.provenance(study)["submissions"] if study in store.studies() else []
    others = [one for one in earlier if one.get("submission_id") != record["submission_id"]]
    store.save_study(study, {"provenance.json": _json({"submissions": [*others, record]})})


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1).encode()


def work_of(
    submission: Submission, trial: PlannedTrial, *, report_steps: tuple[int, ...] = ()
) -> Work:
    """Return the order to do what is missing of a trial."""
    file = submission.spec.file
    return Work(
        config=trial.config,
        questions=trial.missing,
        study=submission.spec.name,
        store=submission.store.uri,
        cell=trial.cell.key,
        suggestion=trial.suggestion,
        device="cuda" if file.resources.gpus else "cpu",
        validation_strings=file.evaluate.validation_strings,
        checkpoint_every_s=file.checkpoint_every_s,
        driver_pid=os.getpid(),
        driver_host=socket.gethostname(),
        revision=submission.revision,
        cpus=file.resources.cpus * trial.config.train.workers,
        gpus=file.resources.gpus * trial.config.train.workers,
        trial_timeout_s=file.trial_timeout_s,
        report_steps=report_steps,
        prediction=submission.predictions.get(shape_of(trial.config)),
    )
