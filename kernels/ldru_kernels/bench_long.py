"""Measures training steps on long sequences: ``python -m ldru_kernels.bench_long``.

A step is a whole one: leaves, tree, readout, loss, backward pass, clipping and AMSGrad, batch 1,
two letters, E = 64. Every row comes from a process of its own, because what counts is the most
memory that the process ever held, above what it held before the step. Times are the smallest of
some steps, by the clock and of the processor: on a machine that others use too, the latter is the
one to compare, and what follows is said of it. Contenders:

* ``chunks``: `tree_reduce_tokens` as it comes, equal subtrees once;
* ``chunks, dropout``: the same with dropout 0.1, so that no two subtrees are equal;
* ``eager``: level by level in plain PyTorch, without dropout;
* ``workers``: as ``chunks, dropout``, on so many processes of one thread; bytes are what one of
  them hands to the others, forward and backward.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ldru_kernels import parallel, peers
from ldru_kernels.tree_reduce import tree_reduce_tokens
from ldru_kernels.weights import MergeWeights

_WIDTH, _LETTERS, _DROPOUT = 64, 2, 0.1
_LENGTHS = [2**power for power in range(14, 21)]
_LONGEST_EAGER, _OF_WORKERS = 2**17, (2**14, 2**18)


def main(arguments: list[str] | None = None) -> int:
    """Run all rows, print them and what follows from them."""
    parser = argparse.ArgumentParser(prog="python -m ldru_kernels.bench_long", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all rows to this file")
    parser.add_argument("--threads", type=int, default=1, help="of a single process (%(default)s)")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.row:
        print(json.dumps(_row(**json.loads(chosen.row))))
        return 0
    rows = []
    wanted = [
        {"contender": name, "tokens": tokens, "threads": chosen.threads}
        for tokens in _LENGTHS
        for name in ("chunks", "chunks, dropout", "eager")
        if name != "eager" or tokens <= _LONGEST_EAGER
    ]
    wanted += [
        {"contender": "workers", "tokens": tokens, "threads": 1, "workers": workers}
        for tokens in _OF_WORKERS
        for workers in (1, 2)
    ]
    for row in wanted:
        rows += _measured(row)
        print(_line(rows[-1]), flush=True)
    conclusions = conclude(rows)
    for text, number in conclusions.items():
        print(f"{text}: {number:.3g}")
    if chosen.json:
        about = {
            "device": platform.processor() or platform.machine(),
            "date": time.strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            "load_average": os.getloadavg()[0],
            "conclusions": conclusions,
            "rows": rows,
        }
        chosen.json.write_text(json.dumps(about, indent=1) + "\n")
    return 0


def conclude(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return what the rows say, by what it is."""
    found = {}
    of: dict[tuple[Any, ...], dict[str, Any]] = {
        (row["contender"], row["tokens"], row.get("workers")): row for row in rows
    }
    for name in ("chunks", "chunks, dropout"):
        here = [row for row in rows if row["contender"] == name]
        sizes, seconds = ([row[key] for row in here] for key in ("tokens", "cpu_seconds"))
        exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        found[f"{name}: exponent of time in T"] = float(exponent)
        found[f"{name}: MiB at T = {sizes[-1]}"] = here[-1]["peak_mib"]
        eager = of.get(("eager", _LONGEST_EAGER, None))
        if eager:
            ours = of[name, _LONGEST_EAGER, None]["cpu_seconds"]
            found[f"{name}: times eager at T = {_LONGEST_EAGER}"] = ours / eager["cpu_seconds"]
    for tokens in _OF_WORKERS:
        one, two = (of.get(("workers", tokens, workers)) for workers in (1, 2))
        if one and two:
            for clock in ("seconds", "cpu_seconds"):
                ratio = two[clock] / one[clock]
                found[f"two workers: times one at T = {tokens}, {clock}"] = ratio
            found[f"two workers: bytes of each at T = {tokens}"] = two["bytes"]
    return found


def _line(row: dict[str, Any]) -> str:
    workers = f", {row['workers']} workers" if "workers" in row else ""
    line = f"{row['contender']}{workers}, T = {row['tokens']}: {row['seconds']:.3f} s"
    line += f", of the processor {row['cpu_seconds']:.3f} s"
    return f"{line}, {row['peak_mib']:.0f} MiB"


def _measured(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the row as measured by the first of its processes."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": str(row["threads"])}
        started = []
        for rank in range(row.get("workers", 1)):
            more = {"rank": rank, "store": f"{folder}/store"} if "workers" in row else {}
            command = [sys.executable, "-m", "ldru_kernels.bench_long"]
            started.append(
                subprocess.Popen(
                    [*command, "--row", json.dumps(row | more)],
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
        printed = [process.communicate()[0] for process in started]
    return [json.loads(printed[0].splitlines()[-1])]


def _row(
    contender: str,
    tokens: int,
    threads: int,
    workers: int | None = None,
    rank: int = 0,
    store: str = "",
) -> dict[str, Any]:
    """Measure one row in this process."""
    torch.set_num_threads(threads)
    counted: list[int] = []
    roots: peers.Roots = {"eager": _eager, "chunks": _shared, "chunks, dropout": _dropped}.get(
        contender, _dropped
    )
    if workers is not None and workers > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=workers
        )
        _count_bytes(counted)
        roots = _split
    torch.manual_seed(0)
    drawn = torch.randint(_LETTERS, (1, tokens))
    batch = drawn, torch.tensor([tokens]), torch.tensor([1])
    short = drawn[:, :4096], torch.tensor([4096]), torch.tensor([1])
    step = peers.training_step(roots, _LETTERS, _WIDTH, [short] + [batch] * 5)
    # everything that is made once
    step()
    counted.clear()
    before = _resident()
    seconds, cpu_seconds = [], []
    for _ in range(3 if tokens <= _LONGEST_EAGER else 1):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - cpu_begin)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row: dict[str, Any] = {"contender": contender, "tokens": tokens, "threads": threads}
    if workers is not None:
        row |= {"workers": workers, "bytes": sum(counted) // len(seconds)}
        if workers > 1:
            dist.barrier()
            dist.destroy_process_group()
    row |= {"seconds": min(seconds), "cpu_seconds": min(cpu_seconds)}
    return row | {"peak_mib": (peak - before) / 2**20}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _count_bytes(counted: list[int]) -> None:
    """Note what this process hands to the collectives that the exchange is made of."""

    def noted(collective: Any, place: int, *arguments: Any, **more: Any) -> Any:
        counted.append(arguments[place].nbytes)
        return collective(*arguments, **more)

    for name, place in (("all_gather", 1), ("all_reduce", 0), ("broadcast", 0)):
        setattr(dist, name, partial(noted, getattr(dist, name), place))


def _shared(leaf: peers.Leaf, tokens: Tensor, lengths: Tensor, weights: MergeWeights) -> Tensor:
    return tree_reduce_tokens(leaf(None), tokens, weights, lengths=lengths)


def _dropped(leaf: peers.Leaf, tokens: Tensor, lengths: Tensor, weights: MergeWeights) -> Tensor:
    return tree_reduce_tokens(leaf(None), tokens, weights, lengths=lengths, dropout=_DROPOUT)


def _eager(leaf: peers.Leaf, tokens: Tensor, lengths: Tensor, weights: MergeWeights) -> Tensor:
    return peers.level_by_level(leaf(tokens), weights)


def _split(leaf: peers.Leaf, tokens: Tensor, lengths: Tensor, weights: MergeWeights) -> Tensor:
    group = dist.group.WORLD
    assert group is not None  # noqa: S101 -- for the type checker: `_row` made it
    size = parallel.chunk_size(tokens.shape[1], dist.get_world_size(group))
    own = tokens.narrow(1, dist.get_rank(group) * size, size)
    return parallel.tree_reduce_tokens(
        leaf(None), own, weights, group=group, lengths=lengths, dropout=_DROPOUT
    )


if __name__ == "__main__":
    raise SystemExit(main())
