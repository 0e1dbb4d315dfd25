"""`logs` and `stop`: a study that runs, here or anywhere, through the store."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ldru_study.cli.analysis import study_name
from ldru_study.cli.group import FAILED, json_option, print_json, say, store_option

if TYPE_CHECKING:
    from ldru_study.results.drivers import DriverRecord
    from ldru_study.results.store import Store

_POLL_S = 0.5
# until a job that was sent has a driver, and the driver has something to say
_BEGINS_S = 60.0
# how long a driver that is alive may take to hear of a stop at once, before Ray ends it
_PATIENCE_S = 30.0


@click.command()
@click.argument("study")
@store_option
@click.option("--follow", "-f", is_flag=True, help="Go on until the study's driver is over.")
@click.option("--last", is_flag=True, help="Only the newest submission.")
def logs(study: str, store_uri: str, follow: bool, last: bool) -> None:
    """Print what the drivers of a study have logged, wherever they run or ran.

    STUDY is a study's name or its YAML file. The log is in the store, so it is there when the
    cluster is gone.

    \b
    Example: ldru-study logs quick -f
    """
    from ldru_study.results.drivers import read_drivers
    from ldru_study.results.logs import LogReader
    from ldru_study.results.store import Store

    store, name = Store(store_uri), study_name(study)
    newest = store.provenance(name)["submissions"][-1]
    newest_id = str(newest.get("submission_id", ""))
    reader = LogReader(store, name, newest_id if last else None)
    while True:
        is_driven = any(driver.is_alive for driver in read_drivers(store, name))
        for line in reader.new_lines():
            click.echo(line)
        if not follow:
            return
        if not is_driven and (reader.has_seen(newest_id) or _age_s(newest) > _BEGINS_S):
            return
        time.sleep(_POLL_S)


def _age_s(submission: Mapping[str, Any]) -> float:
    at = datetime.datetime.fromisoformat(submission["at"])
    return (datetime.datetime.now(datetime.UTC) - at).total_seconds()


@click.command()
@click.argument("study")
@store_option
@json_option
@click.option(
    "--now",
    is_flag=True,
    help="Interrupt running trials; they continue from their checkpoints. Default: let them end.",
)
@click.option("--no-wait", is_flag=True, help="Return once the request is in the store.")
def stop(study: str, store_uri: str, as_json: bool, now: bool, no_wait: bool) -> None:
    """Stop a study, wherever it runs; `submit` continues it.

    STUDY is a study's name or its YAML file. The request goes through the store, so neither the
    cluster nor its token is needed. Exits with 4 when a driver could not be stopped.

    \b
    Example: ldru-study stop quick --now
    """
    from ldru_study.results.drivers import read_drivers, request_stop
    from ldru_study.results.store import Store

    store, name = Store(store_uri), study_name(study)
    # a name that the store does not know is a mistake, not a study that is over
    store.study(name)
    running = [driver for driver in read_drivers(store, name) if driver.is_alive]
    for driver in running:
        request_stop(store, driver.submission_id, "now" if now else "drain")
    left: list[DriverRecord] = []
    if running:
        how = "running trials are interrupted" if now else "running trials end first"
        say(f"{name}: asked {_who(running)} to stop; {how}.")
    if not no_wait:
        left = _wait(store, name, {driver.submission_id for driver in running}, now=now)
    if as_json:
        print_json(
            {
                "study": name,
                "asked": [driver.submission_id for driver in running],
                "left": [driver.submission_id for driver in left],
            }
        )
    elif not running:
        say(f"{name}: nothing runs.")
    elif left:
        say(f"{name}: {_who(left)} did not stop. End it by hand.")
    elif not no_wait:
        say(f"{name}: stopped. `ldru-study submit` continues it.")
    sys.exit(FAILED if left else 0)


def _who(drivers: list[DriverRecord]) -> str:
    return ", ".join(f"process {driver.pid} on {driver.host}" for driver in drivers)


def _wait(store: Store, study: str, asked: set[str], *, now: bool) -> list[DriverRecord]:
    from ldru_study.results.drivers import read_drivers

    begun, has_pressed = time.monotonic(), False
    while True:
        left = [
            driver
            for driver in read_drivers(store, study)
            if driver.submission_id in asked and driver.is_alive
        ]
        if not left:
            return []
        waited = time.monotonic() - begun
        if now and waited > _PATIENCE_S and not has_pressed:
            has_pressed = True
            for driver in left:
                _press(driver)
        elif now and waited > 2 * _PATIENCE_S:
            return left
        time.sleep(_POLL_S)


def _press(driver: DriverRecord) -> None:
    """Have Ray end the job of a driver that does not hear."""
    if not driver.job_id:
        return
    from ldru_study.execution.jobs import Jobs, UnreachableError

    try:
        Jobs(driver.address).stop(driver.job_id)
    except UnreachableError as error:
        say(f"{error}")
