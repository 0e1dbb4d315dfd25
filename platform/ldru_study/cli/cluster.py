"""`cluster`: what a cluster needs before it costs anything."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ldru_study.cli.group import FAILED, UNREACHABLE, StudyGroup, json_option, print_json, say

_FILE = Path("cluster.yaml")


@click.group(cls=StudyGroup)
def cluster() -> None:
    """Clusters that studies run on."""


@cluster.command()
@click.argument("cluster_file", required=False, type=click.Path(path_type=Path))
@click.option("--address", metavar="URL", help="Where a running head answers: http://host:8265.")
@click.option(
    "--store",
    "store_uri",
    envvar="LDRU_STORE",
    show_envvar=True,
    metavar="URI",
    help="The store of the studies.  [default: LDRU_STORE in the cluster file]",
)
@json_option
def check(
    cluster_file: Path | None, address: str | None, store_uri: str | None, as_json: bool
) -> None:
    """Say what a cluster still lacks, before it costs money.

    Looks at the cluster file (default: cluster.yaml, unless there is none and --address is given),
    AWS credentials, the token, the store and, with --address, at a running head. Exits with 4 when
    something is missing, with 6 when the head cannot be reached, or does not let us in.

    \b
    Example: ldru-study cluster check cluster.yaml --store s3://bucket/studies
    """
    from ldru_study.execution.cluster_check import run_checks

    if cluster_file is None and (_FILE.exists() or address is None):
        cluster_file = _FILE
    checks = run_checks(cluster_file, address, store_uri)
    if as_json:
        print_json([{"check": c.name, "state": c.state, "message": c.message} for c in checks])
    else:
        for found in checks:
            click.echo(f"{found.state:<11}  {found.name}: {found.message}")
    missing = [found for found in checks if found.state == "missing"]
    if missing and not as_json:
        say(f"{len(missing)} of {len(checks)} checks failed.")
    if any(found.is_unreachable for found in missing):
        sys.exit(UNREACHABLE)
    sys.exit(FAILED if missing else 0)
