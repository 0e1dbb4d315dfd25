"""The search of one cell: suggestions, their results, and the same again after an interruption."""

from __future__ import annotations

import math
from dataclasses import replace

import optuna
import pytest

from ldru_study.errors import StudyError
from ldru_study.execution.optuna_export import export_searches
from ldru_study.execution.scheduler import CellAsha
from ldru_study.execution.search import CellSearch
from ldru_study.spec.plan import PlannedSearch
from ldru_study.spec.search import SEARCH_SEED, AshaConfig, SearchConfig
from ldru_study.spec.study import parse_study

SAMPLERS = ("cma_es", "gp", "grid", "qmc", "random", "tpe")
STUDY = """
name: found
task: parity_check
model: {kind: ldru}
search: {space: {train.learning_rate: {kind: log_uniform, low: 1e-5, high: 1e-1}}}
"""


@pytest.fixture(scope="module")
def study():
    return parse_study(STUDY, "found.yaml")


@pytest.fixture(scope="module")
def cell(study):
    return study.cells[0]


def searching(sampler="tpe", trials=12, **more):
    rate = {"kind": "log_uniform", "low": 1e-5, "high": 1e-1}
    width = {"kind": "choice", "values": [8, 16, 32, 64]}
    space = {"train.learning_rate": rate, "model.width": width}
    if sampler == "grid":
        rate["points"] = 5
    elif sampler != "cma_es":
        dropout = {"kind": "uniform", "low": 0.0, "high": 0.5, "when": {"model.width": [32, 64]}}
        space["model.dropout"] = dropout
    given = {"space": space, "sampler": sampler, "trials": trials} | more
    return SearchConfig.model_validate(given)


def loss(params):
    distance = math.log10(params["train.learning_rate"]) + 2.5
    width = {8: 0.6, 16: 0.3, 32: 0.0, 64: 0.2}[params["model.width"]]
    return distance**2 + width + (params.get("model.dropout", 0.3) - 0.1) ** 2


def run(cell, config, cuts=()):
    """Search to the end, beginning anew from the history wherever ``cuts`` says."""
    search = CellSearch(cell, config)
    while search.can_suggest:
        if len(search.suggestions) in cuts:
            search = CellSearch(cell, config, search.suggestions)
        made = search.suggest()
        search.tell(made.number, "done", [loss(made.params)])
    return search


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_resumed_in_the_middle_a_search_suggests_the_same(cell, sampler):
    whole = run(cell, searching(sampler))
    resumed = run(cell, searching(sampler), cuts=(1, 5, 6, 11))
    assert resumed.suggestions == whole.suggestions
    assert len({str(one.params) for one in whole.suggestions}) == 12
    assert whole.is_over


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_results_that_come_late_and_out_of_order_are_led_through_again(cell, sampler):
    config = searching(sampler)
    search = CellSearch(cell, config)
    for _ in range(4):
        search.suggest()
    for number in (2, 0):
        search.tell(number, "done", [loss(search.suggestions[number].params)])
    search.suggest()
    search.tell(1, "failed")
    search.tell(3, "diverged")
    again = CellSearch(cell, config, search.suggestions)
    assert again.suggest().params == search.suggest().params
    assert search.suggestions[4].known == (0, 2)


def test_another_version_of_a_sampler_is_refused_rather_than_mixed(cell):
    config = searching("qmc")
    history = run(cell, config).suggestions
    history[3] = replace(history[3], params={"train.learning_rate": 1e-3, "model.width": 8})
    with pytest.raises(StudyError, match=r"does not repeat the suggestions .* another search.seed"):
        CellSearch(cell, config, history)


def test_seeds_of_a_sampler_differ(cell):
    first, second = (run(cell, searching(seed=seed)).suggestions for seed in (0, 1))
    assert [one.params for one in first] != [one.params for one in second]


def test_conditions_hold(cell):
    for one in run(cell, searching(trials=20)).suggestions:
        assert ("model.dropout" in one.params) == (one.params["model.width"] in (32, 64))
        assert one.config.seed == SEARCH_SEED
        assert one.config.model.width == one.params["model.width"]


def test_a_grid_has_every_point_once(cell):
    config = SearchConfig.model_validate(
        {
            "sampler": "grid",
            "space": {
                "train.learning_rate": {"kind": "uniform", "low": 0.1, "high": 0.3, "points": 3},
                "model.width": {"kind": "integer", "low": 2, "high": 8, "step": 3},
            },
        }
    )
    points = {tuple(one.params.values()) for one in run_any(cell, config).suggestions}
    rates = (0.1, 0.2, pytest.approx(0.3))
    assert sorted(points) == [(rate, width) for rate in rates for width in (2, 5, 8)]


def run_any(cell, config):
    search = CellSearch(cell, config)
    while search.can_suggest:
        search.tell(search.suggest().number, "done", [0.0])
    return search


def test_settings_that_do_not_fit_together_count_and_fail(cell):
    config = SearchConfig.model_validate(
        {
            "sampler": "grid",
            "space": {
                "train.min_length": {"kind": "choice", "values": [1, 50]},
                "model.width": {"kind": "choice", "values": [2, 4]},
            },
        }
    )
    search = CellSearch(cell, config)
    states = [search.suggest().state for _ in range(4)]
    # the longest training length is 40
    assert sorted(states) == ["failed", "failed", "open", "open"]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_it_finds_more_than_chance_does(cell, sampler):
    def best(sampler, seed):
        search = run(cell, searching(sampler, trials=24, seed=seed))
        return min(one.values[0] for one in search.suggestions)

    seeds = range(20 if sampler == "tpe" else 4)
    pairs = [(best(sampler, seed), best("random", seed)) for seed in seeds]
    wins = sum(mine < chance for mine, chance in pairs)
    assert wins >= 0.7 * len(pairs), pairs


def test_the_first_of_several_objectives_chooses(cell):
    config = searching(objective=["validation_loss", "train_seconds"], trials=4)
    search = CellSearch(cell, config)
    for values in ([2.0, 1.0], [1.0, 5.0], [3.0, 9.0], [1.0, 6.0]):
        search.tell(search.suggest().number, "done", values)
    assert search.winner.number == 1


def test_asha_compares_at_each_rung_and_never_twice():
    asha = CellAsha(AshaConfig(kind="asha", min_steps=10, reduction_factor=2), {"a": {10: 0.5}})
    # one of two goes on
    assert asha.stops("b", 10, 0.6)
    assert not asha.stops("c", 10, 0.4)
    assert not asha.stops("d", 10, 0.45)
    assert asha.stops("e", 10, 0.5)
    # another rung has losses of its own, and one alone is compared with nobody
    assert not asha.stops("c", 20, 9.9)
    # a continued trial tells again what it has passed
    assert not asha.stops("e", 10, 0.5)


def test_the_rungs_of_asha():
    config = AshaConfig(kind="asha", min_steps=10, reduction_factor=3)
    assert config.rungs(400) == (10, 30, 90, 270)
    assert config.rungs(270) == (10, 30, 90)
    assert config.rungs(10) == ()


def test_optuna_opens_what_was_exported(study, cell, tmp_path):
    config = searching(trials=4, objective=["validation_loss", "train_seconds"])
    search = CellSearch(cell, config)
    for number in range(4):
        search.suggest()
        if number < 2:
            search.tell(number, "done", [1.0 - number, 2.0])
    search.tell(2, "failed")
    planned = PlannedSearch(cell, search.search_id, 4, tuple(search.suggestions), (), False)
    spec = replace(study, file=study.file.model_copy(update={"search": config}))
    path = tmp_path / "found.db"
    export_searches([planned], spec, path)
    loaded = optuna.load_study(
        study_name="found/parity_check/ldru(mlp)", storage=f"sqlite:///{path}"
    )
    assert [trial.state.name for trial in loaded.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert loaded.trials[1].values == [0.0, 2.0]
    assert loaded.trials[1].params["model.width"] == search.suggestions[1].params["model.width"]
    assert loaded.metric_names == ["validation_loss", "train_seconds"]
    with pytest.raises(StudyError, match="is there already"):
        export_searches([planned], spec, path)
