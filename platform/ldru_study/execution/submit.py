"""Run a study: plan, keep what was asked, do what is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from ldru_study.results.facts import read_facts
from ldru_study.results.heartbeat import forget_dead
from ldru_study.results.provenance import provenance
from ldru_study.results.store import Store
from ldru_study.spec.plan import StudyPlan, plan_study
from ldru_study.spec.resolved import resolved
from ldru_study.spec.study import StudySpec
from ldru_study.training.work import Work


@dataclass(frozen=True)
class Submission:
    """A study that is ready to run: its plan, and what was recorded of the request."""

    spec: StudySpec
    store: Store
    plan: StudyPlan
    revision: str

    def remaining(self) -> StudyPlan:
        """Plan again with what the store holds by now."""
        return plan_study(self.spec, read_facts(self.store).holdings)


def prepare(
    spec: StudySpec, store: Store, command: Sequence[str], *, retry_diverged: bool = False
) -> Submission:
    """Plan a study against its store and record what was asked.

    Args:
        spec: a valid study.
        store: where it lives.
        command: the arguments of the submission, for the record.
        retry_diverged: train trials again whose training ended in NaN.

    Raises:
        SpecError: a cell cannot be evaluated.
        StoreError: the store cannot be read or written.
    """
    forget_dead(store)
    plan = plan_study(spec, read_facts(store).holdings, retry_diverged=retry_diverged)
    record = provenance(command)
    earlier = store.provenance(spec.name)["submissions"] if spec.name in store.studies() else []
    store.save_study(
        spec.name,
        {
            "spec.yaml": spec.text.encode(),
            "provenance.json": _json({"submissions": [*earlier, record]}),
            # last: a study exists once its resolved form does
            "resolved.json": _json(resolved(spec, plan)),
        },
    )
    return Submission(spec, store, plan, record["revision"])


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1).encode()


def works_of(submission: Submission) -> list[Work]:
    """Return what is to be done, the first seed of every cell first."""
    file = submission.spec.file
    # every cell shows its first curve as early as possible
    rank = {seed: number for number, seed in enumerate(file.seeds)}
    ordered = sorted(submission.plan.to_run, key=lambda trial: rank[trial.config.seed])
    return [
        Work(
            config=trial.config,
            questions=trial.missing,
            study=submission.spec.name,
            store=submission.store.uri,
            device="cuda" if file.resources.gpus else "cpu",
            validation_strings=file.evaluate.validation_strings,
            checkpoint_every_s=file.checkpoint_every_s,
            driver_pid=os.getpid(),
            revision=submission.revision,
            cpus=file.resources.cpus,
            gpus=file.resources.gpus,
            trial_timeout_s=file.trial_timeout_s,
        )
        for trial in ordered
    ]
