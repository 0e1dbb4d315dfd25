"""Chaos: a study on a cluster that is killed, filled up and cut off, until it is done; is it right?

`make chaos`, or `python -m tests.chaos --seed 7 --minutes 10`. One study of 60 short trials runs
undisturbed on this machine, then on a cluster of two nodes with its store on an S3 server, then
with its store in a folder. There, faults come at random, `submit` is called until it ends well,
and `status` all the time. Exits with 1 when anything is other than without faults.
"""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from tests.chaos.act import NAME, Act, Results, say
from tests.chaos.faults import FAULTS
from tests.execution.local_cluster import HERE

from ldru_study.cli.group import print_table
from ldru_study.results.store import Store

SPEC = """\
name: chaos
question: Is every trial done once, and right, whatever befalls the machines?
task: parity_check
grid:
  model:
    - {{kind: ldru, width: 8, lone_node: carry}}
    - {{kind: rnn, width: 8}}
    - {{kind: constant}}
train: {{steps: 300, max_length: 10, batch_size: 16, lengths_per_batch: 4}}
overrides:
  - when: {{model.kind: constant}}
    set: {{train.steps: 900}}
seeds: {seeds}
evaluate: {{multiples: [1, 2, 4], strings: 64, validation_strings: 32}}
resources: {{cpus: 1}}
checkpoint_every_s: 0.3
retries: 3
"""
NUM_CELLS = 3
PR_SET_CHILD_SUBREAPER = 36


@click.command()
@click.option("--seed", type=int, help="Of the faults; without it, another one every time.")
@click.option("--trials", default=60, show_default=True, help="Of the study; a multiple of 3.")
@click.option("--minutes", default=10.0, show_default=True, help="When it is over at the latest.")
@click.option(
    "--store",
    "kinds",
    type=click.Choice(["s3", "folder"]),
    multiple=True,
    default=["s3", "folder"],
    show_default=True,
    help="Where the disturbed study keeps its store; repeatable.",
)
@click.option(
    "--fault",
    "chosen",
    type=click.Choice(sorted(set().union(*FAULTS.values()))),
    multiple=True,
    help="Only this one; repeatable.",
)
def main(
    seed: int | None, trials: int, minutes: float, kinds: tuple[str, ...], chosen: tuple[str, ...]
) -> None:
    """Disturb a study until it is done, and compare it with an undisturbed one."""
    begun = time.monotonic()
    if trials < NUM_CELLS or trials % NUM_CELLS:
        raise click.UsageError(f"--trials {trials}: give a multiple of {NUM_CELLS}, such as 60.")
    seed = random.randrange(10_000) if seed is None else seed
    # whoever is orphaned below becomes our child: nobody who was started here can get lost
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    say(f"{trials} trials, seed {seed}, at most {minutes:g} minutes")
    scratch = Path(tempfile.mkdtemp(prefix="ldru-chaos-"))
    spec = scratch / f"{NAME}.yaml"
    spec.write_text(SPEC.format(seeds=trials // NUM_CELLS))
    wanted = undisturbed(spec, scratch / "undisturbed")
    acts: list[Act] = []
    for number, kind in enumerate(kinds):
        left = begun + 60 * minutes - time.monotonic()
        folder = scratch / kind
        folder.mkdir()
        faults = {
            name: fault for name, fault in FAULTS[kind].items() if name in (chosen or (name,))
        }
        act = Act(spec, kind, folder, random.Random(f"{seed} {kind}"), wanted, faults)
        acts.append(act)
        act.run(left / (len(kinds) - number))
    problems = [f"{act.kind}: {problem}" for act in acts for problem in act.problems]
    summary(acts)
    for problem in problems:
        say(f"WRONG  {problem}")
    if problems:
        say(f"{len(problems)} things are wrong; see {scratch}. --seed {seed} draws the same again.")
        sys.exit(1)
    shutil.rmtree(scratch)
    say(f"all right, after {time.monotonic() - begun:.0f} s")


def undisturbed(spec: Path, folder: Path) -> Results:
    """Run the study in peace, on this machine."""
    begun = time.monotonic()
    command = [HERE / "ldru-study", "submit", spec, "--address", "local", "--store", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(
            f"undisturbed, submit ended with {done.returncode}: {done.stderr}"
        )
    say(f"undisturbed: {time.monotonic() - begun:.0f} s")
    return Results.of(Store(str(folder)))


def summary(acts: list[Act]) -> None:
    """Print what was done, and what came of it until the next fault."""
    rows: list[tuple[Any, ...]] = []
    for act in acts:
        faults = [event for event in act.events if event.kind != "submit"]
        for number, fault in enumerate(faults):
            until = faults[number + 1].at if number + 1 < len(faults) else float("inf")
            ends = Counter(
                f"{one.state} ({one.cause})" if one.cause else str(one.state or "no end")
                for mine in act.attempts.values()
                for one in mine
                if fault.at <= one.over_at_least < until and one.state != "done"
            )
            came = [f"{count} {end}" for end, count in sorted(ends.items())]
            came += [
                f"submit {event.what}"
                for event in act.events
                if event.kind == "submit" and fault.at <= event.at < until
            ]
            when = time.strftime("%H:%M:%S", time.localtime(fault.at))
            rows.append((when, act.kind, fault.kind, fault.what, ", ".join(came)))
    print_table(("at", "store", "fault", "what was done", "what came of it"), rows)
    for act in acts:
        submits = [event for event in act.events if event.kind == "submit"]
        num_attempts = sum(map(len, act.attempts.values()))
        say(
            f"{act.kind}: {sum(act.injected.values())} faults, {len(submits)} submits, "
            f"{num_attempts} attempts at {len(act.wanted.names)} trials, {act.num_repeated} rows "
            f"committed again and counted once, {act.num_polls} answers of status"
        )


if __name__ == "__main__":
    main()
