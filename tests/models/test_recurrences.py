"""The parallel recurrences against their definition: values, gradients, and extremes."""

from __future__ import annotations

import pytest
import torch

from ldru_study.models import recurrences, sequential

LENGTHS = [1, 2, 3, 7, 31, 32, 33, 64, 100, 1000]


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unit(x):
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def diagonal(length):
    phases = 3 * normal(2, length, 3, seed=1)
    decay = torch.polar(torch.rand(2, length, 3, dtype=torch.float64), phases)
    return decay, torch.complex(normal(2, length, 3, seed=2), normal(2, length, 3, seed=3))


def selective(length):
    decay = normal(2, length, 3, seed=1).tanh()
    return (
        decay,
        normal(2, length, 3, 4),
        normal(2, length, 5, seed=2),
        normal(2, length, 5, seed=3),
    )


def delta(length):
    key, value = unit(normal(2, 3, length, 2, 4)), normal(2, 3, length, 2, 5, seed=1)
    strength = 2 * normal(2, 3, length, 2, seed=2).sigmoid()
    return unit(normal(2, 3, length, 4, seed=3)), key, value, strength


def affine(length):
    matrices = unit(normal(3, 4, 4, seed=1))
    tokens = torch.randint(3, (5, length), generator=torch.Generator().manual_seed(4))
    counts = torch.tensor([length, 1, -(-length // 2), max(length - 1, 1), length])
    return matrices, normal(3, 4, seed=2), tokens, counts


CASES = {
    "diagonal_scan": diagonal,
    "selective_scan": selective,
    "delta_rule": delta,
    "affine_reduce": affine,
}


def run(function, inputs):
    inputs = [
        x.clone().requires_grad_() if x.is_floating_point() or x.is_complex() else x for x in inputs
    ]
    result = function(*inputs)
    weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).view(result.shape)
    (result * weights).sum().abs().backward()
    return [result.detach(), *(x.grad for x in inputs if x.requires_grad)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients(name, length):
    torch.manual_seed(0)
    inputs = CASES[name](length)
    found = run(getattr(recurrences, name), inputs)
    wanted = run(getattr(sequential, name), inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_float32_is_enough_for_long_strings(name):
    torch.manual_seed(0)
    inputs = CASES[name](2000)
    narrow = [
        x.to(torch.complex64 if x.is_complex() else torch.float32)
        if x.is_floating_point() or x.is_complex()
        else x
        for x in inputs
    ]
    found = getattr(recurrences, name)(*narrow)
    wanted = getattr(sequential, name)(*inputs)
    error = torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)
    assert error < 1e-5


@pytest.mark.parametrize("value", [0.0, -1.0, 1.0, 1e-30])
def test_extreme_decays(value):
    """Nothing is forgotten, or all of it at once; gradients stay finite and right."""
    decay, *others = selective(70)
    decay = torch.full_like(decay, 1.0)
    decay[:, ::3] = value
    found = run(recurrences.selective_scan, (decay, *others))
    wanted = run(sequential.selective_scan, (decay, *others))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_the_same_reflection_again_and_again():
    """Strength 2 and one key: the system to solve is as ill-conditioned as it gets."""
    query, key, value, _ = (x.float() for x in delta(1000))
    key = key[:, :, :1].expand_as(key)
    strength = torch.full(key.shape[:-1], 2.0)
    found = recurrences.delta_rule(query, key, value, strength)
    wanted = sequential.delta_rule(*(x.double() for x in (query, key, value, strength)))
    error = torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)
    assert error < 1e-4


def test_a_product_is_a_householder_transformation():
    """Strength 2 and no values reflect the state: after two tokens it is what it was."""
    query, key, value, strength = delta(3)
    key = key[:, :, 1:2, :1].expand(-1, -1, 3, -1, -1)
    value = torch.cat([value[:, :, :1, :1], torch.zeros_like(value[:, :, 1:, :1])], dim=2)
    strength = torch.full(key.shape[:-1], 2.0, dtype=torch.float64)
    query = query[:, :, :1].expand(-1, -1, 3, -1)
    first, second, third = recurrences.delta_rule(query, key, value, strength).unbind(2)
    torch.testing.assert_close(second, -first)
    torch.testing.assert_close(third, first)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    decay, inputs = (x.requires_grad_() for x in diagonal(6))
    assert torch.autograd.gradcheck(recurrences.diagonal_scan, (decay, inputs))
    shared = decay[:1, :1].detach().requires_grad_()
    assert torch.autograd.gradcheck(recurrences.diagonal_scan, (shared, inputs))


@pytest.mark.parametrize("name", ["selective_scan", "delta_rule", "affine_reduce"])
def test_half_precision_is_computed_in_float32(name):
    torch.manual_seed(0)
    inputs = [x.bfloat16() if x.is_floating_point() else x for x in CASES[name](50)]
    function = getattr(recurrences, name)
    wanted = function(*(x.float() if x.is_floating_point() else x for x in inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = function(*inputs)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted.bfloat16())
