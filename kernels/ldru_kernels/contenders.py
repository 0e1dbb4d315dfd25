"""What `ldru_kernels.bench` runs: the cases of its suites, and who contends in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldru_kernels import peers
from ldru_kernels.choice import why_not_triton
from ldru_kernels.peers import Step
from ldru_kernels.prefix_scan import prefix_scan
from ldru_kernels.tree_reduce import tree_reduce, tree_reduce_tokens
from ldru_kernels.weights import MergeWeights, listed

SUITES = ("tokens", "small", "long", "peers")
DTYPES = {"bf16": torch.bfloat16, "ieee": torch.float32, "tf32": torch.float32}
# inputs take turns, so that none is found in a cache; longer ones are large enough
_NUM_INPUTS, _LONG = 3, 2**16
# a graph of every level takes the compiler minutes beyond that
_LONGEST_COMPILED = 1024


class Case(NamedTuple):
    """One shape of one op, forward and backward, in one precision.

    ``letters`` is the size of the alphabet where leaves are tokens, else 0.
    """

    op: str
    precision: str
    width: int
    batch: int
    tokens: int
    letters: int = 0

    @property
    def merges(self) -> int:
        """How many merges a tree makes over these leaves, without lone nodes."""
        return self.batch * max(self.tokens - 1, 1)


# (name, how to make its step); making one may turn out to be impossible here
Contender = tuple[str, Callable[[], Step]]


def cases(suite: str, device: str) -> list[Case]:
    """Return the shapes of a suite, the most telling first; a CPU gets fewer, in float32."""
    on_gpu = device == "cuda"
    precisions = ["bf16", "tf32", "ieee"] if on_gpu else ["ieee"]
    batch = 256 if on_gpu else 64
    if suite == "small":
        return [
            Case("tree_reduce", precision, width, batch, tokens)
            for width in ((64, 32, 128, 16) if on_gpu else (64, 32))
            for precision in precisions
            for tokens in ((40, 500) if on_gpu else (40, 64, 512))
        ]
    if suite == "long":
        return [
            Case("tree_reduce", precision, width, 1, tokens)
            for width in ((64, 128) if on_gpu else (64,))
            for precision in precisions[:2]
            for tokens in ([2**20, 2**14, 2**17] if on_gpu else [2**12, 2**14])
        ]
    if suite == "peers":
        lengths = (8, 32, 128, 512, 2048)
        scanned = (64, 1024) if on_gpu else (64, 256)
        return [
            *(Case("tree_reduce", precisions[0], 64, batch // 4, tokens) for tokens in lengths),
            *(Case("prefix_scan", precisions[0], 64, batch // 4, tokens) for tokens in scanned),
        ]
    return [
        *(Case("training_step", "ieee", 32, 128, 40, letters) for letters in (2, 3, 5)),
        *(Case("evaluation", "ieee", 32, 32, 1000, letters) for letters in (2, 3, 5)),
    ]


def backends(device: str) -> list[str]:
    """Return the backends that run operator `mlp` here."""
    sample = torch.empty(1, 1, 32, device=device)
    return ["torch"] if why_not_triton("mlp", sample) else ["torch", "triton"]


def contenders(case: Case, device: str) -> Iterator[Contender]:
    """Yield who contends in a case, the first one being ours."""
    if case.letters:
        yield from _readers_of_tokens(case, device)
        return
    generator = torch.Generator().manual_seed(2)
    dtype = DTYPES[case.precision]
    weights = peers.random_weights(case.width, dtype, torch.device(device))
    shape = case.batch, case.tokens, case.width
    inputs = [
        torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
        for _ in range(_NUM_INPUTS if case.tokens < _LONG else 1)
    ]
    step = partial(_training_pass, inputs, weights)
    reduces, on_gpu = case.op == "tree_reduce", device == "cuda"
    op: Callable[..., Tensor] = tree_reduce if reduces else prefix_scan
    plain = peers.level_by_level if reduces else peers.generic_scan
    for backend in backends(device):
        ours = partial(step, partial(op, precision=case.precision, backend=backend))
        yield backend, ours
        if on_gpu:
            yield f"{backend}, graph", partial(_captured, ours)
    yield "eager" if reduces else "torch associative_scan", partial(step, plain)
    if reduces and on_gpu:
        yield "eager, graph", partial(_captured, partial(step, plain))
    if reduces and case.tokens <= _LONGEST_COMPILED and case.width == 64:
        mode = "reduce-overhead" if on_gpu else "default"
        yield "torch.compile", lambda: step(torch.compile(plain, mode=mode))
    name = "jax.jit" if reduces else "jax associative_scan"
    yield name, partial(peers.jax_step, inputs[0], weights, case.precision, scans=not reduces)


def _training_pass(inputs: list[Tensor], weights: MergeWeights, op: Callable[..., Tensor]) -> Step:
    """Return the forward and backward pass of an op, with the gradient of everything."""
    turn = 0

    def run() -> None:
        nonlocal turn
        turn += 1
        leaves = inputs[turn % len(inputs)]
        results = op(leaves, weights)
        torch.autograd.grad(results.square().sum(), [leaves, *listed(weights)])

    return run


def _captured(make: Callable[[], Step]) -> Step:
    """Return the replay of a step that was captured as a CUDA graph."""
    step = make()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _readers_of_tokens(case: Case, device: str) -> Iterator[Contender]:
    """Yield whole models that classify strings of mixed lengths up to T, or of T in evaluation."""
    generator = torch.Generator().manual_seed(2)
    trains = case.op == "training_step"
    batches = []
    for _ in range(20 if trains else _NUM_INPUTS):
        tokens = torch.randint(case.letters, (case.batch, case.tokens), generator=generator)
        lengths = torch.full((case.batch,), case.tokens)
        if trains:
            lengths = torch.randint(1, case.tokens + 1, (case.batch,), generator=generator)
        labels = torch.randint(2, (case.batch,), generator=generator)
        batches.append((tokens.to(device), lengths, labels.to(device)))

    def shared(leaf: peers.Leaf, tokens: Tensor, lengths: Tensor, weights: MergeWeights) -> Tensor:
        return tree_reduce_tokens(leaf(None), tokens, weights, lengths=lengths)

    def packed(leaf: peers.Leaf, tokens: Tensor, lengths: Tensor, weights: MergeWeights) -> Tensor:
        return tree_reduce(leaf(None)[tokens], weights, lengths=lengths)

    def eager(leaf: peers.Leaf, tokens: Tensor, lengths: Tensor, weights: MergeWeights) -> Tensor:
        return peers.padded_and_masked(leaf(tokens), weights, lengths.to(tokens.device))

    for name, roots in (("equal subtrees once", shared), ("packed", packed), ("eager", eager)):
        make: Any = peers.training_step if trains else peers.evaluation_step
        yield name, partial(make, roots, case.letters, case.width, batches)
