"""Measures the ops against every peer at hand: ``python -m ldru_kernels.bench``.

First the correctness gate: every backend against the float64 reference. On red nothing is timed.
Contenders of a case then run in turn, round by round, so that a slow moment hits all of them;
medians and quartiles are over rounds, on a GPU of CUDA events around calls on rotating inputs.
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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldru_kernels import peers
from ldru_kernels import reference as definition
from ldru_kernels.choice import TABLE, choose_operands, why_not_triton
from ldru_kernels.prefix_scan import prefix_scan
from ldru_kernels.tree_reduce import tree_reduce, tree_reduce_tokens
from ldru_kernels.weights import MergeWeights

_ROUNDS = 11
_DTYPES = {"bf16": torch.bfloat16, "ieee": torch.float32, "tf32": torch.float32}
# FLOPs of a merge, in E^2: 62 forward and twice as many backward
_FLOPS = 62 * 3
# elements that a merge has to move: two states in and one out, and the same for gradients
_ELEMENTS = 9


class Case(NamedTuple):
    """One shape of one op, in one precision."""

    op: str
    precision: str
    width: int
    batch: int
    tokens: int
    letters: int = 0

    @property
    def merges(self) -> int:
        """How many merges the reduction makes, about; the scan makes up to twice as many."""
        return self.batch * max(self.tokens - 1, 1)


def cases(suite: str, device: str) -> list[Case]:
    """Return the shapes of a suite; a CPU gets the smaller ones, in float32."""
    on_gpu = device == "cuda"
    precisions = ["bf16", "tf32", "ieee"] if on_gpu else ["ieee"]
    if suite == "small":
        return [
            Case("tree_reduce", precision, width, 256 if on_gpu else 64, tokens)
            for precision in precisions
            for width in ((16, 32, 64, 128) if on_gpu else (32, 64))
            for tokens in ((40, 500) if on_gpu else (40, 64, 512))
        ]
    if suite == "long":
        lengths = [2**14, 2**17, 2**20] if on_gpu else [2**12, 2**14]
        return [
            Case("tree_reduce", precision, width, 1, tokens)
            for precision in precisions[:2]
            for width in ((64, 128) if on_gpu else (64,))
            for tokens in lengths
        ]
    if suite == "tokens":
        return [
            Case("tree_reduce_tokens", "ieee", 32, batch, tokens, letters)
            for batch, tokens in ((128, 40), (32, 1000))
            for letters in (2, 3, 5)
        ]
    return [
        Case("prefix_scan", precisions[0], 64, 256 if on_gpu else 16, tokens)
        for tokens in ((64, 1024) if on_gpu else (64, 256))
    ]


def gate(device: str) -> list[str]:
    """Return what disagrees with the float64 reference, results or gradients; nothing is good."""
    wrong = []
    lengths = torch.tensor([33, 1, 7])
    wide = peers.random_weights(32, torch.float64, torch.device("cpu"))
    leaves = torch.randn(3, 33, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for op, exact in ((tree_reduce, definition.tree_reduce), (prefix_scan, definition.prefix_scan)):
        wanted = _outcome(exact, leaves, wide, lengths)
        for backend in _backends(device):
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
    return [result.detach(), *torch.autograd.grad(result.square().sum(), [leaves, *_all(weights)])]


def _all(weights: MergeWeights) -> list[Tensor]:
    return [*weights.operator, *weights.node_ffn, *weights.node_norm]


def _backends(device: str) -> list[str]:
    sample = torch.empty(1, 1, 32, device=device)
    return ["torch"] if why_not_triton("mlp", sample) else ["torch", "triton"]


def contenders(case: Case, device: str) -> Iterator[tuple[str, Callable[[], peers.Step]]]:
    """Yield names and how to make their steps, which may turn out to be impossible here."""
    dtype = _DTYPES[case.precision]
    weights = peers.random_weights(case.width, dtype, torch.device(device))
    shape = case.batch, case.tokens, case.width
    generator = torch.Generator().manual_seed(2)
    inputs = [
        torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
        for _ in range(3 if case.tokens < 2**16 else 1)
    ]

    def step(op: Callable[..., Tensor], *more: Any, **how: Any) -> peers.Step:
        turn = 0

        def run() -> None:
            nonlocal turn
            turn += 1
            leaves = inputs[turn % len(inputs)]
            results = op(leaves, weights, *more, **how)
            torch.autograd.grad(results.square().sum(), [leaves, *_all(weights)])

        return run

    if case.op == "tree_reduce_tokens":
        yield from _tokens_contenders(case, weights, generator)
        return
    op: Callable[..., Tensor] = tree_reduce if case.op == "tree_reduce" else prefix_scan
    plain = peers.level_by_level if case.op == "tree_reduce" else peers.generic_scan
    for backend in _backends(device):
        yield backend, lambda b=backend: step(op, precision=case.precision, backend=b)  # type: ignore[misc]
        if device == "cuda":
            yield (
                f"{backend}, graph",
                lambda b=backend: _captured(  # type: ignore[misc]
                    step(op, precision=case.precision, backend=b)
                ),
            )
    name = "eager" if case.op == "tree_reduce" else "torch associative_scan"
    yield name, lambda: step(plain)
    if case.op == "tree_reduce" and device == "cuda":
        yield "eager, graph", lambda: _captured(step(plain))
    if case.op == "tree_reduce" and case.tokens <= 1024:
        mode = "reduce-overhead" if device == "cuda" else "default"
        yield "torch.compile", lambda: step(torch.compile(plain, mode=mode))
    name = "jax.jit" if case.op == "tree_reduce" else "jax associative_scan"
    scans = case.op == "prefix_scan"
    yield name, lambda: peers.jax_step(inputs[0], weights, case.precision, scans=scans)


def _tokens_contenders(
    case: Case, weights: MergeWeights, generator: torch.Generator
) -> Iterator[tuple[str, Callable[[], peers.Step]]]:
    """Forward and backward pass of mixed lengths up to T <= 40; longer ones forward only."""
    table = torch.randn(case.letters, case.width, generator=generator).requires_grad_()
    tokens = torch.randint(case.letters, (case.batch, case.tokens), generator=generator)
    trains = case.tokens <= 40
    lengths = torch.full((case.batch,), case.tokens)
    if trains:
        lengths = torch.randint(1, case.tokens + 1, (case.batch,), generator=generator)

    def step(op: Callable[[], Tensor]) -> peers.Step:
        def run() -> None:
            with torch.set_grad_enabled(trains):
                results = op()
            if trains:
                torch.autograd.grad(results.square().sum(), [table, *_all(weights)])

        return run

    yield (
        "equal subtrees once",
        lambda: step(lambda: tree_reduce_tokens(table, tokens, weights, lengths=lengths)),
    )
    yield "packed", lambda: step(lambda: tree_reduce(table[tokens], weights, lengths=lengths))
    yield (
        "eager",
        lambda: step(lambda: peers.padded_and_masked(table[tokens], weights, lengths)),
    )


def _captured(step: peers.Step) -> peers.Step:
    """Return the replay of a step that was captured as a CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def measure(case: Case, device: str, floors: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Yield one row per contender, the first one being ours."""
    steps, peaks = {}, {}
    for name, make in contenders(case, device):
        try:
            step = make()
            step()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            step()
        except Exception as error:  # noqa: BLE001 -- a peer that cannot run is a row that says so
            reason = str(error).strip().splitlines() or [""]
            yield {
                **case._asdict(),
                "contender": name,
                "failed": f"{type(error).__name__}: {reason[0]}",
            }
            continue
        steps[name] = step
        peaks[name] = torch.cuda.max_memory_allocated() if device == "cuda" else None
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            times[name].append(_milliseconds(step, device))
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4)
        yield {
            **case._asdict(),
            "contender": name,
            "merges": case.merges,
            "median_ms": median,
            "quartiles_ms": [low, high],
            "peak_bytes": peaks[name],
            "of_matmul_rate": floors["matmul_ms"] / median,
            "of_copy_rate": floors["copy_ms"] / median,
        }


def _milliseconds(step: peers.Step, device: str) -> float:
    if device != "cuda":
        begin = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - begin)
    begin_event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end_event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin_event.record()
    step()
    end_event.record()
    torch.cuda.synchronize()
    return float(begin_event.elapsed_time(end_event))


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
        found[str(dtype)] = rate(lambda a=a: a @ a, 2.0 * side**3)  # type: ignore[misc]
    return found


def floors_of(case: Case, rates: dict[str, float]) -> dict[str, float]:
    """Return the least time for the FLOPs and for the bytes of a case, in ms."""
    dtype = _DTYPES[case.precision]
    merges = case.merges * (2 if case.op == "prefix_scan" else 1)
    moved = merges * _ELEMENTS * case.width * dtype.itemsize
    return {
        "matmul_ms": 1e3 * merges * _FLOPS * case.width**2 / rates[str(dtype)],
        "copy_ms": 1e3 * moved / rates["copy"],
    }


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


def report(case: Case, rows: list[dict[str, Any]], floors: dict[str, float]) -> None:
    """Print one case; ratios are to the first contender, above 1 is slower than it."""
    letters = f", {case.letters} letters" if case.letters else ""
    print(
        f"\n{case.op}: B = {case.batch}, T = {case.tokens}, E = {case.width}, {case.precision}"
        f"{letters}; floors: FLOPs {floors['matmul_ms']:.3g} ms, bytes {floors['copy_ms']:.3g} ms"
    )
    ours = next((row["median_ms"] for row in rows if "median_ms" in row), None)
    for row in rows:
        if "failed" in row:
            print(f"  {row['contender']:24} not measured: {row['failed'][:100]}")
            continue
        low, high = row["quartiles_ms"]
        peak = f"  {row['peak_bytes'] / 2**20:8.0f} MiB" if row["peak_bytes"] else ""
        print(
            f"  {row['contender']:24}{row['median_ms']:10.3f} ms  ({low:.3f} to {high:.3f})"
            f"  x {row['median_ms'] / ours:5.2f}{peak}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run suites; return 1 where the gate is red."""
    parser = argparse.ArgumentParser(prog="python -m ldru_kernels.bench", description=__doc__)
    parser.add_argument("--suite", choices=["small", "long", "peers", "tokens"], action="append")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all rows to this file")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument(
        "--write-table",
        action="store_true",
        help="let backend='auto' choose by these rows from now on",
    )
    chosen = parser.parse_args(arguments)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    wrong = gate(device)
    if wrong:
        print("wrong, so nothing is timed:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    rates = ceilings(device)
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads; gate: green")
    print(f"copy {rates['copy'] / 1e9:.0f} GB/s", end="")
    print(*(f", {k[6:]} {v / 1e12:.2f} TFLOP/s" for k, v in rates.items() if k != "copy"), sep="")
    rows = []
    for suite in chosen.suite or ["small", "long", "peers", "tokens"]:
        for case in cases(suite, device):
            floors = floors_of(case, rates)
            measured = list(measure(case, device, floors))
            report(case, measured, floors)
            rows += [{"suite": suite, "device": name, **row} for row in measured]
    if chosen.json:
        about = {"torch": torch.__version__, "rates": rates, "rounds": _ROUNDS, "rows": rows}
        chosen.json.write_text(json.dumps(about, indent=1) + "\n")
    if chosen.write_table:
        path = Path(__file__).with_name(TABLE)
        others = [row for row in json.loads(path.read_text()) if row["device"] != name]
        path.write_text(json.dumps(others + table_of(rows, name), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
