"""One sequence on several workers is one: results, every gradient, masks, noise, bytes."""

from __future__ import annotations

import itertools
import json
import os
from functools import partial

import pytest
import torch
import torch.distributed as dist
from tests.kernels.test_tree_reduce import random_leaves, random_weights, tensors
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F

from ldru_kernels import LONE_NODE_RULES, parallel, prefix_scan, tree_reduce, tree_reduce_tokens

WORLD = 4
# longest first; the last worker has nothing to do, and some strings end in the first chunk
LENGTHS = [33, 7, 1, 16, 32, 12]
MOST = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2}
TREES = {
    f"{op}, {lone_node}, dropout and noise {dropout}": (op, lone_node, dropout, torch.float64)
    for op, lone_node, dropout in itertools.product(
        ("states", "tokens"), LONE_NODE_RULES, (0.0, 0.3)
    )
} | {
    f"{op}, {dtype}": (op, "zero_left", 0.3, dtype)
    for op, dtype in itertools.product(("states", "tokens"), (torch.float32, torch.bfloat16))
}
SCANS = {
    f"scan, inclusive {inclusive}, root {has_root}, {dtype}": (inclusive, has_root, dtype)
    for (inclusive, has_root), dtype in itertools.product(
        [(True, False), (True, True), (False, True)], [torch.float64, torch.float32]
    )
} | {"scan, bfloat16": (True, True, torch.bfloat16)}
OTHERS = ["small chunks", "population", "fewer tokens than workers", "data parallel", "bytes"]


def inputs(op, lone_node, dtype, population=None, num_tokens=33):
    """Return what both sides start from: states or a table, tokens and weights."""
    first = () if population is None else (population,)
    weights = random_weights("mlp", 4, lone_node, dtype, population)
    shape = (len(LENGTHS), num_tokens, 4) if op == "states" else (3, 4)
    given = random_leaves(*first, *shape).detach().to(dtype).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    return given, torch.randint(3, (len(LENGTHS), num_tokens), generator=generator), weights


def own_chunk(x, group, dim):
    """Return this worker's tokens of all, with room for as many as the others have."""
    size = parallel.chunk_size(x.shape[dim], dist.get_world_size(group))
    start = dist.get_rank(group) * size
    mine = x.narrow(dim, min(start, x.shape[dim]), max(0, min(size, x.shape[dim] - start)))
    missing = [0, 0] * (x.dim() - 1 - dim) + [0, size - mine.shape[dim]]
    return F.pad(mine, missing, value=torch.nan if x.is_floating_point() else 99)


def on_one(given, tokens, weights, **how):
    torch.manual_seed(7)
    if given.dim() > weights.node_norm.weight.dim() + 1:
        return tree_reduce(given, weights, **how)
    return tree_reduce_tokens(given, tokens, weights, **how)


def on_many(given, tokens, weights, group, **how):
    # the first worker's seed is everybody's
    torch.manual_seed(7 if dist.get_rank(group) == 0 else 8)
    if given.dim() > weights.node_norm.weight.dim() + 1:
        leaves = own_chunk(given, group, given.dim() - 2)
        return parallel.tree_reduce(leaves, weights, group=group, **how)
    return parallel.tree_reduce_tokens(
        given, own_chunk(tokens, group, 1), weights, group=group, **how
    )


def differences(one, many, named):
    """Return how far results and gradients are apart, the latter averaged over all workers."""
    direction = random_leaves(*one.shape).detach().to(one)
    wanted = torch.autograd.grad((one * direction).sum(), list(named.values()))
    mine = torch.autograd.grad((many * direction).sum(), list(named.values()))
    found = {"results": distance(many, one)}
    for name, a, b in zip(named, mine, wanted, strict=True):
        mean = a.double()
        dist.all_reduce(mean)
        found[name] = distance(mean / dist.get_world_size(), b)
    return found


def distance(found, wanted):
    wanted = wanted.detach().double()
    scale = wanted.norm()
    return float((found.detach().double() - wanted).norm() / (scale if scale else 1))


def tree_case(op, lone_node, dropout, dtype, group=None, population=None, **how):
    given, tokens, weights = inputs(op, lone_node, dtype, population)
    how |= {"lengths": torch.tensor(LENGTHS), "lone_node": lone_node, "dropout": dropout}
    how["node_noise"] = 0.2 if dropout else 0.0
    one = on_one(given, tokens, weights, **how)
    many = on_many(given, tokens, weights, group or dist.group.WORLD, **how)
    return differences(one, many, tensors(given, weights))


def scan_case(inclusive, has_root, dtype, group=None):
    """Every worker has the loss of its own prefixes; together they are that of all."""
    group = group or dist.group.WORLD
    leaves, _, weights = inputs("states", "left_fold", dtype)
    root = random_leaves(4).detach().to(dtype).requires_grad_() if has_root else None
    named = tensors(leaves, weights) | ({"root": root} if has_root else {})
    how = {"lengths": torch.tensor(LENGTHS), "inclusive": inclusive, "root": root}
    one = prefix_scan(leaves, weights, **how)
    many = parallel.prefix_scan(own_chunk(leaves, group, 1), weights, group=group, **how)
    direction = random_leaves(*one.shape).detach().to(one)
    wanted = torch.autograd.grad((one * direction).sum(), list(named.values()))
    # what stands beyond the last token is nobody's
    own = own_chunk(direction, group, 1).nan_to_num()
    mine = torch.autograd.grad((many * own).sum(), list(named.values()))
    found = {"results": distance(many, own_chunk(one, group, 1).nan_to_num())}
    for name, a, b in zip(named, mine, wanted, strict=True):
        total = a.double()
        dist.all_reduce(total)
        # of as many groups as there are, each with the whole loss
        share = dist.get_world_size() / dist.get_world_size(group)
        found[name] = distance(total / share, b)
    return found


def few_tokens():
    given, tokens, weights = inputs("tokens", "carry", torch.float64, num_tokens=3)
    how = {"lengths": torch.tensor([3, 1, 2, 3, 1, 2]), "lone_node": "carry"}
    one = on_one(given, tokens, weights, **how)
    return differences(
        one, on_many(given, tokens, weights, dist.group.WORLD, **how), tensors(given, weights)
    )


def data_parallel():
    """Two workers for each half of a batch; the loss is the mean over the halves."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "sequence"))
    given, tokens, weights = inputs("tokens", "left_fold", torch.float64)
    how = {"lone_node": "left_fold"}
    lengths = torch.tensor(LENGTHS)
    both = on_one(given, tokens, weights, lengths=lengths, **how).chunk(2)
    half = mesh.get_local_rank("data")
    group = mesh["sequence"].get_group()
    own = on_many(
        given, tokens.chunk(2)[half], weights, group, lengths=lengths.chunk(2)[half], **how
    )
    assert distance(own, both[half]) < 1e-9
    # the same direction for both halves, in both ways
    return differences((both[0] + both[1]) / 2, own, tensors(given, weights)) | {"results": 0.0}


def exchanged_bytes(num_tokens):
    counted = []

    def counting(collective, tensor_of, *args, **more):
        counted.append(tensor_of(args).nbytes)
        return collective(*args, **more)

    originals = dist.all_gather, dist.all_reduce
    dist.all_gather = partial(counting, originals[0], lambda args: args[1])
    dist.all_reduce = partial(counting, originals[1], lambda args: args[0])
    try:
        given, tokens, weights = inputs("tokens", "zero_left", torch.float32, None, num_tokens)
        lengths = torch.full((len(LENGTHS),), num_tokens)
        on_many(given, tokens, weights, dist.group.WORLD, lengths=lengths).sum().backward()
    finally:
        dist.all_gather, dist.all_reduce = originals
    return counted


def bytes_case():
    roots = len(LENGTHS) * 4 * 4
    found = {n: exchanged_bytes(n) for n in (64, 1024)}
    return {str(n): float(of != [roots, WORLD * roots]) for n, of in found.items()}


def work(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    half = dist.new_group([0, 1]), dist.new_group([2, 3])
    found = {name: tree_case(*case) for name, case in TREES.items()}
    for name, case in TREES.items():
        if case[-1] != torch.float64:
            found[f"{name}, 2 workers"] = tree_case(*case, group=half[rank // 2])
    found |= {name: scan_case(*case) for name, case in SCANS.items()}
    name = next(iter(SCANS))
    found[f"{name}, 2 workers"] = scan_case(*SCANS[name], group=half[rank // 2])
    found["small chunks"] = tree_case("tokens", "pad_power_of_two", 0.3, torch.float64, chunk=2)
    found["population"] = tree_case("states", "left_fold", 0.3, torch.float64, population=2)
    found["fewer tokens than workers"] = few_tokens()
    found["data parallel"] = data_parallel()
    found["bytes"] = bytes_case()
    with open(f"{out}.{rank}", "w") as file:
        json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run all cases in one group of processes; return what each worker saw."""
    folder = tmp_path_factory.mktemp("parallel")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        torch.multiprocessing.start_processes(
            work, (str(folder / "store"), str(folder / "out")), WORLD, start_method="spawn"
        )
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    return [json.loads((folder / f"out.{rank}").read_text()) for rank in range(WORLD)]


TWO = [f"{name}, 2 workers" for name, case in TREES.items() if case[-1] != torch.float64]
TWO.append(f"{next(iter(SCANS))}, 2 workers")


@pytest.mark.parametrize("name", [*TREES, *SCANS, *TWO, *OTHERS])
def test_many_workers_are_one(outcomes, name):
    case = (TREES | SCANS).get(name.removesuffix(", 2 workers"))
    most = MOST[case[-1]] if case else 1e-9
    for rank, found in enumerate(outcomes):
        wrong = {part: far for part, far in found[name].items() if not far <= most}
        assert not wrong, f"worker {rank}"


def test_sizes_of_chunks():
    assert [parallel.chunk_size(n, 4) for n in (1, 3, 4, 5, 8, 9, 33)] == [1, 1, 1, 2, 2, 4, 16]
    assert parallel.chunk_size(2**18, 2) == 2**17
