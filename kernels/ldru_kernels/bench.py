"""Measures the ops against every peer at hand: ``python -m ldru_kernels.bench``.

First the correctness gate: every backend against the float64 reference. On red nothing is timed.
Contenders of a case then run in turn, round by round, so that a slow moment hits all of them;
medians and quartiles are over rounds, on a GPU of CUDA events, around calls on rotating inputs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldru_kernels import peers
from ldru_kernels import reference as definition
from ldru_kernels.choice import TABLE, choose_operands
from ldru_kernels.contenders import (
    DTYPES,
    SUITES,
    Case,
    backends,
    cases,
    contenders,
)
from ldru_kernels.memory import keep_freed_memory
from ldru_kernels.peers import Step
from ldru_kernels.prefix_scan import prefix_scan
from ldru_kernels.products import has_onednn
from ldru_kernels.tree_reduce import tree_reduce
from ldru_kernels.weights import MergeWeights, listed

# a contender's turn in each round lasts about so many ms, after one call that is not timed: what
# another left behind in caches and in the allocator is not its own cost
_ROUNDS, _TURN_MS = 11, 30
# FLOPs of a merge, in E^2: 62 forward and twice as many backward
_FLOPS = 62 * 3
# elements that a merge has to move, in E: two states in and one out, and the same for gradients
_ELEMENTS = 9


def gate(device: str) -> list[str]:
    """Return what disagrees with the float64 reference, results or gradients; nothing is good."""
    wrong = []
    lengths = torch.tensor([33, 1, 7])
    wide = peers.random_weights(32, torch.float64, torch.device("cpu"))
    leaves = torch.randn(3, 33, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for op, exact in ((tree_reduce, definition.tree_reduce), (prefix_scan, definition.prefix_scan)):
        wanted = _outcome(exact, leaves, wide, lengths)
        for backend in backends(device):
            weights = peers.random_weights(32, torch.float32, torch.device(device))
            here = leaves.float().to(device)
            found = _outcome(op, here, weights, lengths, backend=backend, precision="ieee")
            for name, (a, b) in enumerate(zip(found, wanted, strict=True)):
                difference = float((a.cpu().double() - b).norm() / b.norm())
                if not difference < 1e-5:
                    wrong.append(f"{op.__name__} {backend}, tensor {name}: {difference:.1e}")
    return wrong


def _outcome(
    op: Callable[..., Tensor], leaves: Tensor, weights: MergeWeights, lengths: Tensor, **how: str
) -> list[Tensor]:
    leaves = leaves.clone().requires_grad_()
    result = op(leaves, weights, lengths=lengths, **how)
    return [
        result.detach(),
        *torch.autograd.grad(result.square().sum(), [leaves, *listed(weights)]),
    ]


def measure(
    case: Case, device: str, floors: dict[str, float], deadline: float
) -> Iterator[dict[str, Any]]:
    """Yield one row per contender, the first one being ours.

    Args:
        case: what to run.
        device: where.
        floors: of `floors_of`.
        deadline: of `time.monotonic`, after which nobody enters any more.
    """
    entered, calls, peaks = {}, {}, {}
    for name, make in contenders(case, device):
        if time.monotonic() > deadline:
            yield {**case._asdict(), "contender": name, "failed": "no time was left"}
            continue
        try:
            step = make()
            step()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken = _milliseconds(step, device)
        except Exception as error:  # noqa: BLE001 -- a peer that cannot run is a row that says so
            reason = str(error).strip().splitlines() or [""]
            failed = f"{type(error).__name__}: {reason[0]}"
            yield {**case._asdict(), "contender": name, "failed": failed}
            continue
        entered[name] = step
        calls[name] = max(1, round(_TURN_MS / taken))
        peaks[name] = torch.cuda.max_memory_allocated() if device == "cuda" else None
    times: dict[str, list[float]] = {name: [] for name in entered}
    for _ in range(_ROUNDS):
        for name, step in entered.items():
            step()
            times[name].append(_milliseconds(step, device, calls[name]))
    for name, taken_of in times.items():
        # inclusive: quartiles never lie outside of what was measured
        low, median, high = statistics.quantiles(taken_of, n=4, method="inclusive")
        yield {
            **case._asdict(),
            "contender": name,
            "merges": case.merges,
            "median_ms": median,
            "quartiles_ms": [low, high],
            "peak_bytes": peaks[name],
            **{f"of_{name}": floor / median for name, floor in floors.items()},
        }


def _milliseconds(step: Step, device: str, calls: int = 1) -> float:
    """Return how long one of some consecutive calls takes."""
    if device != "cuda":
        begin = time.perf_counter()
        for _ in range(calls):
            step()
        return 1e3 * (time.perf_counter() - begin) / calls
    begin_event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end_event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin_event.record()
    for _ in range(calls):
        step()
    end_event.record()
    torch.cuda.synchronize()
    return float(begin_event.elapsed_time(end_event)) / calls


def ceilings(device: str) -> dict[str, float]:
    """Return the measured rates of a large copy, bytes/s, and of large matmuls, FLOP/s by dtype."""
    side, rounds = (8192, 9) if device == "cuda" else (1024, 5)
    source = torch.randn(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)

    def rate(work: Callable[[], Any], amount: float) -> float:
        work()
        taken = [_milliseconds(work, device) for _ in range(rounds)]
        return amount / (statistics.median(taken) / 1e3)

    found = {"copy": rate(lambda: target.copy_(source), 2 * source.numel() * 4)}
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(side, side, device=device).to(dtype)
        ways = [lambda a=a: a @ a]
        if device == "cpu" and dtype == torch.float32 and has_onednn():
            ways.append(lambda a=a: torch.ops.mkldnn._linear_pointwise(a, a, None, "none", [], ""))
        found[str(dtype)] = max(rate(way, 2.0 * side**3) for way in ways)
    return found


def floors_of(case: Case, rates: dict[str, float]) -> dict[str, float]:
    """Return the least time for the FLOPs and for the bytes of a case, in ms, where it has any.

    Where leaves are tokens, how many merges there are is up to the contender.
    """
    if case.letters:
        return {}
    dtype = DTYPES[case.precision]
    merges = case.merges * (2 if case.op == "prefix_scan" else 1)
    moved = merges * _ELEMENTS * case.width * dtype.itemsize
    return {
        "matmul_rate": 1e3 * merges * _FLOPS * case.width**2 / rates[str(dtype)],
        "copy_rate": 1e3 * moved / rates["copy"],
    }


def _name_of(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        about = Path("/proc/cpuinfo").read_text()
    except OSError:
        about = ""
    models = [line.split(":")[1] for line in about.splitlines() if line.startswith("model name")]
    return models[0].strip() if models else platform.processor() or platform.machine()


def table_of(rows: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """Return the rows of `choice.TABLE`: both backends side by side."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if (
            row["contender"] in ("torch", "triton")
            and row["op"] == "tree_reduce"
            and "merges" in row
        ):
            operands = choose_operands(row["precision"], torch.float32)
            key = operands, row["width"], row["merges"]
            entry = found.setdefault(key, {"device": device})
            entry |= {"operands": operands, "width": row["width"], "merges": row["merges"]}
            entry[f"{row['contender']}_ms"] = row["median_ms"]
    return [row for row in found.values() if {"torch_ms", "triton_ms"} <= set(row)]


def report(case: Case, rows: list[dict[str, Any]]) -> None:
    """Print one case; ratios are to the first contender, above 1 is slower than it."""
    letters = f", {case.letters} letters" if case.letters else ""
    print(
        f"\n{case.op}: B = {case.batch}, T = {case.tokens}, E = {case.width}, {case.precision}"
        f"{letters}"
    )
    ours = next((row["median_ms"] for row in rows if "median_ms" in row), None)
    for row in rows:
        if "failed" in row:
            print(f"  {row['contender']:24} not measured: {row['failed'][:100]}")
            continue
        low, high = row["quartiles_ms"]
        line = f"  {row['contender']:24}{row['median_ms']:10.3f} ms  ({low:.3f} to {high:.3f})"
        line += f"  x {row['median_ms'] / ours:5.2f}"
        if "of_matmul_rate" in row:
            line += f"  {row['of_matmul_rate']:6.1%} of matmul, {row['of_copy_rate']:6.1%} of copy"
        if row["peak_bytes"]:
            line += f"  {row['peak_bytes'] / 2**20:8.0f} MiB"
        print(line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run suites; return 1 where the gate is red."""
    parser = argparse.ArgumentParser(prog="python -m ldru_kernels.bench", description=__doc__)
    parser.add_argument("--suite", choices=SUITES, action="append")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all rows to this file")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument(
        "--write-table",
        action="store_true",
        help="let backend='auto' choose by these rows from now on",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=7.5,
        help="after so many nobody else enters; rows say who did not (%(default)s)",
    )
    chosen = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * chosen.minutes
    # for everybody: else whoever runs next pays for what the one before gave back
    keep_freed_memory()
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    wrong = gate(device)
    if wrong:
        print("wrong, so nothing is timed:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    name = _name_of(device)
    rates = ceilings(device)
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads; gate: green")
    print(f"copy {rates['copy'] / 1e9:.0f} GB/s", end="")
    print(*(f", {k[6:]} {v / 1e12:.2f} TFLOP/s" for k, v in rates.items() if k != "copy"), sep="")
    rows = []
    for suite in chosen.suite or SUITES:
        for case in cases(suite, device):
            floors = floors_of(case, rates)
            measured = list(measure(case, device, floors, deadline))
            report(case, measured)
            rows += [{"suite": suite, **row} for row in measured]
    if chosen.json:
        about = {
            "device": name,
            "date": time.strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            "num_threads": None if device == "cuda" else torch.get_num_threads(),
            "rates": rates,
            "rows": rows,
        }
        chosen.json.write_text(json.dumps(about, indent=1) + "\n")
    if chosen.write_table:
        path = Path(__file__).with_name(TABLE)
        others = [row for row in json.loads(path.read_text()) if row["device"] != name]
        path.write_text(json.dumps(others + table_of(rows, name), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
