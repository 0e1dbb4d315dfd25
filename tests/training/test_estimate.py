"""Estimates: what the store knows comes first, each shape is measured once, places are shared."""

from __future__ import annotations

import pytest
from tests.conftest import small_work

from ldru_study.errors import SpecError
from ldru_study.results.facts import read_facts
from ldru_study.spec.plan import plan_study
from ldru_study.spec.study import validate_study
from ldru_study.spec.yaml_file import parse_yaml
from ldru_study.training import estimate as estimating
from ldru_study.training.attempt import run_attempt
from ldru_study.training.calibrate import CalibrationError, Cost
from ldru_study.training.estimate import estimate_plan

SPEC = """
name: tiny
grid:
  task: [parity_check, even_pairs, tomita_3, cycle_navigation]
  model: [{kind: constant}, {kind: lstm, width: 4}]
train: {steps: 2, max_length: 8, batch_size: 8}
seeds: 2
evaluate: {lengths: [8, 16], multiples: [], strings: 64, validation_strings: 16}
"""
# two steps and two validations, and 64 strings at each of two lengths
COST = Cost(((8, 1.0),), 2.0, ((8, 0.5), (16, 0.5)), 100.0, 400.0)
TRAINING_S, EVALUATION_S = 2 * 1.0 + 2 * 2.0, 2 * 64 * 0.5


def study_of(text=SPEC):
    file = parse_yaml(text, "tiny.yaml")
    return validate_study(file.content, file)


@pytest.fixture
def machine(monkeypatch):
    """Return what is calibrated on a machine of two cores, in the order it is asked for."""
    asked = []

    def calibrated(config, questions, device, **settings):
        asked.append((config, questions, str(device), settings))
        return COST

    monkeypatch.setattr(estimating, "calibrate", calibrated)
    monkeypatch.setattr(estimating.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(estimating.torch.cuda, "device_count", lambda: 0)
    return asked


def estimated(spec, store, said=None):
    facts = read_facts(store)
    plan = plan_study(spec, facts.holdings)
    return estimate_plan(spec, plan, facts, [].append if said is None else said.append)


def run_one(store, spec, number, **more):
    trial = plan_study(spec).trials[number]
    lengths = [question.length for question in trial.questions]
    run_attempt(small_work(trial.config, store, *lengths, **more))
    return trial


def test_each_shape_is_measured_once(store, machine):
    said = []
    found = estimated(study_of(), store, said)
    # three tasks of two symbols and two classes share; cycle_navigation has more of both
    assert len(machine) == 4
    shapes = sorted((config.task, config.model.kind) for config, *_ in machine)
    assert shapes == [
        (t, k) for t in ("cycle_navigation", "parity_check") for k in ("constant", "lstm")
    ]
    _, questions, device, settings = machine[0]
    assert [question.length for question in questions] == [8, 16]
    assert (device, settings) == ("cpu", {"threads": 1, "validation_strings": 16})
    assert {line.split()[0] for line in said} == {"[1/4]", "[2/4]", "[3/4]", "[4/4]"}
    assert any(line.endswith("parity_check/lstm and 2 alike: measured") for line in said)
    assert len(found.cells) == 8
    for cell in found.cells:
        assert (cell.num_trials, cell.source, cell.memory_mib) == (2, "measured", 100.0)
        assert cell.trial_s == TRAINING_S + EVALUATION_S
        assert cell.total_s == 2 * cell.trial_s
    assert found.at_once == 2
    assert found.total_s == 8 * (TRAINING_S + EVALUATION_S)
    assert found.memory_mib == 2 * 500.0


def test_weights_that_are_there_cost_no_training(store, machine):
    spec = study_of()
    run_one(store, spec, 0)
    longer = study_of(SPEC.replace("lengths: [8, 16]", "lengths: [8, 16, 32]"))
    first = estimated(longer, store).cells[0]
    # one trial to evaluate at one length, one to do from the beginning
    assert first.total_s == 64 * 0.5 + TRAINING_S + 3 * 64 * 0.5


@pytest.mark.parametrize("kind", [0, 2])
def test_times_of_the_store_come_first(store, machine, kind):
    spec = study_of()
    done = run_one(store, spec, kind)
    seconds = read_facts(store).ended[done.trial_id]["seconds"]
    found = {cell.cell: cell for cell in estimated(spec, store).cells}
    cell = found.pop(done.cell.key)
    assert (cell.num_trials, cell.source, cell.memory_mib) == (1, "recorded", None)
    assert cell.trial_s == cell.total_s == seconds
    assert {other.source for other in found.values()} == {"measured"}


def test_the_times_of_others_are_not_ours(store, machine, monkeypatch):
    spec = study_of()
    # another share of the machine
    run_one(store, spec, 0, cpus=2.0)
    # other questions
    trial = plan_study(spec).trials[2]
    run_attempt(small_work(trial.config, store, 8))
    # work that was done in part already: the second attempt only evaluates
    trial = plan_study(spec).trials[4]
    run_attempt(small_work(trial.config, store, 99))
    run_attempt(small_work(trial.config, store, 8, 16))
    # another machine
    monkeypatch.setattr("ldru_study.training.attempt.socket.gethostname", lambda: "elsewhere")
    run_one(store, spec, 6)
    monkeypatch.undo()
    monkeypatch.setattr(estimating, "calibrate", lambda *_, **__: COST)
    assert {cell.source for cell in estimated(spec, store).cells} == {"measured"}


def test_what_cannot_be_measured_is_unknown_and_the_rest_is_not(store, machine, monkeypatch):
    def fails(config, *_, **__):
        if config.model.kind == "lstm":
            raise CalibrationError("a few steps of it fail here: oops")
        return COST

    monkeypatch.setattr(estimating, "calibrate", fails)
    said = []
    found = estimated(study_of(), store, said)
    assert any(line.endswith("a few steps of it fail here: oops") for line in said)
    for cell in found.cells:
        known = cell.cell.endswith("constant")
        assert cell.source == ("measured" if known else "unknown")
        assert (cell.trial_s is None) == (cell.total_s is None) == (not known)
    assert found.total_s == 4 * (TRAINING_S + EVALUATION_S)


@pytest.mark.parametrize(("cpus", "at_once"), [(2, 1), (1, 2), (0.5, 4), (0.1, 16), (1.5, 1)])
def test_trials_share_the_machine(store, machine, cpus, at_once):
    found = estimated(study_of(SPEC + f"resources: {{cpus: {cpus}}}\n"), store)
    # sixteen trials cannot fill twenty places
    assert found.at_once == at_once
    assert found.total_s == 16 / at_once * (TRAINING_S + EVALUATION_S)


@pytest.mark.parametrize(("field", "here"), [("cpus", 2), ("gpus", 0)])
def test_a_machine_that_is_too_small_is_refused(store, machine, field, here):
    wanted = f"resources.{field}: a trial wants 3, this machine has {here}. Lower it, or estimate"
    with pytest.raises(SpecError, match=wanted):
        estimated(study_of(SPEC + f"resources: {{{field}: 3}}\n"), store)


def test_a_study_that_is_done_takes_no_time(store, machine):
    spec = study_of(SPEC.replace("seeds: 2", "seeds: 1"))
    for number in range(8):
        run_one(store, spec, number)
    found = estimated(spec, store)
    assert (found.cells, found.total_s, found.memory_mib, machine) == ((), 0.0, None, [])


@pytest.mark.parametrize(
    ("seconds", "at_once", "wanted"),
    [((), 2, 0.0), ((3, 1, 1, 1), 2, 3.0), ((1, 1, 1, 3), 2, 4.0), ((5, 1), 1, 6.0)],
)
def test_the_last_trial_decides_when_all_are_over(seconds, at_once, wanted):
    assert estimating._makespan(seconds, at_once) == wanted
