"""The Triton backend against the float64 reference: interpreted on a CPU, native on a GPU."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kernels.test_tree_reduce import random_leaves, random_weights, root_and_gradients

from ldru_kernels import LONE_NODE_RULES, MergeWeights, prefix_scan, tree_reduce, tree_reduce_tokens

pytest.importorskip("triton")
from ldru_kernels import choice, launches, phases, torch_path, triton_path
from ldru_kernels.plan import PlanCache

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """Let the interpreter, where a program takes milliseconds, run as few of them as will do."""
    if DEVICE == "cpu":
        tile = launches.Tile(rows=32, block=64, warps=4)
        tiles = launches.Tiles((tile,), (tile,), tile)
        monkeypatch.setattr(triton_path, "tiles_for", lambda wide, operands: tiles)
        monkeypatch.setattr(triton_path, "_num_processors", lambda device: 3)


def cast(weights, dtype, device=DEVICE):
    def group(tensors):
        return type(tensors)(*(t.detach().to(device, dtype).requires_grad_() for t in tensors))

    identity = weights.identity
    if identity is not None:
        identity = identity.detach().to(device, dtype).requires_grad_()
    return MergeWeights(*(group(part) for part in weights[:3]), identity)


def difference(found, wanted):
    scale = wanted.norm()
    # a gradient that is 0 must be 0
    return ((found.cpu().double() - wanted).norm() / (scale if scale else 1)).item()


def compare(op, leaves, weights, *, most=1e-5, dtype=torch.float32, **arguments):
    """Check results and every gradient; leaves and weights are those of a float64 run."""
    precision = arguments.pop("precision", "ieee")
    wanted = root_and_gradients(op, leaves, weights, backend="torch", **arguments)
    found = root_and_gradients(
        op,
        leaves.detach().to(DEVICE, dtype).requires_grad_(),
        cast(weights, dtype),
        backend="triton",
        precision=precision,
        **arguments,
    )
    for name in wanted:
        assert found[name].dtype == dtype
        assert difference(found[name], wanted[name]) <= most, name


def case(width, num_tokens, *, lone_node="zero_left", population=None, batch=2):
    first = () if population is None else (population,)
    leaves = random_leaves(*first, batch, num_tokens, width)
    return leaves, random_weights("mlp", width, lone_node, population=population)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5, 7, 8, 33, 127, 500])
def test_every_length(num_tokens):
    compare(tree_reduce, *case(16, num_tokens))


def test_many_sequences_of_one_token():
    compare(tree_reduce, *case(16, 1, batch=64))


@pytest.mark.parametrize("population", [1, 3])
@pytest.mark.parametrize("lone_node", LONE_NODE_RULES)
def test_every_rule_with_mixed_lengths(lone_node, population):
    leaves, weights = case(16, 19, lone_node=lone_node, population=population, batch=4)
    lengths = torch.tensor([19, 1, 7, 16])
    compare(tree_reduce, leaves, weights, lengths=lengths, lone_node=lone_node)


@pytest.mark.parametrize("width", [16, 32, 48, 64, 128])
def test_every_width(width):
    compare(tree_reduce, *case(width, 7), lengths=torch.tensor([7, 4]))


@pytest.mark.parametrize(
    ("width", "precision", "most"), [(64, "bf16", 2e-2), (48, "tf32", 1e-3), (128, "ieee", 1e-5)]
)
def test_the_tiles_of_a_gpu(width, precision, most, monkeypatch):
    monkeypatch.setattr(triton_path, "tiles_for", launches.tiles_for)
    leaves, weights = case(width, 4, batch=12)
    weights = cast(away_from_kinks(weights), torch.float64, "cpu")
    compare(tree_reduce, leaves, weights, precision=precision, most=most)


@pytest.mark.parametrize("inclusive", [True, False])
def test_scans(inclusive):
    leaves, weights = case(16, 21, batch=3)
    root = torch.linspace(-1, 1, 16)
    lengths = torch.tensor([21, 2, 16])

    def scan(leaves, weights, **arguments):
        return prefix_scan(
            leaves, weights, lengths=lengths, inclusive=inclusive, root=root.to(leaves), **arguments
        )

    compare(scan, leaves, weights)


def test_shared_subtrees():
    table, weights = random_leaves(3, 16), random_weights("mlp", 16)
    tokens = torch.randint(3, (6, 33), generator=torch.Generator().manual_seed(0))

    def reduce(table, weights, **arguments):
        return tree_reduce_tokens(table, tokens.to(table.device), weights, **arguments)

    compare(reduce, table, weights)


# the interpreter's tile does not depend on the example
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=3 if DEVICE == "cpu" else 30,
)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.sampled_from(LONE_NODE_RULES),
    st.sampled_from([16, 32]),
)
def test_any_lengths(lengths, lone_node, width):
    leaves, weights = case(width, 40, lone_node=lone_node, batch=len(lengths))
    compare(tree_reduce, leaves, weights, lengths=torch.tensor(lengths), lone_node=lone_node)


@pytest.fixture
def all_levels_in_one_launch(monkeypatch):
    monkeypatch.setattr(phases, "_FEWEST_SEQUENCES", 1)
    monkeypatch.setattr("ldru_kernels.plan._cache", PlanCache())


@pytest.mark.usefixtures("all_levels_in_one_launch")
@pytest.mark.parametrize("processors", [1, 33])
@pytest.mark.parametrize("lone_node", LONE_NODE_RULES)
def test_all_levels_in_one_launch(lone_node, processors, monkeypatch):
    monkeypatch.setattr(triton_path, "_num_processors", lambda device: processors)
    leaves, weights = case(16, 19, lone_node=lone_node, batch=4)
    lengths = torch.tensor([19, 1, 7, 16])
    compare(tree_reduce, leaves, weights, lengths=lengths, lone_node=lone_node)


@pytest.mark.usefixtures("all_levels_in_one_launch")
def test_pairs_that_begin_elsewhere():
    arguments = {"lengths": torch.tensor([19, 6]), "offsets": (1, 0, 1)}
    compare(tree_reduce, *case(16, 19), **arguments)
    compare(tree_reduce, *case(16, 19), lone_node="carry", **arguments)


def test_all_levels_of_a_scan_in_one_launch():
    leaves, weights = case(16, 9, population=3, batch=3)
    compare(prefix_scan, leaves, weights, lengths=torch.tensor([9, 1, 8]))


@pytest.mark.parametrize("fewest", [1, 100])
def test_a_short_tape_is_used_again(fewest, monkeypatch):
    monkeypatch.setattr(phases, "_FEWEST_SEQUENCES", fewest)
    monkeypatch.setattr("ldru_kernels.plan._cache", PlanCache())
    # 31 * 16 float32 per merge: 40 merges of 63
    monkeypatch.setattr(triton_path, "_TAPE_BYTES", 40 * 31 * 16 * 4)
    compare(tree_reduce, *case(16, 63))
    compare(prefix_scan, *case(16, 16, population=2, batch=1))


@pytest.mark.parametrize("population", [None, 3])
def test_dropout_has_the_same_masks_as_the_torch_backend(population):
    leaves, weights = case(16, 19, population=population)
    arguments = {"dropout": 0.3, "lengths": torch.tensor([19, 6])}
    leaves = leaves.detach().to(DEVICE, torch.float32).requires_grad_()
    found = {}
    for backend in ("torch", "triton"):
        torch.manual_seed(5)
        found[backend] = root_and_gradients(
            functools.partial(tree_reduce, backend=backend),
            leaves,
            cast(weights, torch.float32),
            **arguments,
        )
    for name in found["torch"]:
        wanted = found["torch"][name].cpu().double()
        assert difference(found["triton"][name], wanted) <= 1e-5, name


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        (torch.float32, "bf16"),
        (torch.float32, "tf32"),
        (torch.bfloat16, None),
        (torch.float16, None),
        (torch.bfloat16, "ieee"),
    ],
)
def test_rounded_operands(dtype, precision):
    # deeper, the gradients of these leaves are too small for float16
    leaves, weights = case(32, 5)
    # values that the dtype has, so that only the arithmetic differs
    leaves = leaves.detach().to(dtype).double().requires_grad_()
    weights = cast(cast(away_from_kinks(weights), dtype, "cpu"), torch.float64, "cpu")
    compare(tree_reduce, leaves, weights, dtype=dtype, precision=precision, most=2e-2)


def test_bfloat16_roots_of_a_deep_tree():
    leaves, weights = case(32, 33)
    leaves = leaves.detach().bfloat16().double()
    weights = cast(cast(weights, torch.bfloat16, "cpu"), torch.float64, "cpu")
    wanted = tree_reduce(leaves, weights)
    found = tree_reduce(
        leaves.to(DEVICE, torch.bfloat16), cast(weights, torch.bfloat16), backend="triton"
    )
    assert difference(found, wanted) <= 2e-2


def away_from_kinks(weights):
    """Bias every hidden unit so much that rounding cannot switch a relu on or off."""

    def biased(group, *names):
        sides = {name: torch.where(getattr(group, name) > 0, 8.0, -8.0) for name in names}
        return group._replace(**sides)

    operator = biased(weights.operator, "b1", "b2")
    # gates of order one all the same
    operator = operator._replace(w2=operator.w2 / 8, w3=operator.w3 / 8)
    return weights._replace(operator=operator, node_ffn=biased(weights.node_ffn, "b1"))


def test_inputs_need_not_be_contiguous():
    leaves, weights = case(16, 9, batch=4)
    turned = leaves.detach().transpose(0, 1).contiguous().requires_grad_()
    operator = weights.operator._replace(w1=weights.operator.w1.detach().mT.contiguous().mT)
    spread = MergeWeights(operator, *weights[1:])

    def reduce(leaves, weights, **arguments):
        return tree_reduce(leaves.transpose(0, 1), weights, **arguments)

    wanted = tree_reduce(leaves, weights)
    device_weights = cast(spread, torch.float32)
    found = tree_reduce(
        turned.to(DEVICE, torch.float32).transpose(0, 1), device_weights, backend="triton"
    )
    assert difference(found, wanted) <= 1e-5
    compare(reduce, turned, weights)


@pytest.mark.parametrize("op", [tree_reduce, prefix_scan])
def test_nothing_is_read_before_it_is_written(op, monkeypatch):
    fresh = torch.Tensor.new_empty

    def poisoned(self, *size, **options):
        found = fresh(self, *size, **options)
        return found.fill_(torch.nan) if found.is_floating_point() else found

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    leaves, weights = case(48, 13, batch=3)
    lengths = torch.tensor([13, 1, 6])
    beyond = (torch.arange(13) >= lengths[:, None])[..., None]
    compare(op, leaves.detach().masked_fill(beyond, 0).requires_grad_(), weights, lengths=lengths)
    poisoned_leaves = leaves.detach().masked_fill(beyond, torch.nan).to(DEVICE, torch.float32)
    found = op(poisoned_leaves, cast(weights, torch.float32), lengths=lengths, backend="triton")
    assert torch.isfinite(found).all()


def test_repetition_is_identical_to_the_bit():
    leaves, weights = case(32, 20, batch=4)
    leaves, weights = (
        leaves.detach().to(DEVICE, torch.float32).requires_grad_(),
        cast(weights, torch.float32),
    )
    first = root_and_gradients(tree_reduce, leaves, weights, backend="triton")
    second = root_and_gradients(tree_reduce, leaves, weights, backend="triton")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("operator", "width", "dtype", "message"),
    [
        ("grc", 16, torch.float32, r"'triton' knows operator 'mlp' and not 'grc'; use 'torch'"),
        ("mlp", 16, torch.float64, r"'triton' computes in float32, and the leaves are float64"),
        ("mlp", 20, torch.float32, r"'triton' takes E in multiples of 16 up to 128, and this is 2"),
        ("mlp", 144, torch.float32, r"up to 128, and this is 144"),
    ],
)
def test_what_it_cannot_take_is_said(operator, width, dtype, message):
    leaves = random_leaves(1, 2, width).detach().to(dtype)
    weights = cast(random_weights(operator, width), dtype, "cpu")
    with pytest.raises(ValueError, match=message):
        tree_reduce(leaves, weights, backend="triton")


def test_a_cpu_without_the_interpreter_is_said(monkeypatch):
    monkeypatch.setattr(triton_path, "interprets", lambda: False)
    leaves, weights = case(16, 2)
    with pytest.raises(
        ValueError, match=r"'triton' needs a CUDA device, and the leaves are on cpu"
    ):
        tree_reduce(leaves.float(), cast(weights, torch.float32, "cpu"), backend="triton")


def test_missing_triton_is_said(monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    leaves, weights = case(16, 2)
    with pytest.raises(ValueError, match=r"needs the package triton, which is not installed; use"):
        tree_reduce(leaves.float(), cast(weights, torch.float32, "cpu"), backend="triton")


def test_the_choice_follows_the_nearest_measured_row(monkeypatch):
    row = {"device": "a GPU", "operands": "bf16", "width": 64, "torch_ms": 1.0}
    rows = [
        row | {"merges": 1000, "triton_ms": 0.5},
        row | {"merges": 1_000_000, "triton_ms": 2.0},
    ]
    monkeypatch.setattr(choice, "_measured", lambda: rows)
    chosen = [choice._faster("a GPU", "bf16", 64, size) for size in (1, 900, 20_000, 40_000, 10**9)]
    assert chosen == ["triton", "triton", "triton", "torch", "torch"]
    for other in (("another", "bf16", 64), ("a GPU", "ieee", 64), ("a GPU", "bf16", 32)):
        assert choice._faster(*other, 1000) == "torch"


def test_the_shipped_table_has_the_rows_that_the_choice_reads():
    for row in choice._measured():
        assert {"device", "operands", "width", "merges", "torch_ms", "triton_ms"} <= set(row)


def test_noise_goes_to_the_torch_backend(monkeypatch):
    leaves = SimpleNamespace(
        device=SimpleNamespace(type="cuda"), shape=(1, 2, 16), dtype=torch.float32
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(choice, "_faster", lambda *_: "triton")
    monkeypatch.setattr(choice, "find_spec", lambda name: name)
    arguments = "auto", "mlp", leaves, "ieee", 1000
    assert choice.choose_backend(*arguments) == "triton"
    assert choice.choose_backend(*arguments, node_noise=0.1) == "torch"


def test_kept_sizes_are_those_of_the_torch_backend_only():
    own = torch_path.Settings("mlp", 0.0, "ieee", keeps_hidden=True, backend="triton")
    assert torch_path.kept_size(own, 16) == 0
    assert torch_path.kept_size(own._replace(backend="torch"), 16) == 14 * 16
