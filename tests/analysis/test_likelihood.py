"""The likelihood against scipy's beta-binomial, and its derivatives against differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import betabinom

from ldru_study.analysis import curves
from ldru_study.analysis.curves import (
    Anchor,
    Cells,
    binomial_coefficients,
    derivatives,
    log_likelihood,
)

ROWS, LENGTHS = 6, 9


@pytest.fixture
def cells():
    rng = np.random.default_rng(1)
    total = rng.integers(1, 3000, (ROWS, LENGTHS)).astype(float)
    total[0, -2:] = 0
    correct = rng.binomial(total.astype(int), 0.7).astype(float)
    correct[1], correct[2, 0] = total[1], 0
    multiples = np.log(np.geomspace(0.5, 20, LENGTHS)) + np.zeros((ROWS, 1))
    return Cells(multiples, correct, total, np.full((ROWS, LENGTHS), 0.2))


def parameters():
    rng = np.random.default_rng(2)
    low, high = [-0.5, -0.5, 0.01, 0.002], [2.5, 2.0, 0.3, 0.4]
    return rng.uniform(low, high, (ROWS, 4))


@pytest.mark.parametrize("form", ["weibull", "logistic"])
def test_the_likelihood_is_the_beta_binomial(cells, form):
    at = parameters()
    half, beta, lapse, rho = np.exp(at[:, 0]), np.exp(at[:, 1]), at[:, 2] ** 2, at[:, 3] ** 2
    ratio = np.exp(cells.log_multiple) / half[:, None]
    s = np.exp2(-(ratio ** beta[:, None]))
    if form == "logistic":
        s = 1 / (1 + ratio ** (2 * np.log(2) * beta[:, None]))
    p = 0.2 + (0.8 - lapse[:, None]) * s
    c = (1 / rho - 1)[:, None]
    wanted = betabinom.logpmf(cells.num_correct, cells.num_total, p * c, (1 - p) * c)
    found = log_likelihood(at, cells, Anchor(None, np.zeros(ROWS), form))
    found += binomial_coefficients(cells)
    np.testing.assert_allclose(found, np.where(cells.num_total > 0, wanted, 0).sum(1), rtol=1e-8)


@pytest.mark.parametrize("form", ["weibull", "logistic"])
@pytest.mark.parametrize("level", [None, 0.5])
def test_the_derivatives_are_the_slopes(cells, form, level):
    anchor, at, width = Anchor(level, np.full(ROWS, 0.2), form), parameters(), 1e-6
    steps = width * np.eye(4)[:, None]
    rise = log_likelihood(at + steps, cells, anchor) - log_likelihood(at - steps, cells, anchor)
    gradient, hessian = derivatives(at, cells, anchor)
    np.testing.assert_allclose(gradient, rise.T / (2 * width), rtol=1e-4, atol=1e-3)
    rise = derivatives(at + steps, cells, anchor)[0] - derivatives(at - steps, cells, anchor)[0]
    np.testing.assert_allclose(hessian, rise.swapaxes(0, 1) / (2 * width), rtol=1e-5, atol=1e-2)


def test_equal_numbers_of_strings_count_as_different_ones(cells):
    """Where all lengths have as many strings, their common term is taken once."""
    at, anchor = parameters(), Anchor(None, np.zeros(ROWS))
    total = np.where(cells.num_total > 0, 512.0, 0.0)
    alike = replace(cells, num_total=total, num_correct=np.minimum(cells.num_correct, total))
    # a length with one string more in the last row makes every row a general one
    odd = replace(
        alike, num_total=total + (np.arange(ROWS) == ROWS - 1)[:, None] * np.eye(LENGTHS)[0]
    )
    for function in (log_likelihood, lambda *a: derivatives(*a)[0], lambda *a: derivatives(*a)[1]):
        found, wanted = (function(at, x, anchor)[:-1] for x in (alike, odd))
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("form", ["weibull", "logistic"])
def test_an_anchor_is_where_the_excess_is_its_level(form):
    """At t = m the chance-corrected excess is the level, whatever the lapse."""
    at = np.array([[np.log(3.0), 0.7, 0.2, 0.05]])
    one = Cells(*(np.array([[x]]) for x in (np.log(3.0), 1.0, 1.0, 0.2)))
    p = np.exp(log_likelihood(at, one, Anchor(0.6, np.array([0.2]), form)))
    assert (p[0] - 0.2) / 0.8 == pytest.approx(0.6)


def test_rows_in_blocks_are_rows_at_once(cells, monkeypatch):
    at, anchor = parameters(), Anchor(0.5, np.full(ROWS, 0.2))
    whole = log_likelihood(at, cells, anchor), derivatives(np.stack([at] * 3), cells, anchor)
    monkeypatch.setattr(curves, "_BLOCK", 1)
    np.testing.assert_array_equal(log_likelihood(at, cells, anchor), whole[0])
    for found, wanted in zip(derivatives(np.stack([at] * 3), cells, anchor), whole[1], strict=True):
        np.testing.assert_array_equal(found, wanted)
