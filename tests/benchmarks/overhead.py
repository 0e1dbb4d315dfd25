"""What the platform costs: a study of trials that train for nothing, and where the time goes.

Run it with `make bench`. Beside it, in the same run, bare Ray Tune does as many empty trials.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from ldru_study.results.facts import read_facts
from ldru_study.results.store import Store

SPEC = """\
name: overhead
task: parity_check
model: {{kind: constant}}
train: {{steps: 1, max_length: 8, batch_size: 1}}
seeds: {trials}
evaluate: {{multiples: [1], strings: 1, validation_strings: 1}}
resources: {{cpus: 1}}
"""
BARE = """
import os, sys, tempfile
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
               "RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_GLOBAL_CHECKPOINT_S": "3600"}
import time, ray, torch
from ray import tune

def trial(config):
    import torch
    tune.report({"at": time.time()})

ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
results = tune.Tuner(
    tune.with_resources(trial, {"cpu": 1}),
    param_space={"n": tune.grid_search(list(range(int(sys.argv[1]))))},
    tune_config=tune.TuneConfig(reuse_actors=True),
    run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
).fit()
times = sorted(result.metrics["at"] for result in results)
print(times[-1] - times[0])
"""


@click.command()
@click.option("--trials", default=200, show_default=True, help="Trials of the study.")
@click.option("--runs", default=3, show_default=True, help="Runs; medians are what counts.")
def main(trials: int, runs: int) -> None:
    """Measure trials per minute of the platform and of bare Ray Tune, alternately."""
    for run in range(runs):
        bare = bare_tune(trials)
        click.echo(f"run {run + 1}: bare Tune {60 * (trials - 1) / bare:.0f} trials/min")
        for line in platform(trials):
            click.echo(f"run {run + 1}: {line}")


def bare_tune(trials: int) -> float:
    """Return the seconds between the first and the last of as many empty trials."""
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(trials)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def platform(trials: int) -> list[str]:
    """Run the study and say how long each part took."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "overhead.yaml"
        spec.write_text(SPEC.format(trials=trials))
        store = Path(folder) / "results"
        script = Path(sys.executable).parent / "ldru-study"
        begun, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
        subprocess.run([script, "submit", spec, "--store", store], capture_output=True, check=True)
        wall = time.monotonic() - clock
        rows = read_facts(Store(str(store))).attempts.to_pylist()
    starts = sorted(row["at"] for row in rows if row["event"] == "start")
    ends = sorted(row["at"] for row in rows if row["event"] == "end")
    seconds = sorted(row["seconds"] for row in rows if row["event"] == "end")
    assert len(ends) == trials
    start_up = (starts[0] - begun).total_seconds()
    middle = (ends[-1] - starts[0]).total_seconds()
    at_once = len({row["pid"] for row in rows})
    inside = sum(seconds)
    return [
        f"platform {60 * trials / wall:.0f} trials/min over the whole command ({wall:.1f} s), "
        f"{60 * trials / middle:.0f} between first start and last end",
        f"  {start_up:.1f} s imports, planning and start of Ray",
        f"  {middle:.1f} s trials, {at_once} at once: {inside / at_once:.1f} s inside them "
        f"(median {1000 * seconds[trials // 2]:.0f} ms), "
        f"{middle - inside / at_once:.1f} s between them",
        f"  {wall - start_up - middle:.1f} s end of Ray and verdicts",
    ]


if __name__ == "__main__":
    main()
