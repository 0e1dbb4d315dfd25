"""Tasks of the user's own in study files: what they are called, and what their trials' ids are."""

from __future__ import annotations

import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from ldru_study.spec.plan import plan_study
from ldru_study.spec.schema import json_schema
from ldru_study.spec.study import parse_study
from ldru_study.spec.trial import TrialConfig

CONTAINS = {"regex": "(0|1)*010(0|1)*"}
# the smallest automaton for it, with a state too many and its states in another order
BY_HAND = {
    "automaton": {
        "alphabet": "01",
        "start": "nothing",
        "states": {
            "found": ["found", "found"],
            "nothing": ["zero", "none"],
            "none": ["zero", "none"],
            "zero": ["zero", "zero-one"],
            "zero-one": ["found", "none"],
        },
        "accept": ["found"],
    }
}
MODULO = {
    "automaton": {
        "alphabet": "ab",
        "states": {"0": ["0", "1"], "1": ["1", "2"], "2": ["2", "0"]},
        "classes": {"0": 0, "1": 1, "2": 2},
    },
    "name": "modulo_3",
}


def trial(task, **more):
    return TrialConfig.model_validate({"task": task, "model": {"kind": "lstm"}} | more)


def study(*tasks, text=""):
    axis = yaml.safe_dump({"grid": {"task": list(tasks)}})
    return parse_study(f"name: own\nmodel: {{kind: lstm}}\n{axis}\n{text}", "study.yaml")


def test_ids_of_own_tasks_are_pinned():
    """Change these only together with RECIPE."""
    assert trial(CONTAINS).trial_id == "dad2bc336e66d920"
    assert trial(MODULO).trial_id == "c2361d4057cce922"


def test_a_language_has_one_id_however_it_is_written():
    ids = {
        trial(task).trial_id
        for task in (
            CONTAINS,
            CONTAINS | {"name": "contains_010"},
            CONTAINS | {"alphabet": "01"},
            {"regex": ".*010.*", "alphabet": "01"},
            {"regex": "(a|b)*aba(a|b)*"},
            BY_HAND,
        )
    }
    assert len(ids) == 1
    assert trial({"regex": "(0|1)*011(0|1)*"}).trial_id not in ids
    assert trial(CONTAINS, sampling="hard").trial_id not in ids


def test_what_is_written_is_read_again():
    for task in (CONTAINS, BY_HAND, MODULO, CONTAINS | {"name": "mine", "alphabet": "01"}):
        config = trial(task)
        assert TrialConfig.model_validate(json.loads(config.model_dump_json())) == config
        # the text form may stand in a study file itself
        assert trial(config.task) == config


def test_cells_are_called_by_labels():
    spec = study("parity_check", CONTAINS, MODULO, text="sampling: paper\n")
    assert [cell.key for cell in spec.cells] == [
        "parity_check/lstm",
        "regex:(0|1)*010(0|1)*/lstm",
        "modulo_3/lstm",
    ]
    plan = plan_study(spec)
    assert all(trial.config.sampling == "paper" for trial in plan.trials)


def test_overrides_know_own_tasks():
    text = """
overrides:
  - when: {task: {regex: "(0|1)*010(0|1)*"}}
    set: {train.steps: 7}
  - when: {task: [even_pairs, {regex: "0*1"}]}
    set: {train.steps: 8}
"""
    spec = study("even_pairs", CONTAINS, "d_2", text=text)
    assert [cell.config.train.steps for cell in spec.cells] == [8, 7, 20_000]


@pytest.mark.parametrize(
    ("sampling", "lengths"), [("balanced", (40, 80)), ("paper", (40, 41, 80)), ("hard", (40, 80))]
)
def test_a_sampling_asks_at_its_lengths(sampling, lengths):
    text = f"sampling: {sampling}\nevaluate: {{multiples: [1, 2], lengths: [41]}}\n"
    (planned,) = plan_study(study("d_4", text=text)).trials
    assert tuple(question.length for question in planned.questions) == lengths


def test_every_published_task_has_every_sampling():
    tasks = ["parity_check", "cycle_navigation", "modular_arithmetic", "d_12", "prefix_4_4"]
    axis = "  sampling: [balanced, hard, paper]\n"
    assert len(study(*tasks, text=axis).cells) == 15


def test_the_schema_knows_own_tasks():
    validator = Draft202012Validator(json.loads(json.dumps(json_schema())))
    for task in ("d_7", CONTAINS, BY_HAND, MODULO):
        for content in ({"name": "a", "task": task}, {"name": "a", "grid": {"task": [task]}}):
            assert not list(validator.iter_errors(content)), task
    for bad in ({"regexp": "0*"}, CONTAINS | {"alphbet": "01"}, {"automaton": {"alphabet": "01"}}):
        assert list(validator.iter_errors({"name": "a", "task": bad})), bad
