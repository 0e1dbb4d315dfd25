"""What a machine, a network or a disk does to a study, done on purpose.

Every fault takes an arena and returns what it did, or None when there is no chance right now.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.execution.local_cluster import Head, Node
from tests.results import s3

from ldru_study.errors import StoreError
from ldru_study.results.heartbeat import Heartbeat, read_heartbeats
from ldru_study.results.store import Store

AWAY_S = 20.0
FULL_S = 6.0
_PATIENCE_S = 10.0
_TABLES = ("evaluations", "metrics", "attempts")


@dataclass
class Arena:
    """Where it happens.

    Args:
        head: of the cluster.
        node: its other machine, which a fault replaces.
        store: where the study lives, reached on a way that never fails.
        way: to the S3 server, as everybody else goes; None for a folder.
        chance: every choice is drawn from it.
    """

    head: Head
    node: Node
    store: Store
    way: s3.Path | None
    chance: random.Random

    def running(self) -> list[Heartbeat]:
        """Return the signs of life of the attempts that run."""
        return [beat for beat in read_heartbeats(self.store) if beat.is_alive]


def family() -> list[psutil.Process]:
    """Return every process that we started, and that those did: all are below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def line_of(process: psutil.Process) -> str:
    """Return a process's command line, '' when it is gone."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).strip()
    return ""


def is_driver(line: str) -> bool:
    """Whether a command line is that of a study's driver on the cluster, not of its shell."""
    return line.startswith("python -m ldru_study.cli.job")


def is_trial(line: str) -> bool:
    """Whether a command line is that of a process in which Tune runs trials."""
    return line.startswith(("ray::ImplicitFunc", "ray::_trial"))


def kill_driver(arena: Arena) -> str | None:
    """SIGKILL the process that drives the study, while trials run."""
    drivers = [process for process in family() if is_driver(line_of(process))]
    if not drivers or not arena.running():
        return None
    drivers[0].kill()
    return f"SIGKILL to driver {drivers[0].pid}"


def kill_worker(arena: Arena) -> str | None:
    """SIGKILL a process in which a trial runs."""
    running = arena.running()
    if not running:
        return None
    beat = arena.chance.choice(running)
    os.kill(beat.pid, signal.SIGKILL)
    return f"SIGKILL to worker {beat.pid}"


def kill_raylet(arena: Arena) -> str | None:
    """SIGKILL the raylet of the node that is not the head, while a trial runs there; add another.

    A machine that is lost takes its processes with it, without a word.
    """
    raylet, on_node = arena.node.raylet(), {child.pid for child in arena.node.children()}
    if raylet is None or not any(beat.pid in on_node for beat in arena.running()):
        return None
    raylet.kill()
    # `ray start` notices, and ends what else was on the node
    arena.node.process.wait(60)
    arena.node = arena.head.add_node(1)
    return f"SIGKILL to raylet {raylet.pid}; another node was added"


def kill_writer(arena: Arena) -> str | None:
    """SIGKILL whoever writes a Parquet file, in the middle of it."""
    return _kill_uploader(arena) if arena.way else _kill_renamer(arena)


def _kill_uploader(arena: Arena) -> str | None:
    """Hold the next upload when half of it has arrived, then kill who sends it."""
    assert arena.way is not None
    arena.way.fail("stuck", times=1, methods=("PUT",), suffix=".parquet")
    num_before = len(arena.way.failed)
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while time.monotonic() < deadline:
            for path in arena.way.failed[num_before:]:
                for beat in arena.running():
                    if beat.attempt_id in path:
                        os.kill(beat.pid, signal.SIGKILL)
                        return f"SIGKILL to worker {beat.pid}, half way through {_short(path)}"
            time.sleep(0.02)
    finally:
        arena.way.mend()
    return None


def _kill_renamer(arena: Arena) -> str | None:
    """Stop a process while the unfinished form of its file lies there, then kill it."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        running = arena.running()
        until = time.monotonic() + 0.3
        while running and time.monotonic() < until:
            for table in _TABLES:
                for path in _unfinished(Path(arena.store.uri) / table):
                    for beat in running:
                        if beat.attempt_id in path.name and _dies_with(beat.pid, path):
                            return f"SIGKILL to worker {beat.pid}, half way through {_short(path)}"
    return None


def _unfinished(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.name.endswith(".tmp")]
    return []


def _dies_with(pid: int, path: Path) -> bool:
    """Kill a process if its file is still unfinished once it has been stopped."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        process = psutil.Process(pid)
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            time.sleep(0.001)
        is_caught = path.exists()
        os.kill(pid, signal.SIGKILL if is_caught else signal.SIGCONT)
        return is_caught
    return False


def _short(path: Path | str) -> str:
    table, name = str(path).split("/")[-2:]
    return f"{table}/{name.lstrip('.').split('.')[0]}"


def fill_disk(arena: Arena) -> str | None:
    """Let no file of the study grow for a while: drivers, trials and `submit` can write nothing.

    A limit on the size of files does what a full disk does, to these processes alone, and needs
    neither a file system of its own nor rights.
    """
    if not arena.running():
        return None
    limited: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + FULL_S
    try:
        while time.monotonic() < deadline:
            for process in family():
                if process.pid not in limited and _writes(line_of(process)):
                    with suppress(psutil.Error):
                        _, most = process.rlimit(psutil.RLIMIT_FSIZE)
                        process.rlimit(psutil.RLIMIT_FSIZE, (0, most))
                        limited[process.pid] = process
            time.sleep(0.1)
    finally:
        for process in limited.values():
            with suppress(psutil.Error):
                _, most = process.rlimit(psutil.RLIMIT_FSIZE)
                process.rlimit(psutil.RLIMIT_FSIZE, (most, most))
    return f"no room on the disk for {FULL_S:g} s, for {len(limited)} processes"


def _writes(line: str) -> bool:
    return is_driver(line) or is_trial(line) or "ldru-study submit" in line


def stop_server(arena: Arena) -> str | None:
    """Have nobody listen at the S3 server's address for a while."""
    assert arena.way is not None
    with suppress(StoreError):
        if not arena.running():
            return None
    arena.way.leave()
    time.sleep(AWAY_S)
    arena.way.come()
    return f"S3 server away for {AWAY_S:g} s"


Fault = Callable[[Arena], str | None]
EVERYWHERE: dict[str, Fault] = {
    "driver killed": kill_driver,
    "worker killed": kill_worker,
    "raylet killed": kill_raylet,
    "killed in a write": kill_writer,
}
FAULTS: dict[str, dict[str, Fault]] = {
    "folder": EVERYWHERE | {"disk full": fill_disk},
    "s3": EVERYWHERE | {"server away": stop_server},
}
