"""The public op against its definition: outputs, every gradient, arguments."""

import ast
import sys
from pathlib import Path

import pytest
import torch

import ldru_kernels
from ldru_kernels import (
    LONE_NODE_RULES,
    OPERATORS,
    FeedForward,
    MergeWeights,
    Norm,
    reference,
    shapes,
    torch_path,
    tree_reduce,
)
from ldru_kernels.dropout import is_kept, new_seed, noise

LENGTHS = [33, 1, 2, 3, 7, 33, 4]


def random_weights(
    operator, width, lone_node="zero_left", dtype=torch.float64, population=None, device="cpu"
):
    generator = torch.Generator().manual_seed(1)
    first = () if population is None else (population,)

    def draw(*shape):
        values = torch.randn(first + shape, generator=generator, dtype=torch.float64)
        return (values / shape[0] ** 0.5).to(device, dtype).requires_grad_()

    def group(kind):
        return kind(**{name: draw(*shape) for name, shape in shapes(kind, width).items()})

    identity = draw(width) if lone_node == "identity" else None
    return MergeWeights(group(OPERATORS[operator]), group(FeedForward), group(Norm), identity)


def random_leaves(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def tensors(leaves, weights):
    groups = (weights.operator, weights.node_ffn, weights.node_norm)
    named = {"leaves": leaves} | {
        f"{type(group).__name__}.{name}": tensor
        for group in groups
        for name, tensor in group._asdict().items()
    }
    return named if weights.identity is None else named | {"identity": weights.identity}


def root_and_gradients(op, leaves, weights, **arguments):
    roots = op(leaves, weights, **arguments)
    named = tensors(leaves, weights)
    direction = random_leaves(*roots.shape).detach().to(roots)
    gradients = torch.autograd.grad((roots * direction).sum(), list(named.values()))
    return {"roots": roots.detach()} | dict(zip(named, gradients, strict=True))


@pytest.mark.parametrize("lone_node", LONE_NODE_RULES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_roots_and_every_gradient_agree_with_the_reference(operator, lone_node):
    weights = random_weights(operator, 4, lone_node)
    leaves = random_leaves(len(LENGTHS), 33, 4)
    arguments = {"lengths": torch.tensor(LENGTHS), "lone_node": lone_node}
    found = root_and_gradients(tree_reduce, leaves, weights, **arguments)
    wanted = root_and_gradients(reference.tree_reduce, leaves, weights, **arguments)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-9, msg=name)
        assert wanted[name].abs().sum() > 0


def test_the_forms_of_gelu():
    pairs, exact = random_leaves(5, 8).detach(), random_weights("grc", 4).operator
    tanh = OPERATORS["grc_tanh"](*exact)

    def cell(gelu):
        hidden = (gelu(pairs @ exact.w1 + exact.b1)) @ exact.w2 + exact.b2
        (left, right), (f1, f2, i, c) = pairs.chunk(2, -1), hidden.chunk(4, -1)
        total = f1.sigmoid() * left + f2.sigmoid() * right + i.sigmoid() * c
        return reference.layer_norm(total, exact.norm_weight, exact.norm_bias)

    wanted_exact = cell(lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2)
    wanted_tanh = cell(
        lambda x: x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2
    )
    torch.testing.assert_close(reference.merge(pairs, exact), wanted_exact)
    torch.testing.assert_close(reference.merge(pairs, tanh), wanted_tanh)
    assert 1e-6 < (wanted_exact - wanted_tanh).abs().max() < 1e-2


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 7, 33, 127])
def test_float32_agrees_with_the_float64_reference(num_tokens):
    exact = random_weights("mlp", 8)
    leaves = random_leaves(2, num_tokens, 8)
    rounded = MergeWeights(
        *(
            type(group)(*(tensor.detach().float() for tensor in group))
            for group in (exact.operator, exact.node_ffn, exact.node_norm)
        )
    )
    wanted = reference.tree_reduce(leaves, exact).float()
    torch.testing.assert_close(tree_reduce(leaves.float(), rounded), wanted, rtol=2e-4, atol=2e-4)


def test_gradients_agree_with_finite_differences():
    weights = random_weights("grc", 2)
    leaves = random_leaves(2, 5, 2)
    lengths = torch.tensor([5, 3])
    assert torch.autograd.gradcheck(
        lambda leaves: tree_reduce(leaves, weights, lengths=lengths), (leaves,)
    )


def test_leaves_beyond_the_length_are_not_read():
    weights = random_weights("mlp", 4)
    leaves = random_leaves(len(LENGTHS), 33, 4)
    lengths = torch.tensor(LENGTHS)
    beyond = torch.arange(33) >= lengths[:, None]
    poisoned = leaves.detach().masked_fill(beyond[..., None], torch.nan).requires_grad_()
    found = root_and_gradients(tree_reduce, poisoned, weights, lengths=lengths)
    wanted = root_and_gradients(tree_reduce, leaves, weights, lengths=lengths)
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name
    assert (found["leaves"][beyond] == 0).all()


def test_repetition_is_identical_to_the_bit():
    weights = random_weights("mlp", 16, dtype=torch.float32)
    leaves = random_leaves(32, 40, 16, dtype=torch.float32)
    first = root_and_gradients(tree_reduce, leaves, weights)
    second = root_and_gradients(tree_reduce, leaves, weights)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_blocks_of_rows_do_not_change_the_result(monkeypatch):
    weights = random_weights("mlp", 4)
    leaves = random_leaves(3, 50, 4)
    whole = root_and_gradients(tree_reduce, leaves, weights)
    monkeypatch.setitem(torch_path._BLOCK, "cpu", 7 * 8)
    blocks = root_and_gradients(tree_reduce, leaves, weights)
    for name in whole:
        torch.testing.assert_close(blocks[name], whole[name], rtol=1e-10, atol=1e-10, msg=name)


def test_a_plan_made_in_inference_mode_serves_training():
    weights = random_weights("mlp", 4)
    leaves = random_leaves(2, 19, 4)
    with torch.inference_mode():
        before = tree_reduce(leaves, weights)
    roots = tree_reduce(leaves, weights)
    roots.sum().backward()
    assert torch.equal(before, roots)


def test_one_token_is_its_own_root():
    leaves = random_leaves(3, 1, 4)
    assert torch.equal(tree_reduce(leaves, random_weights("mlp", 4), dropout=0.5), leaves[:, 0])


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("name", ["tree_reduce", "prefix_scan", "tree_reduce_tokens"])
def test_batches_of_any_size(name, batch, num_tokens):
    table, weights = random_leaves(2, 4), random_weights("mlp", 4)
    tokens = torch.arange(batch * num_tokens).view(batch, num_tokens) % 2
    inputs = (table, tokens) if name == "tree_reduce_tokens" else (table[tokens],)
    found = getattr(ldru_kernels, name)(*inputs, weights)
    definition = getattr(reference, name.removesuffix("_tokens"))
    torch.testing.assert_close(found, definition(table[tokens], weights))
    found.sum().backward()
    assert table.grad.isfinite().all()


def test_dropout_zeroes_or_scales_parents():
    weights = random_weights("mlp", 8)
    leaves = random_leaves(200, 2, 8)
    kept = tree_reduce(leaves, weights)
    torch.manual_seed(0)
    dropped = tree_reduce(leaves, weights, dropout=0.25)
    is_zero = dropped == 0
    torch.testing.assert_close(dropped[~is_zero], kept[~is_zero] / 0.75)
    assert 0.2 < is_zero.double().mean() < 0.3
    torch.manual_seed(0)
    assert torch.equal(tree_reduce(leaves, weights, dropout=0.25), dropped)


@pytest.mark.parametrize(("dropout", "node_noise"), [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
@pytest.mark.parametrize("lone_node", LONE_NODE_RULES)
@pytest.mark.parametrize("population", [None, 3])
def test_dropout_and_noise_are_those_of_the_definition(lone_node, population, dropout, node_noise):
    weights = random_weights("mlp", 4, lone_node, population=population)
    leaves = random_leaves(*([population] if population else []), 4, 9, 4)
    arguments = {
        "lengths": torch.tensor([9, 3, 1, 7]),
        "lone_node": lone_node,
        "dropout": dropout,
        "node_noise": node_noise,
    }
    torch.manual_seed(0)
    found = root_and_gradients(tree_reduce, leaves, weights, **arguments)
    torch.manual_seed(0)
    seed = new_seed(leaves.device)
    wanted = root_and_gradients(reference.tree_reduce, leaves, weights, **arguments, seed=seed)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-9, msg=name)


def test_masks_are_fair_and_unrelated():
    # 2^20 draws at 0.3: five standard deviations are 0.0022
    kept = is_kept(new_seed(torch.device("cpu")), 4, torch.arange(4096), 64, 0.3).double()
    assert abs(kept.mean() - 0.7) < 0.0022
    # between members, merges, features and seeds
    for other in (
        kept.roll(1, 0),
        kept.roll(1, 1),
        kept.roll(1, 2),
        is_kept(new_seed(torch.device("cpu")), 4, torch.arange(4096), 64, 0.3).double(),
    ):
        correlation = torch.corrcoef(torch.stack([kept.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 5 / 2**10


def test_noise_is_normal_and_unrelated():
    number = 2**20
    seed = new_seed(torch.device("cpu"))
    drawn = noise(seed, 4, torch.arange(4096), 64, 1.0, torch.float64)
    # five standard deviations of the mean, of the moments and of shares
    assert abs(drawn.mean()) < 5 / number**0.5
    assert abs(drawn.square().mean() - 1) < 5 * (2 / number) ** 0.5
    assert abs(drawn.pow(3).mean()) < 5 * (15 / number) ** 0.5
    assert abs(drawn.pow(4).mean() - 3) < 5 * (96 / number) ** 0.5
    for level in (-3.0, -1.5, -0.3, 0.0, 1.0, 2.5):
        share = float(torch.special.ndtr(torch.tensor(level, dtype=torch.float64)))
        deviation = (share * (1 - share) / number) ** 0.5
        assert abs((drawn < level).double().mean() - share) < 5 * deviation, level
    # between members, merges, features and seeds, and with the masks of dropout
    for other in (
        drawn.roll(1, 0),
        drawn.roll(1, 1),
        drawn.roll(1, 2),
        noise(new_seed(seed.device), 4, torch.arange(4096), 64, 1.0, torch.float64),
        is_kept(seed, 4, torch.arange(4096), 64, 0.5).double(),
    ):
        correlation = torch.corrcoef(torch.stack([drawn.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 5 / number**0.5
    scaled = noise(seed, 4, torch.arange(4096), 64, 0.25, torch.float32)
    torch.testing.assert_close(scaled, 0.25 * drawn.float())


def test_noise_is_added_to_every_parent_and_to_no_leaf():
    weights, leaves = random_weights("mlp", 8), random_leaves(400, 2, 8)
    lengths = torch.full((400,), 2)
    lengths[:100] = 1
    plain = tree_reduce(leaves, weights, lengths=lengths)
    torch.manual_seed(0)
    noisy = tree_reduce(leaves, weights, lengths=lengths, node_noise=0.5)
    assert torch.equal(noisy[:100], plain[:100])
    added = (noisy - plain)[100:]
    # 2400 of them: a standard deviation of 0.5 is known to 0.0072, five times that is allowed
    assert abs(added.std() - 0.5) < 0.036
    assert abs(added.mean()) < 0.051
    torch.manual_seed(0)
    assert torch.equal(tree_reduce(leaves, weights, lengths=lengths, node_noise=0.5), noisy)
    assert not torch.equal(tree_reduce(leaves, weights, lengths=lengths, node_noise=0.5), noisy)


@pytest.mark.parametrize("lone_node", ["carry", "identity", "pad_power_of_two"])
def test_gradients_under_noise_are_finite_differences(lone_node):
    weights = random_weights("gated_sum", 3, lone_node)
    leaves = random_leaves(2, 7, 3)
    named = tensors(leaves, weights)

    def roots(*_):
        torch.manual_seed(4)
        lengths = torch.tensor([7, 5])
        return tree_reduce(leaves, weights, lengths=lengths, lone_node=lone_node, node_noise=0.3)

    assert torch.autograd.gradcheck(roots, tuple(named.values()), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("lone_node", LONE_NODE_RULES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_population_is_its_members_side_by_side(operator, lone_node):
    weights = random_weights(operator, 4, lone_node, population=3)
    leaves = random_leaves(3, len(LENGTHS), 33, 4)
    arguments = {"lengths": torch.tensor(LENGTHS), "lone_node": lone_node}
    found = root_and_gradients(tree_reduce, leaves, weights, **arguments)
    wanted = root_and_gradients(reference.tree_reduce, leaves, weights, **arguments)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("operator", OPERATORS)
def test_recomputing_changes_memory_only(operator):
    weights = random_weights(operator, 4)
    leaves = random_leaves(5, 12, 4)
    for node_noise in (0.0, 0.2):
        found = []
        for recompute in (False, True):
            torch.manual_seed(0)
            how = {"node_noise": node_noise, "recompute": recompute}
            found.append(root_and_gradients(tree_reduce, leaves, weights, **how))
        kept, again = found
        assert all(torch.equal(kept[name], again[name]) for name in kept)


def saved_bytes(recompute):
    weights = random_weights("mlp", 8, dtype=torch.float32)
    leaves = random_leaves(2, 256, 8, dtype=torch.float32)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tree_reduce(leaves, weights, recompute=recompute)
    return sum(sizes)


def test_recomputing_keeps_a_few_states_per_token():
    leaves = 2 * 256 * 8 * 4
    assert saved_bytes(recompute=True) < 5 * leaves
    assert saved_bytes(recompute=False) > 15 * leaves


def test_bfloat16_in_bfloat16_out():
    weights = random_weights("mlp", 4, dtype=torch.bfloat16)
    roots = tree_reduce(random_leaves(2, 5, 4, dtype=torch.bfloat16), weights)
    assert roots.dtype == torch.bfloat16
    assert torch.isfinite(roots).all()


def replaced(group, **changes):
    return random_weights("mlp", 4)._replace(
        **{group: getattr(random_weights("mlp", 4), group)._replace(**changes)}
    )


@pytest.mark.parametrize(
    ("leaves", "weights", "arguments", "message"),
    [
        (torch.ones(2, 4), None, {}, r"leaves: shape \[2, 4\], torch.float32; need floating point"),
        (torch.ones(2, 3, 4, dtype=torch.int64), None, {}, r"leaves: .*torch.int64; need floating"),
        (torch.ones(2, 0, 4), None, {}, r"leaves: shape \[2, 0, 4\].*no empty side"),
        (torch.ones(2, 3, 4), None, {}, r"weights.operator.w1: dtype torch.float64, but leaves"),
        (None, replaced("operator", b2=torch.ones(5)), {}, r"weights.operator.b2: shape \(5,\)"),
        (
            None,
            replaced("node_ffn", w2=torch.ones(16, 4, dtype=torch.float64, device="meta")),
            {},
            r"weights.node_ffn.w2: device meta, but leaves .* need cpu",
        ),
        (
            None,
            random_weights("mlp", 4)._replace(operator=(1, 2)),
            {},
            r"weights.operator: tuple is no operator. Known: ElementwiseSum, GatedSum,",
        ),
        (None, None, {"lone_node": "zero"}, r"lone_node: no rule is called 'zero'. Known: carry,"),
        (None, None, {"lone_node": "identity"}, r"lone_node 'identity' with no identity element"),
        (
            None,
            random_weights("mlp", 4, "identity"),
            {"lone_node": "carry"},
            r"lone_node 'carry' with an identity element",
        ),
        (None, None, {"dropout": 1.0}, r"dropout: 1.0 is not in \[0, 1\)"),
        (None, None, {"node_noise": -0.1}, r"node_noise: -0.1 is no standard deviation: finite"),
        (
            None,
            None,
            {"node_noise": 0.1, "backend": "triton"},
            r"backend: 'triton' draws no noise, and node_noise is 0.1; use 'torch' or 'auto'",
        ),
        (None, None, {"lengths": torch.tensor([3])}, r"lengths: shape \[1\], .* need int64 \[2\]"),
        (None, None, {"lengths": torch.tensor([3.0, 1.0])}, r"lengths: .*torch.float32; need int"),
        (None, None, {"lengths": torch.tensor([3, 0])}, r"lengths: from 0 to 3; leaves hold 1 to"),
        (None, None, {"lengths": torch.tensor([4, 1])}, r"lengths: from 1 to 4; .* 1 to 3 tokens"),
    ],
)
def test_wrong_arguments_are_named(leaves, weights, arguments, message):
    leaves = torch.ones(2, 3, 4, dtype=torch.float64) if leaves is None else leaves
    with pytest.raises(ValueError, match=message):
        tree_reduce(leaves, weights or random_weights("mlp", 4), **arguments)


def test_the_package_needs_torch_and_numpy_only():
    names = {}
    for file in Path(ldru_kernels.__file__).parent.glob("*.py"):
        names[file.name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names[file.name] |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names[file.name].add(node.module.split(".")[0])
    # only where the Triton backend was chosen, and in what is measured against
    optional = {
        "triton_path.py": {"triton"},
        "triton_kernels.py": {"triton"},
        "peers.py": {"jax"},
        "bench_report.py": {"matplotlib"},
    }
    for file, found in names.items():
        allowed = {"numpy", "torch", "ldru_kernels"} | optional.get(file, set())
        assert found - set(sys.stdlib_module_names) <= allowed, file
