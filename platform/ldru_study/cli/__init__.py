"""The command line: parse, call, print. Everything else is imported inside the commands."""

from __future__ import annotations

import click

from ldru_study import __version__
from ldru_study.cli.analysis import analyze, report
from ldru_study.cli.cluster import cluster
from ldru_study.cli.control import logs, stop
from ldru_study.cli.export import export
from ldru_study.cli.group import StudyGroup
from ldru_study.cli.refine import refine
from ldru_study.cli.registries import models
from ldru_study.cli.spec import plan, schema, validate
from ldru_study.cli.store import list_studies, query, status, store
from ldru_study.cli.submit import submit
from ldru_study.cli.tasks import tasks


@click.group(cls=StudyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ldru-study")
def main() -> None:
    """Does a model trained on short sequences hold on longer ones? One YAML file in, verdicts out.

    \b
    ldru-study validate study_specs/quick.yaml   find every mistake in a study
    ldru-study submit study_specs/quick.yaml     train what is missing, then say what holds
    ldru-study report quick                      make a page of the failure curves

    Exit codes: 0 ok, 1 our bug, 2 invalid use or spec, 3 not found, 4 trials or a check failed,
    5 budget spent, 6 cluster unreachable, 130 interrupted (the same command goes on).
    """


for _command in (
    validate,
    plan,
    submit,
    refine,
    status,
    list_studies,
    logs,
    stop,
    query,
    store,
    analyze,
    report,
    export,
    tasks,
    models,
    cluster,
    schema,
):
    main.add_command(_command)
