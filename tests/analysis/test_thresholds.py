"""The distribution of half multiples over seeds: its integral and the search for its scatter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import norm

from ldru_study.analysis import thresholds

FINE = np.linspace(-20, 22, 800_001)


def seeds(*, num_cells=3, num_seeds=4, narrow=0.2):
    """Return made-up likelihoods: normal, lopsided, with a plateau on the right as of a step."""
    rng = np.random.default_rng(1)
    shape = num_cells, num_seeds, 1
    centre, width = rng.normal(1, 0.3, shape), narrow * rng.uniform(0.5, 2, shape)
    knots = np.sort(centre + width * rng.uniform(-6, 6, (*shape[:2], 33)), axis=-1)
    z = (knots - centre) / width
    table = -400 - 0.5 * np.where(z > 0, np.minimum(z, 2.0), z) ** 2
    is_real = np.ones(shape[:2], bool)
    is_real[0, -1] = False
    return knots, np.where(is_real[..., None], table, 0.0), is_real


@pytest.mark.parametrize("sigma", [0.004, 0.1, 3.0])
def test_the_likelihood_is_the_integral_over_the_half_multiples(sigma):
    knots, table, is_real = seeds()
    mu = np.array([[0.6, 1.0, 1.5]] * 3)
    found = thresholds._marginal(
        mu, np.full(mu.shape, sigma), thresholds._Seeds.of(knots, table, is_real)
    )
    for cell, row in enumerate(mu):
        for q, centre in enumerate(row):
            density = norm.pdf(FINE, centre, sigma)
            wanted = sum(
                np.log(trapezoid(np.interp(FINE, x, np.exp(y + 400)) * density, FINE)) - 400
                for x, y, real in zip(knots[cell], table[cell], is_real[cell], strict=True)
                if real
            )
            assert found[cell, q] == pytest.approx(wanted, abs=1e-4)


def test_far_from_every_peak_the_likelihood_keeps_falling():
    z = np.array([-60.0, *np.linspace(-6, 6, 31), 60.0])[None, None]
    some = thresholds._Seeds.of(0.02 * z, -0.5 * z**2, np.ones((1, 1), bool))
    for side in (-1, 1):
        mu = side * np.array([[0.5, 1.0, 1.5, 1.8, 2.1]])
        values = thresholds._marginal(mu, np.full(mu.shape, 0.1), some)[0]
        # two normal distributions, one upon the other
        wanted = norm.logpdf(0.5, 0, np.hypot(0.1, 0.02)) + np.log(0.02 * np.sqrt(2 * np.pi))
        assert values[0] == pytest.approx(wanted, rel=0.01)
        assert (np.diff(values) < -5).all()
        assert values[-1] > -250


@pytest.mark.parametrize("narrow", [0.01, 0.2, 1.0])
def test_the_scatter_found_is_the_best_of_all(narrow):
    some = thresholds._Seeds.of(*seeds(num_cells=8, narrow=narrow))
    mu = np.linspace(0, 2, 9) + np.zeros((8, 1))
    best, scatter = thresholds._best_scatter(mu, some)
    every = np.stack(
        [thresholds._marginal(mu, np.full(mu.shape, s), some) for s in thresholds._SCATTERS]
    )
    # a parabola through the three best reaches a little higher than any of them
    assert (best >= every.max(0) - 1e-9).all()
    assert (best <= every.max(0) + 1).all()
    step = thresholds._SCATTERS[1] / thresholds._SCATTERS[0]
    ratio = scatter / thresholds._SCATTERS[every.argmax(0)]
    assert ((ratio > step**-0.51) & (ratio < step**0.51)).all()
