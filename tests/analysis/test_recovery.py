"""Known truths are found again: kinds, half multiples, intervals that cover."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tests.analysis.simulate import curve, truth

from ldru_study.analysis.curves import Anchor, Cells, survival
from ldru_study.analysis.failure import sharpness
from ldru_study.analysis.fits import (
    LAPSE_MIN,
    bounds,
    fit_curve,
    fit_curves,
    fit_pooled,
    maximise,
)
from ldru_study.analysis.judge import judge_curves

SEED = 20260


def kinds(rho, **shape):
    rng = np.random.default_rng(SEED)
    curves = [curve(rng, rho=rho, **shape) for _ in range(40)]
    return Counter(verdict.kind for verdict in judge_curves(curves, levels=()))


@pytest.mark.parametrize("rho", [0.0, 0.01])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("holds", {"lapse": 0.0}),
        ("gradual", {"half": 6.0}),
        ("gradual", {"half": 6.0, "beta": 2.0, "lapse": 0.01}),
        ("never_learned", {"half": 0.01}),
    ],
)
def test_most_simulated_seeds_get_their_kind(kind, shape, rho):
    found = kinds(rho, **shape)
    assert found[kind] >= 34
    # and a wrong answer is rather none at all
    assert found[kind] + found["inconclusive"] >= 38


def test_sharp_seeds_get_their_kind_where_lengths_are_dense():
    found = kinds(0.0, half=6.0, beta=10.0, multiples=np.geomspace(0.5, 50, 25))
    assert found["sharp"] >= 38


def test_overdispersion_invents_no_failure():
    for rho in (0.005, 0.02):
        found = kinds(rho, lapse=0.01)
        assert found["holds"] + found["inconclusive"] >= 38
        assert found["holds"] >= 20


@pytest.mark.parametrize("beta", [1.0, 2.0, 6.0])
def test_half_multiples_are_recovered_and_covered(beta):
    rng = np.random.default_rng(SEED)
    multiples = np.geomspace(0.25, 60, 20)
    curves = [curve(rng, half=5.0, beta=beta, multiples=multiples) for _ in range(60)]
    halves = [verdict.half_multiple for verdict in judge_curves(curves, levels=())]
    values = [half.value for half in halves if half.value is not None]
    assert np.median(values) == pytest.approx(5.0, rel=0.05)
    covered = [
        (half.lower or 0) <= 5.0 <= (half.upper or np.inf)
        for half in halves
        if half.lower or half.upper
    ]
    # nominal 95 %
    assert np.mean(covered) >= 0.85


def test_failure_multiples_invert_the_curve():
    rng = np.random.default_rng(SEED)
    many = curve(
        rng, half=8.0, beta=1.0, multiples=np.geomspace(0.25, 100, 30), total=20_000, chance=0.2
    )
    (verdict,) = judge_curves([many])
    for level, found in verdict.failure_multiples.items():
        # S(m) = level at 8 * log2(1 / level)
        assert found.value == pytest.approx(8 * np.log2(1 / level), rel=0.1)
        assert (truth([found.value], chance=0.2, half=8.0)[0] - 0.2) / 0.8 == pytest.approx(
            level, rel=0.02
        )


def test_the_family_is_nested():
    rng = np.random.default_rng(SEED)
    for _ in range(10):
        fits = fit_curve(curve(rng, half=float(np.exp(rng.uniform(0, 3))), lapse=0.02))
        values = [fits[family].log_likelihood for family in ("holds", "gradual", "weibull")]
        assert values[0] <= values[1] + 1e-6
        assert values[1] <= values[2] + 1e-6


def test_fits_of_many_are_fits_of_each():
    rng = np.random.default_rng(SEED)
    curves = [curve(rng, half=half, beta=beta) for half in (2.0, 9.0) for beta in (1.0, 5.0)]
    for one, together in zip(map(fit_curve, curves), fit_curves(curves), strict=True):
        for family, fit in one.items():
            assert together[family].log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-4)
    (single,) = [fit_pooled(curves[:1])]
    assert single["weibull"].beta == pytest.approx(fit_curve(curves[0])["weibull"].beta, rel=1e-3)


def test_a_constant_error_per_token_is_gradual():
    """1/2 + 1/2 (1 - 2 eps)^L is M1 exactly, with half multiple ln 2 / -ln(1 - 2 eps) / N."""
    epsilon, n = 0.001, 40
    half = np.log(2) / -np.log(1 - 2 * epsilon) / n
    lengths = np.array([10, 40, 400])
    exact = 0.5 + 0.5 * (1 - 2 * epsilon) ** lengths
    assert truth(lengths / n, half=half) == pytest.approx(exact)
    (verdict,) = judge_curves(
        [curve(np.random.default_rng(1), half=half, multiples=np.geomspace(0.25, 60, 20))]
    )
    assert verdict.kind == "gradual"


def test_sharpness_is_the_ratio_of_multiples():
    for beta in (0.7, 1.0, 4.45):
        m90, m10 = (np.log2(1 / share) ** (1 / beta) for share in (0.9, 0.1))
        assert sharpness(beta) == pytest.approx(m10 / m90)
        assert survival(np.array([m90, m10]), 1.0, beta) == pytest.approx([0.9, 0.1])
    assert sharpness(4.45) == pytest.approx(2.0, abs=0.001)


def test_a_climb_leaves_a_lapse_of_nothing():
    """The likelihood's slope by a root is 0 at 0, however much a lapse would explain."""
    rng = np.random.default_rng(SEED)
    cells = Cells.stack([[curve(rng, half=8.0, beta=3.0, lapse=0.05, chance=0.2)]] * 2)
    start = np.log([[8.0, 3.0, 1.0, 1.0]] * 2)
    start[:, 2:] = [[np.sqrt(LAPSE_MIN), 1e-3], [0.2, 0.1]]
    anchor = Anchor(None, np.zeros(2))
    best, value = maximise(start, cells, anchor, bounds(cells, "weibull"), tolerance=1e-3)
    assert value[0] == pytest.approx(value[1], abs=0.01)
    np.testing.assert_allclose(best[:, 2] ** 2, 0.05, atol=0.015)
