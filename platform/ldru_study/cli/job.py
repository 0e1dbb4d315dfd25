"""The driver of a study on a cluster: ``python -m ldru_study.cli.job order.json``, run by Ray."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ldru_study.cli.group import say
from ldru_study.cli.refine import Aim, refine_here
from ldru_study.cli.submit import run_here
from ldru_study.errors import NotFoundError, StoreError, StudyError

if TYPE_CHECKING:
    from ldru_study.execution.jobs import JobOrder
    from ldru_study.results.store import Store


def main(path: str) -> int:
    """Run the order in a file and return the exit code."""
    from ldru_study.execution.jobs import JobOrder
    from ldru_study.results.store import Store

    order = JobOrder.from_json(Path(path).read_text())
    takes_down = False
    try:
        if order.flags.get("down_when_done"):
            from ldru_study.execution.cluster import can_take_down

            can_take_down()
            takes_down = True
        store = Store(order.store)
        return _submit(store, order) if order.ratio is None else _refine(store, order, order.ratio)
    except StudyError as error:
        # without room for words, the exit code still says it
        with suppress(OSError):
            say(f"Error: {error}")
        return error.exit_code
    finally:
        if takes_down:
            from ldru_study.execution.cluster import down_when_done

            down_when_done()


def _submit(store: Store, order: JobOrder) -> int:
    from ldru_study.execution.submit import prepare
    from ldru_study.spec.study import parse_study

    study = parse_study(order.spec, order.source, order.changes)
    _check_store(store, study.name, order)
    submission = prepare(
        study,
        store,
        record=dict(order.provenance),
        retry_diverged=order.flags.get("retry_diverged", False),
    )
    return run_here(
        submission,
        as_json=False,
        fail_fast=order.flags.get("fail_fast", False),
        address="auto",
        job=(order.address, order.job_id),
    )


def _refine(store: Store, order: JobOrder, ratio: float) -> int:
    from ldru_study.execution.refine import prepare_refinement

    # the study as it stands in the store, which is where it was read for the order
    _check_store(store, order.source, order)
    submission, trials, without = prepare_refinement(
        store, order.source, dict(order.provenance), is_recorded=True
    )
    aim = Aim(submission, trials, ratio)
    before = aim.found()
    aim.announce(before, len(without))
    return refine_here(
        aim, before, as_json=False, address="auto", job=(order.address, order.job_id)
    )


def _check_store(store: Store, study: str, order: JobOrder) -> None:
    """Make sure that this machine sees the store which the study was submitted to.

    Raises:
        StoreError: it does not.
    """
    try:
        seen = {record["submission_id"] for record in store.provenance(study)["submissions"]}
    except (NotFoundError, KeyError):
        seen = set()
    if order.submission_id not in seen:
        raise StoreError(
            f"{order.store}: the head of the cluster does not find the study there that was just "
            "submitted: it sees another store under this name, as with a local folder. Give one "
            "that all machines share: --store s3://bucket/folder, or a network file system."
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
