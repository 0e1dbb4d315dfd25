"""Products of merges, whoever computes them."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.test_tree_reduce import random_leaves, random_weights, root_and_gradients

from ldru_kernels import products, tree_reduce
from ldru_kernels.products import Products

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def calls(request, monkeypatch):
    """Let everything that is large enough go one way; return how often oneDNN was called."""
    if request.param and not HAS_ONEDNN:
        pytest.skip("this PyTorch has no oneDNN")
    made, real = [], products._linear

    def counted(*arguments, **options):
        made.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(products, "has_onednn", lambda: request.param)
    monkeypatch.setattr(products, "_linear", counted)
    yield made
    assert bool(made) == request.param


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(found, wanted):
    assert (found.double() - wanted).norm() <= 1e-6 * wanted.norm()


@pytest.mark.parametrize("population", [1, 2])
@pytest.mark.parametrize(("num_in", "num_out"), [(64, 256), (256, 64)])
def test_products_agree_with_float64(population, num_in, num_out, calls):
    exact = Products(None)
    x, d = random(population, 1030, num_in), random(population, 1030, num_out)
    weight, bias = random(population, num_in, num_out), random(population, 1, num_out)
    wide = torch.baddbmm(bias.double(), x.double(), weight.double())
    out = torch.empty(population, 1030, num_out)
    close(exact.affine(x, weight, bias, out), wide)
    close(exact.affine(x, weight, bias, out, relu=True), wide.relu())
    close(exact.back(d, weight, torch.empty_like(x)), d.double() @ weight.double().mT)
    into = torch.full_like(weight, torch.nan)
    outer = x.double().mT @ d.double()
    exact.outer(x, d, into, adds=False)
    close(into, outer)
    exact.outer(x, d, into, adds=True)
    close(into, 2 * outer)


def test_a_reduction_is_as_exact_either_way(calls):
    weights, leaves = random_weights("mlp", 64), random_leaves(16, 60, 64)
    wanted = root_and_gradients(tree_reduce, leaves, weights)
    narrow = type(weights)(
        *(type(g)(*(t.detach().float().requires_grad_() for t in g)) for g in weights[:3])
    )
    found = root_and_gradients(tree_reduce, leaves.detach().float().requires_grad_(), narrow)
    for name in wanted:
        difference = (found[name].double() - wanted[name]).norm() / wanted[name].norm()
        assert difference <= 1e-5, name


def test_nothing_is_rounded_whatever_torch_is_told(calls):
    weights = random_weights("mlp", 64, dtype=torch.float32)
    leaves = random_leaves(16, 60, 64, dtype=torch.float32)
    exact = tree_reduce(leaves, weights, precision="ieee")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(tree_reduce(leaves, weights, precision="ieee"), exact)
    finally:
        torch.set_float32_matmul_precision(before)
