"""The registered ops as citizens of torch: compiler, autocast, determinism, meta checks."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.test_tree_reduce import random_leaves, random_weights, root_and_gradients
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ldru_kernels import LONE_NODE_RULES, OPERATORS, prefix_scan, tree_reduce, tree_reduce_tokens
from ldru_kernels.ops import merge_nodes, tokens_plan, tree_plan
from ldru_kernels.weights import listed

LENGTHS = torch.tensor([9, 1, 4])


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(op):
    # fullgraph: a graph break is an error
    return torch.compile(op, backend="aot_eager", fullgraph=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("lone_node", LONE_NODE_RULES)
def test_a_compiled_reduction_is_the_same_in_one_graph(lone_node, lengths):
    weights, leaves = random_weights("mlp", 4, lone_node), random_leaves(3, 9, 4)
    arguments = {"lengths": lengths, "lone_node": lone_node}
    wanted = root_and_gradients(tree_reduce, leaves, weights, **arguments)
    found = root_and_gradients(compiled(tree_reduce), leaves, weights, **arguments)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_compiled_scan_and_a_compiled_reduction_of_tokens_are_the_same():
    weights, leaves = random_weights("mlp", 4), random_leaves(3, 9, 4)
    wanted = root_and_gradients(prefix_scan, leaves, weights, lengths=LENGTHS)
    found = root_and_gradients(compiled(prefix_scan), leaves, weights, lengths=LENGTHS)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    tokens = torch.randint(2, (3, 9))
    table = random_leaves(2, 4)

    def reduce(table, weights, **arguments):
        return tree_reduce_tokens(table, tokens, weights, **arguments)

    wanted = root_and_gradients(reduce, table, weights, lengths=LENGTHS)
    found = root_and_gradients(compiled(reduce), table, weights, lengths=LENGTHS)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_op_keeps_its_promises():
    leaves, weights = random_leaves(2, 3, 9, 4), random_weights("mlp", 4, population=2)
    tensors = [tensor.detach().requires_grad_() for tensor in listed(weights)]
    extra = torch.zeros(2, 1, 4, dtype=torch.float64, requires_grad=True)
    seed = torch.tensor([1, 2])
    plan = tree_plan(LENGTHS, leaves, "zero_left")
    inputs = (leaves.flatten(1, 2).detach().requires_grad_(), extra, tensors, seed, plan)
    torch.library.opcheck(
        merge_nodes,
        (*inputs, "mlp", 0.0, "ieee", True, "torch", 0.2),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_second_derivatives_are_refused():
    leaves, weights = random_leaves(2, 5, 4), random_weights("mlp", 4)
    roots = tree_reduce(leaves, weights)
    (gradient,) = torch.autograd.grad(roots.square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_fake_tensors_meet_the_registered_op():
    weights, leaves = random_weights("mlp", 4), random_leaves(3, 9, 4)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        roots = tree_reduce(mode.from_tensor(leaves), weights, lengths=LENGTHS)
    assert isinstance(roots, FakeTensor)
    assert roots.shape == (3, 4)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("recompute", [True, False])
def test_gradients_of_every_operator_agree_with_finite_differences(operator, recompute):
    weights = random_weights(operator, 2)
    leaves = random_leaves(2, 5, 2)
    tensors = [*weights.operator, *weights.node_ffn, *weights.node_norm]

    def reduce(leaves, *tensors):
        operator = type(weights.operator)(*tensors[: len(weights.operator)])
        ffn = type(weights.node_ffn)(*tensors[len(weights.operator) : -2])
        norm = type(weights.node_norm)(*tensors[-2:])
        rebuilt = weights._replace(operator=operator, node_ffn=ffn, node_norm=norm)
        return tree_reduce(leaves, rebuilt, lengths=torch.tensor([5, 3]), recompute=recompute)

    assert torch.autograd.gradcheck(reduce, (leaves, *tensors))


def test_autocast_casts_states_and_weights():
    weights = random_weights("mlp", 8, dtype=torch.float32)
    leaves = random_leaves(3, 9, 8, dtype=torch.float32)
    plain = tree_reduce(leaves, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        roots = tree_reduce(leaves.bfloat16(), weights)
        assert roots.dtype == tree_reduce(leaves, weights).dtype == torch.bfloat16
    assert (roots - plain).norm() / plain.norm() < 5e-2
    roots.float().sum().backward()
    assert weights.operator.w1.grad.dtype == torch.float32


def test_autocast_rounds_nothing_within():
    weights = random_weights("mlp", 8, dtype=torch.float32)
    rounded = type(weights)(*(type(group)(*(t.bfloat16() for t in group)) for group in weights[:3]))
    leaves = random_leaves(3, 9, 8, dtype=torch.float32).bfloat16()
    plain = tree_reduce(leaves, rounded, precision="ieee")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tree_reduce(leaves, weights, precision="ieee")
    assert torch.equal(found, plain)


def test_deterministic_mode_is_content():
    weights = random_weights("mlp", 4)
    torch.use_deterministic_algorithms(True)
    try:
        for op in (tree_reduce, prefix_scan):
            root_and_gradients(op, random_leaves(3, 9, 4), weights, lengths=LENGTHS)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "fp8"}, r"precision: no precision is called 'fp8'. Known: bf16, ieee, tf32"),
        ({"precision": "bf16"}, r"precision: 'bf16' would round float64 leaves; use 'ieee'"),
        ({"backend": "cuda"}, r"backend: no backend is called 'cuda'. Known: auto, torch, triton"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tree_reduce(random_leaves(1, 2, 4), random_weights("mlp", 4), **arguments)


def test_float32_follows_torchs_matmul_precision():
    weights = random_weights("mlp", 16, dtype=torch.float32)
    leaves = random_leaves(3, 9, 16, dtype=torch.float32)
    exact, rounded = tree_reduce(leaves, weights), tree_reduce(leaves, weights, precision="bf16")
    assert not torch.equal(exact, rounded)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(tree_reduce(leaves, weights), rounded)
        assert torch.equal(tree_reduce(leaves, weights, precision="ieee"), exact)
    finally:
        torch.set_float32_matmul_precision(before)


def test_plans_of_tokens_are_small():
    tokens = torch.randint(2, (64, 64), generator=torch.Generator().manual_seed(0))
    plan = tokens_plan(None, tokens, 2, "carry", tokens.device)
    assert plan[0].shape[0] < 64 * 63 / 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_captured_graph_replays(backend):
    weights = random_weights("mlp", 16, dtype=torch.float32, device="cuda")
    weights = type(weights)(
        *(type(g)(*(t.detach().requires_grad_() for t in g)) for g in weights[:3])
    )
    leaves = random_leaves(8, 40, 16, dtype=torch.float32).detach().cuda().requires_grad_()

    def step():
        roots = tree_reduce(leaves, weights, backend=backend)
        return roots, torch.autograd.grad(roots.square().sum(), [leaves, weights.operator.w1])

    wanted = step()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1][1], wanted[1][1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("population", [None, 2])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_torch_backend_agrees_on_a_gpu(operator, population):
    first = [] if population is None else [population]
    weights = random_weights(operator, 16, "carry", population=population)
    leaves = random_leaves(*first, 3, 33, 16)
    arguments = {"lengths": torch.tensor([33, 1, 7]), "lone_node": "carry", "backend": "torch"}
    wanted = root_and_gradients(tree_reduce, leaves, weights, **arguments)
    there = type(weights)(
        *(type(g)(*(t.detach().cuda().float().requires_grad_() for t in g)) for g in weights[:3])
    )
    there_leaves = leaves.detach().cuda().float().requires_grad_()
    found = root_and_gradients(tree_reduce, there_leaves, there, precision="ieee", **arguments)
    for name in wanted:
        difference = (found[name].cpu().double() - wanted[name]).norm()
        assert difference <= 1e-5 * wanted[name].norm(), name
