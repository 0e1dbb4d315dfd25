"""The way over a Ray job: how soon a study begins, how soon it is heard of, how well it ends.

`python -m tests.benchmarks.job` starts a head on this machine and sends it the same study several
times, each into a store of its own; the first one warms the head up and does not count.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psutil
from tests.execution.local_cluster import HERE, Head

from ldru_study.results.drivers import read_drivers
from ldru_study.results.facts import read_facts
from ldru_study.results.store import Store

# four trials are over at once and give a line each; two run until they are stopped
SPEC = """\
name: job
task: parity_check
grid: {model: [{kind: constant}, {kind: rnn, width: 8}, {kind: lstm, width: 8}]}
train: {steps: 1, max_length: 8, batch_size: 1}
overrides: [{when: {model.kind: lstm}, set: {train.steps: 1000000}}]
seeds: 2
evaluate: {multiples: [1], strings: 1, validation_strings: 1}
resources: {cpus: 1}
"""
NUM_SHORT = 4


@dataclass(frozen=True)
class Run:
    """What one study took, in seconds; ``lags`` has one for each trial that ended."""

    sent: float
    driver: float
    first_trial: float
    lags: list[float]
    stopped: float
    gone: float


@click.command()
@click.option("--runs", default=5, show_default=True, help="Studies; medians are what counts.")
def main(runs: int) -> None:
    """Measure `submit` to first trial, the end of a trial to its line in `logs -f`, and `stop`."""
    click.echo(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        head = Head(Path(folder))
        try:
            head.wait_until_up()
            found = [one_study(head, Path(folder) / str(number)) for number in range(runs + 1)][1:]
        finally:
            head.end()
    report("submit until the job is sent", [run.sent for run in found])
    report("  until its driver runs", [run.driver for run in found])
    report("  until the first trial begins", [run.first_trial for run in found])
    report("end of a trial until `logs -f` says so", [lag for run in found for lag in run.lags])
    report("`stop --now`", [run.stopped for run in found])
    report("  and then until no process is left", [run.gone for run in found])
    click.echo(f"load after {os.getloadavg()[0]:.1f}")


def report(what: str, seconds: list[float]) -> None:
    """Print a median with its range."""
    middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
    click.echo(f"{what:42} {middle:6.2f} s  ({least:.2f} .. {most:.2f}, {len(seconds)} times)")


def one_study(head: Head, folder: Path) -> Run:
    """Send a study, follow its log, stop it, and wait until nothing of it runs."""
    folder.mkdir()
    spec, store = folder / "job.yaml", Store(str(folder / "results"))
    spec.write_text(SPEC)

    def command(*words: Any) -> list[Any]:
        return [HERE / "ldru-study", *words, "--store", store.uri]

    before, begun = len(drivers(head)), time.time()
    assert before == 0, drivers(head)
    submit = command("submit", spec, "--address", head.address, "--no-wait")
    subprocess.run(submit, env=head.environment, capture_output=True, check=True)
    sent = time.time()
    driver = wait_for(lambda: drivers(head))[0].create_time()
    # one that has not said that it lives cannot be followed yet
    wait_for(lambda: read_drivers(store))
    heard: dict[str, float] = {}
    with subprocess.Popen(command("logs", "job", "-f"), stdout=subprocess.PIPE, text=True) as logs:
        listening = threading.Thread(target=listen, args=(logs, heard))
        listening.start()
        wait_for(lambda: len(heard) == NUM_SHORT)
        stopping = time.time()
        stop = command("stop", "job", "--now")
        subprocess.run(stop, env=head.environment, capture_output=True, check=True)
        stopped = time.time()
        wait_for(lambda: not drivers(head) and not head.runs("ray::ImplicitFunc"))
        gone = time.time()
        listening.join()
    rows = read_facts(store).attempts.to_pylist()
    first = min(row["at"] for row in rows if row["event"] == "start").timestamp()
    names = {}
    for cell in store.study("job")["cells"]:
        for number, trial_id in enumerate(cell["trial_ids"]):
            names[trial_id] = f"{cell['cell']} seed {number}"
    lags = [
        heard[names[row["trial_id"]]] - row["at"].timestamp()
        for row in rows
        if row["event"] == "end" and row["state"] == "done"
    ]
    return Run(
        sent - begun, driver - begun, first - begun, lags, stopped - stopping, gone - stopped
    )


def drivers(head: Head) -> list[psutil.Process]:
    """Return the drivers of studies on a head."""
    found = []
    for child in head.children():
        with suppress(psutil.Error):
            if child.cmdline()[1:3] == ["-m", "ldru_study.cli.job"]:
                found.append(child)
    return found


def listen(logs: subprocess.Popen[str], heard: dict[str, float]) -> None:
    """Note when each trial is said to be done."""
    assert logs.stdout is not None
    for line in logs.stdout:
        if found := re.search(r"\] (\S+ seed \d+) done in", line):
            heard[found[1]] = time.time()


def wait_for(holds: Any) -> Any:
    """Return what ``holds`` returns, once it is something."""
    deadline = time.monotonic() + 300
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


if __name__ == "__main__":
    main()
