"""Failure length against what varies: known laws are found, and what cannot be known is refused."""

from __future__ import annotations

import dataclasses
import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from lifelines import KaplanMeierFitter, LogNormalAFTFitter, WeibullAFTFitter
from scipy.optimize import check_grad, minimize
from tests.analysis.simulate import curve, from_accuracies
from tests.conftest import submit_tiny

from ldru_study.analysis import power_law
from ldru_study.analysis.accelerated import EXTREME_VALUE, NORMAL, fit_line
from ldru_study.analysis.counts import CellCurves, LengthCurve
from ldru_study.analysis.power_law import fit_power_law, huber
from ldru_study.analysis.scaling import (
    Refusal,
    Regression,
    Run,
    fit_regression,
    run_of,
    scale,
    turnbull,
    turnbull_median,
)
from ldru_study.analysis.series import scale_cells
from ldru_study.cli import main
from ldru_study.errors import StudyError
from ldru_study.spec.model import LdruConfig


def runs(rng, exponent, *, longest=20 * 1.5**13, per_value=8, scatter=0.4):
    """Return runs whose failure length grows as x^exponent, on lengths up to ``longest``."""
    grid = 20 * 1.5 ** np.arange(14)
    grid = grid[grid <= longest]
    x = np.repeat([10.0, 20.0, 40.0, 80.0], per_value)
    fails = 120 * (x / 30) ** exponent * np.exp(scatter * rng.normal(size=len(x)))
    return [
        Run(a, max([0, *grid[grid < t]]), min([*grid[grid >= t], np.inf]))
        for a, t in zip(x, fails, strict=True)
    ]


def test_intervals_that_touch_share_nothing():
    cells, mass = turnbull([0, 40, 80, 80, 160, 160], [40, 80, 160, 160, np.inf, np.inf])
    assert cells.tolist() == [[0, 40], [40, 80], [80, 160], [160, np.inf]]
    assert mass == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3])
    assert turnbull_median([0, 40, 80, 160, 160], [40, 80, 160, np.inf, np.inf]) == (80, 160)
    assert turnbull_median([0, 160, 160], [40, np.inf, np.inf]) == (160, np.inf)


def test_without_intervals_the_estimate_is_kaplan_meiers():
    rng = np.random.default_rng(1)
    times, failed = np.sort(rng.uniform(10, 100, 12)), rng.random(12) < 0.6
    lower = np.where(failed, times - 1e-6, times)
    cells, mass = turnbull(lower, np.where(failed, times, np.inf))
    ours = {end: 1 - mass[: n + 1].sum() for n, (_, end) in enumerate(cells) if np.isfinite(end)}
    theirs = KaplanMeierFitter().fit(times, failed).survival_function_["KM_estimate"]
    for time in times[failed]:
        assert ours[time] == pytest.approx(theirs[time], abs=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 1.2])
def test_an_exponent_is_covered_with_and_without_censoring(exponent):
    rng = np.random.default_rng(2)
    for longest in (20 * 1.5**13, 20 * 1.5**6):
        found = fit_regression(runs(rng, exponent, longest=longest))
        assert found.lower < exponent < found.upper
        assert found.upper - found.lower < 1


def ends(given):
    with np.errstate(divide="ignore"):
        return [np.log([getattr(run, name) for run in given]) for name in ("x", "lower", "upper")]


@pytest.mark.parametrize(
    ("of", "fitter", "parameter", "sign"),
    [
        (NORMAL, LogNormalAFTFitter, ("mu_", "sigma_"), 1),
        (EXTREME_VALUE, WeibullAFTFitter, ("lambda_", "rho_"), -1),
    ],
)
@pytest.mark.parametrize(("scatter", "longest"), [(0.3, np.inf), (0.4, 400), (1.0, 400)])
def test_the_most_likely_line_is_lifelines(of, fitter, parameter, sign, scatter, longest):
    given = runs(np.random.default_rng(7), 0.7, longest=longest, scatter=scatter)
    # lifelines takes the logarithm of an end at 0
    given = [run for run in given if run.lower > 0]
    u, lower, upper = ends(given)
    found = fit_line(u, lower, upper, of)
    table = pd.DataFrame({"l": np.exp(lower), "u": np.exp(upper), "x": u})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = fitter().fit_interval_censoring(table, "l", "u").summary
    names = [(parameter[0], "Intercept"), (parameter[0], "x"), (parameter[1], "Intercept")]
    ours = [found.intercept, found.slope, sign * np.log(found.sigma)]
    assert ours == pytest.approx([theirs.loc[name, "coef"] for name in names], abs=2e-3)
    assert found.errors == pytest.approx([theirs.loc[n, "se(coef)"] for n in names], rel=5e-3)


@pytest.mark.parametrize("of", [NORMAL, EXTREME_VALUE])
def test_no_line_near_the_most_likely_is_more_likely(of):
    given = [*runs(np.random.default_rng(8), 0.5), *(Run(x, 0, 2 * x) for x in (10, 20))]
    u, lower, upper = ends(given)
    found = fit_line(u, lower, upper, of)

    def likelihood(intercept, slope, log_sigma):
        line = intercept + slope * u
        z = [(end - line) / np.exp(log_sigma) for end in (lower, upper)]
        return of.log_between(*z).sum()

    best = np.array([found.intercept, found.slope, np.log(found.sigma)])
    assert likelihood(*best) == pytest.approx(found.log_likelihood)
    for axis, error in zip(np.eye(3), found.errors, strict=True):
        for size in (-0.1, 0.1):
            moved = likelihood(*(best + size * error * axis))
            assert found.log_likelihood - 0.5 < moved < found.log_likelihood


def test_far_out_the_likelihood_is_still_a_number():
    low, high = np.array([30.0, -31.0, -np.inf, 30.0]), np.array([31.0, -30.0, -30.0, np.inf])
    for of, exact in ((NORMAL, (-454.32, -454.32, -454.32, -454.32)),
                      (EXTREME_VALUE, (-np.exp(30), -30.459, -30.0, -np.exp(30)))):  # fmt: skip
        assert of.log_between(low, high) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([Run(10, 0, 40)] * 9, "x has 1 values"),
        ([Run(x, 320, np.inf) for x in (1, 2, 3)], "no run failed"),
        ([Run(1, 40, 80), Run(2, 80, 160), Run(2, 40, 80), Run(3, 0, np.inf)],
         "surely held or failed at 2 values of x"),
        ([Run(1, 40, 80), Run(2, 40, np.inf), Run(3, 40, np.inf)], "1 runs held and then failed"),
        ([Run(x, 40, 80) for x in (1, 2, 3)], "all runs failed between the same two lengths"),
        ([Run(1, 40, 80), Run(1, 80, 160), Run(1, 20, 40), Run(2, 80, np.inf), Run(3, 80, np.inf)],
         "at one value of x alone"),
        ([Run(x, 2 * x, 4 * x) for x in (10, 20, 40)] * 3, "on one line"),
        ([Run(100, 40, 80), Run(100, 160, 320), Run(100.1, 40, 80), Run(100.2, 160, 320)],
         "open by orders of magnitude"),
    ],
)  # fmt: skip
def test_what_carries_no_slope_is_refused_with_the_reason(given, reason):
    found = fit_regression(given)
    assert isinstance(found, Refusal)
    assert reason in found.reason


def test_the_unit_of_x_changes_no_exponent():
    # however far the line is drawn out to x = 1, how little is known of it there does not matter
    given = runs(np.random.default_rng(10), 0.7, longest=400)[::6]
    moved = [replace(run, x=run.x * 1e40) for run in given]
    here, there = fit_regression(given), fit_regression(moved)
    assert isinstance(here, Regression)
    assert (there.model, there.exponent) == (here.model, pytest.approx(here.exponent, abs=1e-6))
    assert there.lower == pytest.approx(here.lower, abs=1e-6)


def test_a_run_that_surely_held_and_failed_nowhere_changes_nothing():
    given = runs(np.random.default_rng(9), 0.7)
    open_ = [Run(x, 0.0, np.inf) for x in (10.0, 80.0)]
    assert fit_regression([*given, *open_]) == fit_regression(given)
    more = [*given, *open_]
    first, *_ = scale(more, [1e4] * len(more), [None] * len(more)).medians
    assert (first.num_runs, first.num_beyond, first.num_unlearned) == (9, 0, 0)
    assert first.num_failed == 8


def test_a_seed_becomes_an_interval_of_lengths():
    step = from_accuracies([1, 1, 1, 0.5, 0.5], multiples=(0.5, 1, 2, 3, 8))
    assert run_of(step, 5.0, 0.9) == Run(5.0, 80, 120)
    assert run_of(step, 5.0, 0.9).is_event
    assert run_of(from_accuracies([1, 1, 1], multiples=(1, 2, 3)), 5.0, 0.9) == Run(5, 120, np.inf)
    never = from_accuracies([0.5, 0.5, 0.5], multiples=(0.5, 1, 3))
    assert run_of(never, 5.0, 0.9) == Run(5.0, 0, 40)


def test_the_gradient_is_the_slope():
    rng = np.random.default_rng(3)
    u, v = rng.normal(size=30), rng.normal(size=30)
    for _ in range(5):
        at = rng.normal(size=3)
        assert check_grad(lambda p: huber(p, u, v)[0], lambda p: huber(p, u, v)[1], at) < 1e-6


def test_a_law_with_a_floor_is_found_where_the_mean_of_losses_stops_early():
    rng = np.random.default_rng(4)
    x = np.geomspace(1e6, 1e10, 24)
    y = (1.7 + 406 * x**-0.34) * np.exp(0.003 * rng.normal(size=24))
    law = fit_power_law(x, y)
    assert law.exponent == pytest.approx(-0.34, abs=0.01)
    assert law.floor == pytest.approx(1.7, rel=0.02)
    assert law.lower <= law.exponent <= law.upper
    # the same optimiser on the mean, from the same kind of start
    u, v = np.log(x), np.log(y)
    mean = minimize(
        lambda p: tuple(part / len(u) for part in huber(p, u, v)),
        [np.median(v + 0.1 * u), -0.1, v.min() - 0.7],
        jac=True,
        method="L-BFGS-B",
    )
    assert abs(mean.x[1] + 0.34) > 0.03


def test_all_draws_at_once_are_the_laws_of_each_draw():
    rng = np.random.default_rng(10)
    x = np.repeat([8.0, 16, 32, 64, 128], 6)
    u, v = np.log(x), np.log((3 + 0.5 * x**0.8) * np.exp(0.02 * rng.normal(size=len(x))))
    best = power_law._settle(u, v, power_law._first(u, v))
    drawn = [rng.integers(len(u), size=len(u)) for _ in range(20)]
    found = power_law._bootstrap(u, v, best, drawn)
    alone = [power_law._settle(u[rows], v[rows], best)[1] for rows in drawn]
    # about the minimum of so many kinks the loss is flat
    assert found == pytest.approx(alone, abs=0.005)
    assert np.std(found) > 0.01


def test_a_law_needs_four_values_and_no_censoring():
    with pytest.raises(ValueError, match="x has 3 values, three parameters need at least 4"):
        fit_power_law(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]))
    with pytest.raises(ValueError, match="positive"):
        fit_power_law(np.arange(5.0), np.ones(5))
    given = [Run(1, 40, 80), Run(2, 80, np.inf)]
    found = scale(given, [80, 80], [50.0, None])
    assert found.power_law.reason.startswith("1 of 2 failure lengths are censored")
    assert found.medians[1].upper is None
    assert found.medians[1].num_beyond == 1


def cells_of(rng, widths=(8, 16, 32, 64)):
    """Return cells whose half multiple grows as the root of the width."""
    return [
        CellCurves(
            "parity_check",
            f"lstm(width={width})",
            f"lstm-{width}",
            tuple(
                curve(rng, seed=s, half=half, beta=2.5, multiples=np.geomspace(0.5, 60, 24))
                for s, half in enumerate(width**0.5 * np.exp(0.3 * rng.normal(size=4)))
            ),
            config={
                "task": "parity_check",
                "model": {"kind": "lstm", "width": width},
                "train": {"max_length": 40},
            },
        )
        for width in widths
    ]


def test_cells_that_differ_in_x_alone_are_one_series():
    rng = np.random.default_rng(5)
    (series,) = scale_cells(cells_of(rng), "model.width")
    assert (series.task, series.label) == ("parity_check", "lstm")
    assert [one.x for one in series.scaling.medians] == [8, 16, 32, 64]
    assert series.scaling.regression.lower < 0.5 < series.scaling.regression.upper
    assert series.scaling.power_law.exponent == pytest.approx(0.5, abs=0.25)


def test_series_of_a_size_differ_in_nothing_else():
    def cell(width, longest, lone_node):
        model = {"kind": "ldru", "width": width, "lone_node": lone_node}
        config = {"task": "parity_check", "model": model, "train": {"max_length": longest}}
        key = f"{width} {longest} {lone_node}"
        curve = from_accuracies([1, 1, 0.5], multiples=(1, 2, 3))
        return CellCurves("parity_check", "ldru", key, (curve,), config=config)

    axes = [(w, n, rule) for w in (8, 16) for n in (10, 40) for rule in ("carry", "zero_left")]
    cells = [cell(*one) for one in axes]
    counts = [
        LdruConfig(kind="ldru", width=width, lone_node="carry").num_parameters(2, 2)
        for width in (8, 16)
    ]
    for x, wanted in (("num_parameters", counts), ("flops_per_token", None)):
        found = scale_cells(cells, x)
        assert len(found) == 4
        for one in found:
            small, large = (median.x for median in one.scaling.medians)
            assert small < large
            assert wanted in (None, [small, large])


def test_a_seed_that_never_learned_has_failed_by_the_training_length():
    # right on the shortest strings, at chance within the training lengths
    curve = from_accuracies([1, 0.5, 0.5, 0.5], multiples=(0.25, 0.5, 1, 2))
    cell = CellCurves("parity_check", "lstm", "cell", (curve,), config={"model": {"width": 8}})
    (series,) = scale_cells([cell], "model.width")
    (run,) = series.runs
    assert (run.lower, run.upper) == (0, curve.train_max_length)
    assert not run.is_event
    assert series.scaling.medians[0].num_unlearned == 1


def test_a_field_that_no_cell_has_is_an_error_with_a_suggestion():
    with pytest.raises(StudyError) as error:
        scale_cells(cells_of(np.random.default_rng(6)), "model.widht")
    text = "--x: no cell has a number at 'model.widht'. Did you mean 'model.width'?"
    fields = "flops_per_token, model.width, num_parameters, train.max_length"
    assert str(error.value) == f"{text} Fields: {fields}."
    unknown = [dataclasses.replace(one, config={}) for one in cells_of(np.random.default_rng(6))]
    with pytest.raises(StudyError, match=r"no cell has a number at 'num_parameters'\. Fields: "):
        scale_cells(unknown, "num_parameters")


def test_the_command_prints_medians_and_refusals(store):
    submit_tiny(store)
    for field in ("train.max_length", "num_parameters", "flops_per_token"):
        command = ["analyze", "scaling", "tiny", "--x", field, "--store", store.uri]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0
        assert "parity_check, lstm" in done.stdout
        assert "no regression: x has 1 values, a slope needs 3." in done.stdout
        content = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
        assert content["x"] == field
        # what computes nothing has no place on a logarithmic axis
        known = ["lstm"] if field == "flops_per_token" else ["constant", "lstm"]
        assert [one["label"] for one in content["series"]] == known


def test_lengths_stay_lengths():
    # a curve keeps its own training length
    short = LengthCurve(0, 8, *map(np.array, ([8, 16, 32], [512, 512, 256], [512] * 3, [0.5] * 3)))
    assert run_of(short, 1.0, 0.9) == Run(1.0, 16, 32)
