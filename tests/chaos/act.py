"""One act of chaos: the study on a cluster under faults, and what is wrong with what it leaves."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import psutil
from tests.chaos.faults import Arena, Fault, family, is_driver, is_trial, line_of
from tests.chaos.polls import Attempt, Life, attempts_of, false_answers, read_polls
from tests.execution.local_cluster import HERE, Head
from tests.results import s3

from ldru_study.results.facts import WEIGHTS_FILE, read_facts
from ldru_study.results.store import Store

NAME = "chaos"
NUM_QUESTIONS = 3
# of an act's time; after it the study is left to end
FAULTS_SHARE = 0.75
# what `submit` may end with; 1 is a bug of ours
CODES = (0, 2, 4, 6, 130)
# how long processes may take to notice that whom they work for is dead
END_S = 60.0
# within which a driver names the cause of a node that is lost
NAMING_S = 20.0


def say(text: str) -> None:
    """Print progress."""
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


@dataclass(frozen=True)
class Results:
    """What a study leaves that must not depend on what befell it."""

    counts: Mapping[tuple[str, int], tuple[int, int]]
    weights: Mapping[str, str]
    names: Mapping[str, str]

    @classmethod
    def of(cls, store: Store) -> Results:
        """Read them: the rows that count, and a digest of every trial's weights."""
        facts = read_facts(store)
        counts = {
            (row["trial_id"], row["length"]): (row["num_correct"], row["num_total"])
            for row in facts.evaluations.to_pylist()
        }
        weights = {
            trial_id: hashlib.sha256(
                store.files.read(f"checkpoints/{trial_id}/{WEIGHTS_FILE}")
            ).hexdigest()
            for trial_id in facts.trained
        }
        names = {}
        resolved = store.study(NAME)
        for cell in resolved["cells"]:
            for seed, trial_id in zip(resolved["seeds"], cell["trial_ids"], strict=True):
                names[trial_id] = f"{cell['cell']} seed {seed} ({trial_id})"
        return cls(counts, weights, names)

    def unlike(self, other: Results) -> Iterator[str]:
        """Name every trial that is other than in ``other``, and how."""
        for key in sorted(self.counts.keys() | other.counts.keys()):
            mine, wanted = self.counts.get(key), other.counts.get(key)
            if mine != wanted:
                yield f"{other.names[key[0]]}: at length {key[1]} counts are {mine}, not {wanted}"
        for trial_id in sorted(self.weights.keys() | other.weights.keys()):
            if self.weights.get(trial_id) != other.weights.get(trial_id):
                yield f"{other.names[trial_id]}: weights are other than undisturbed"


@dataclass
class Event:
    """A fault, or an end of `submit`; times in seconds since 1970."""

    at: float
    until: float
    kind: str
    what: str


class Watch(threading.Thread):
    """Notes when the processes that we started live and die."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.lives: dict[int, Life] = {}
        self._over = threading.Event()

    def run(self) -> None:
        """Look around until told to end."""
        while not self._over.wait(0.3):
            before = time.time()
            alive = {process.pid for process in family()}
            after = time.time()
            for pid in alive:
                self.lives[pid] = Life(last_seen=before)
            for pid, life in self.lives.items():
                if pid not in alive and life.gone == float("inf"):
                    self.lives[pid] = Life(life.last_seen, after)

    def end(self) -> None:
        """Look around no more."""
        self._over.set()
        self.join()


class Act:
    """The study on a cluster under faults.

    Args:
        spec: the study.
        kind: ``s3`` or ``folder``, where its store is.
        folder: for everything that it leaves.
        chance: every choice is drawn from it.
        wanted: what an undisturbed run led to.
        faults: by their names.
    """

    def __init__(
        self,
        spec: Path,
        kind: str,
        folder: Path,
        chance: random.Random,
        wanted: Results,
        faults: Mapping[str, Fault],
    ) -> None:
        self.spec, self.kind, self.folder, self.chance = spec, kind, folder, chance
        self.wanted, self.faults = wanted, faults
        self.uri = f"s3://bucket/{NAME}" if kind == "s3" else str(folder / "results")
        self.problems: list[str] = []
        self.events: list[Event] = []
        self.injected: Counter[str] = Counter()
        self.num_polls = self.num_repeated = 0
        self.attempts: dict[str, list[Attempt]] = {}
        self.is_done = False

    def run(self, seconds: float) -> None:
        """Disturb the study until it is done, ``seconds`` at most; then look at what it left."""
        begun = time.monotonic()
        polls = self.folder / "polls"
        watch = Watch()
        watch.start()
        with self._way() as (way, environment), self._cluster(environment) as head:
            asking = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.polls", self.uri, NAME, polls],
                env=head.environment,
            )
            try:
                arena = Arena(head, head.nodes[0], Store(self.uri), way, self.chance)
                self._disturb(arena, begun + FAULTS_SHARE * seconds, begun + seconds)
                self._look_for_orphans(head, asking.pid)
            finally:
                asking.kill()
                asking.wait()
                watch.end()
            self._look_at_results(arena.store)
            self._look_at_polls(arena.store, polls, watch)
        left = psutil.wait_procs(family(), timeout=END_S)[1]
        self.problems += [f"left behind by the cluster: {line_of(one)}" for one in left]
        say(f"{self.kind}: over after {time.monotonic() - begun:.0f} s")

    @contextmanager
    def _way(self) -> Iterator[tuple[s3.Path | None, dict[str, str]]]:
        if self.kind == "folder":
            yield None, {}
            return
        with s3.running_server(self.folder / "server.log") as port:
            way = s3.Path(port)
            os.environ.update(s3.endpoint(port))
            try:
                yield way, s3.endpoint(way.port)
            finally:
                way.close()

    @contextmanager
    def _cluster(self, environment: dict[str, str]) -> Iterator[Head]:
        head = Head(self.folder, num_cpus=1, **environment)
        try:
            head.wait_until_up()
            head.add_node(1)
            say(f"{self.kind}: a cluster of two nodes is up")
            yield head
        finally:
            head.end()

    def _disturb(self, arena: Arena, faults_until: float, until: float) -> None:
        """Submit until the study is done, and let faults come between the ends of trials."""
        faults = self.faults
        # every kind comes once before any comes again
        bag: list[str] = []
        due_at = self.chance.randint(1, 3)
        process = self._submit(arena.head)
        num_trials, num_shown = len(self.wanted.names), 0
        while time.monotonic() < until:
            if process.poll() is not None:
                self._ended(process.returncode)
                if process.returncode == 0:
                    self.is_done = True
                    break
                process = self._submit(arena.head)
            num_done = len(arena.store.files.list("evaluations"))
            if num_done >= num_shown + 10:
                num_shown = num_done
                say(f"{self.kind}: {num_done} of {num_trials} done")
            if faults and num_done >= due_at and time.monotonic() < faults_until:
                bag = bag or self.chance.sample(sorted(faults), len(faults))
                at, kind = time.time(), bag[-1]
                what = faults[kind](arena)
                if what is None:
                    # no chance now: the next one first
                    bag.insert(0, bag.pop())
                else:
                    bag.pop()
                    due_at = num_done + self.chance.randint(1, 6)
                    self.injected[kind] += 1
                    self._note(at, kind, what)
            time.sleep(0.2)
        if not self.is_done:
            process.kill()
            self.problems.append(
                f"not done in time: {len(arena.store.files.list('evaluations'))}"
                f" of {num_trials}. Give it more --minutes."
            )
        process.wait()
        for kind in sorted(faults.keys() - self.injected.keys()):
            self.problems.append(f"never came: {kind}. Give it more --minutes.")

    def _submit(self, head: Head) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [
                *(HERE / "ldru-study", "submit", self.spec),
                *("--address", head.address, "--store", self.uri),
            ],
            env=head.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # through a pipe, as to a terminal: where its store has no room, this log still has
        threading.Thread(target=self._keep_log, args=(process,), daemon=True).start()
        return process

    def _keep_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with (self.folder / "submit.log").open("ab", buffering=0) as log:
            for line in process.stdout:
                log.write(line)

    def _ended(self, code: int) -> None:
        self._note(time.time(), "submit", f"ended with {code}")
        if code not in CODES:
            tail = (self.folder / "submit.log").read_text()[-3000:]
            self.problems.append(f"submit ended with {code}:\n{tail}")
        # whoever repeats a command does not do it a hundred times a second
        time.sleep(1)

    def _note(self, at: float, kind: str, what: str) -> None:
        self.events.append(Event(at, time.time(), kind, what))
        say(f"{self.kind}: {kind}: {what}")

    def _look_for_orphans(self, head: Head, asking: int) -> None:
        """Note every process that nobody needs any more, once all have had time to notice."""
        deadline = time.monotonic() + END_S
        while orphans := list(self._orphans(head, asking)):
            if time.monotonic() > deadline:
                self.problems += [f"orphan: {one.pid} {line_of(one)}" for one in orphans]
                return
            time.sleep(0.5)

    def _orphans(self, head: Head, asking: int) -> Iterator[psutil.Process]:
        """Yield what runs and belongs to no living node, and what runs there for the study."""
        nodes = [node for node in (head, *head.nodes) if node.process.poll() is None]
        mine = {node.process.pid for node in nodes}
        mine |= {child.pid for node in nodes for child in node.children()}
        for process in family():
            line = line_of(process)
            is_server = "moto.server" in line
            if process.pid == asking or is_server or not line:
                continue
            if process.pid not in mine or is_driver(line) or is_trial(line):
                yield process

    def _look_at_results(self, store: Store) -> None:
        facts = read_facts(store)
        results = Results.of(store)
        self.problems += [f"damaged: {item}" for item in facts.damage]
        self.problems += results.unlike(self.wanted)
        per_trial = Counter(row["trial_id"] for row in facts.evaluations.to_pylist())
        for trial_id, name in self.wanted.names.items():
            if per_trial[trial_id] != NUM_QUESTIONS:
                self.problems.append(f"{name}: {per_trial[trial_id]} results, not {NUM_QUESTIONS}")
        answers: dict[tuple[str, int], set[int]] = {}
        for row in facts.answers.to_pylist():
            answers.setdefault((row["trial_id"], row["length"]), set()).add(row["num_correct"])
        for (trial_id, length), counts in answers.items():
            if len(counts) > 1:
                name = self.wanted.names[trial_id]
                self.problems.append(f"{name}: attempts disagree at length {length}: {counts}")
        self.num_repeated = len(facts.answers) - len(facts.evaluations)

    def _look_at_polls(self, store: Store, path: Path, watch: Watch) -> None:
        polls, facts, num_trials = read_polls(path), read_facts(store), len(self.wanted.names)
        self.num_polls = len(polls)
        # whoever drove an attempt took it along, though its process lives on for a moment
        ends = [(event.at, event.until) for event in self.events if event.kind == "driver killed"]
        self.attempts = attempts_of(facts, watch.lives, ends)
        if not polls or polls[-1].num_done != num_trials:
            last = polls[-1].num_done if polls else "no answer"
            self.problems.append(f"status: {last} done in the end, not {num_trials}")
        self.problems += false_answers(polls, facts, self.attempts, num_trials)
        ended = [one for mine in self.attempts.values() for one in mine]
        # a driver that ends itself soon after has no time to tell why its trial is gone
        ends += [(event.at, event.until) for event in self.events if event.kind == "disk full"]
        losses = [event.until for event in self.events if event.kind == "raylet killed"]
        lost = sum(not any(0 <= end - loss < NAMING_S for end, _ in ends) for loss in losses)
        named = sum(one.cause == "node_lost" for one in ended)
        if named < lost:
            self.problems.append(f"{lost} nodes with a trial were lost, {named} are named so")
