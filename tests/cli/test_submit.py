"""`submit` end to end, as a user runs it: once, again, with more, interrupted and killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldru_study.results.facts import read_facts
from ldru_study.results.store import Store

SCRIPT = str(Path(sys.executable).parent / "ldru-study")
SPEC = """\
name: small
question: Does it resume?
grid:
  model:
    - {kind: ldru, width: 8, lone_node: carry}
    - {kind: lstm, width: 8}
task: parity_check
train: {steps: 400, max_length: 10, batch_size: 32, lengths_per_batch: 4}
seeds: 2
evaluate: {multiples: [1, 2, 4], strings: 128, validation_strings: 64}
resources: {cpus: 1}
checkpoint_every_s: 0.2
"""
NUM_TRIALS = 4


class Study:
    """A spec file and a store in a folder, and the command line on them."""

    def __init__(self, folder: Path, spec: str = SPEC) -> None:
        self.spec, self.store = folder / "small.yaml", Store(str(folder / "results"))
        self.spec.write_text(spec)

    def command(self, *arguments: str) -> list[str]:
        return [SCRIPT, *arguments, "--store", self.store.uri]

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self.command("submit", str(self.spec), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command("submit", str(self.spec)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self) -> dict[str, object]:
        """Return weights and counts, with how many committed rows each question has."""
        facts = read_facts(self.store)
        files = self.store.files
        return {
            "counts": [
                (row["trial_id"], row["length"], row["num_correct"], row["num_total"])
                for row in facts.evaluations.to_pylist()
            ],
            "weights": {
                entry.name: files.read(entry.name)
                for entry in files.list("checkpoints", recursive=True)
            },
        }

    def num_starts(self) -> int:
        rows = read_facts(self.store).attempts.to_pylist()
        return sum(row["event"] == "start" for row in rows)

    def has_checkpoint(self) -> bool:
        return any(
            entry.name.endswith("state.safetensors")
            for entry in self.store.files.list("checkpoints", recursive=True)
        )

    def wait_for(self, condition, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 90
        while not condition() and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        assert condition()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that ran once without interruption."""
    study = Study(tmp_path_factory.mktemp("finished"))
    study.done = study.submit()
    return study


def test_a_study_runs_to_its_verdicts(finished):
    done = finished.done
    assert done.returncode == 0, done.stderr
    # data on stdout, messages on stderr, and on a pipe nothing but plain lines
    assert "parity_check" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("small: 4 trials in 2 cells; 4 to train, 0 to evaluate. Store: ")
    ended = [line for line in lines if " done in " in line]
    assert len(ended) == NUM_TRIALS
    assert ended[-1].startswith("[4/4] parity_check/")
    results = finished.results()
    assert len(results["counts"]) == NUM_TRIALS * 3
    assert len(results["weights"]) == NUM_TRIALS
    assert finished.num_starts() == NUM_TRIALS


def test_again_is_quick_and_trains_nothing(finished):
    starts = finished.num_starts()
    begun = time.monotonic()
    done = finished.submit("--json")
    assert time.monotonic() - begun < 10
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["states"] == {"done": NUM_TRIALS}
    assert finished.num_starts() == starts


def test_another_multiple_trains_nothing_and_another_seed_only_itself(finished):
    before = finished.results()
    done = finished.submit("--set", "evaluate.multiples=[1, 2, 4, 8]")
    assert "4 trials in 2 cells; 0 to train, 4 to evaluate" in done.stderr
    assert done.returncode == 0, done.stderr
    after = finished.results()
    assert after["weights"] == before["weights"]
    assert set(before["counts"]) < set(after["counts"])
    assert len(after["counts"]) == NUM_TRIALS * 4
    done = finished.submit("--set", "seeds=3")
    assert "6 trials in 2 cells; 2 to train, 0 to evaluate" in done.stderr
    assert done.returncode == 0, done.stderr
    more = finished.results()
    assert len(more["weights"]) == NUM_TRIALS + 2
    for name, weights in before["weights"].items():
        assert more["weights"][name] == weights


def test_status_list_query_and_verdicts_agree(finished):
    def output(*arguments):
        command = [*finished.command(*arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    (study,) = output("status", "small")["studies"]
    assert {trial["state"] for trial in study["trials"]} == {"done"}
    (row,) = output("list")
    assert (row["study"], row["states"]) == ("small", f"{len(study['trials'])} done")
    (count,) = output("query", "select count(*) as n from trials where state = 'done'")
    assert count["n"] == len(study["trials"])
    verdicts = output("analyze", "verdicts", str(finished.spec))
    assert [cell["model"] for cell in verdicts["cells"]] == ["ldru(mlp)", "lstm"]


def test_ctrl_c_leaves_a_store_that_continues(tmp_path):
    # long enough to be caught in the middle on any machine
    study = Study(tmp_path, SPEC.replace("steps: 400", "steps: 1200"))
    process = study.start()
    study.wait_for(study.has_checkpoint, process)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert "trials left. The same command continues." in messages
    assert "Traceback" not in messages
    ends = [row for row in read_facts(study.store).attempts.to_pylist() if row["event"] == "end"]
    assert "interrupted" in {row["cause"] for row in ends}
    assert study.submit().returncode == 0
    assert len(study.results()["counts"]) == NUM_TRIALS * 3


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(tmp_path):
    kills = int(os.environ.get("LDRU_TEST_KILLS", "3"))
    rng = random.Random(kills)
    reference, study = (Study(tmp_path / name) for name in _folders(tmp_path))
    assert reference.submit().returncode == 0
    for _ in range(kills):
        process = study.start()
        # from before Ray has started until most of the study is done
        time.sleep(rng.uniform(1, 16))
        process.kill()
        process.communicate()
    done = study.submit()
    assert done.returncode == 0, done.stderr
    assert study.results() == reference.results()


def _folders(tmp_path):
    for name in ("reference", "killed"):
        (tmp_path / name).mkdir()
        yield name
