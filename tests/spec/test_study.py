"""Study files: YAML as people read it, cells, labels, overrides and ``--set``."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldru_study.errors import SpecError
from ldru_study.spec.paths import format_place, parse_place
from ldru_study.spec.plan import expected_plan, plan_study, questions_of
from ldru_study.spec.schema import json_schema
from ldru_study.spec.study import EvaluateConfig, load_study, parse_study
from ldru_study.spec.yaml_file import parse_scalar, parse_yaml

STUDIES = Path(__file__).parents[2] / "study_specs"
PAGE = (STUDIES / "README.md").read_text()
SPEC = """
name: small
task: parity_check
grid:
  model: [{kind: ldru}, {kind: lstm, width: 16}]
  train.max_length: [20, 40]
train: {steps: 100}
seeds: [3, 5]
"""


def read(text, *changes):
    return parse_study(text, "study.yaml", changes)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("12", 12),
        ("-7", -7),
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("012", 12),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("[1, 2e1]", [1, 20.0]),
        ("'1e-3'", "1e-3"),
    ],
)
def test_scalars_mean_what_they_look_like(text, value):
    found = parse_scalar(text)
    assert (found, type(found)) == (value, type(value))


def test_no_tag_builds_an_object():
    with pytest.raises(SpecError, match="not YAML: could not determine a constructor"):
        parse_yaml("name: !!python/object/apply:os.system ['true']", "study.yaml")


def test_every_combination_is_a_cell():
    spec = read(SPEC)
    assert [cell.key for cell in spec.cells] == [
        "parity_check/ldru(mlp)/train.max_length=20",
        "parity_check/ldru(mlp)/train.max_length=40",
        "parity_check/lstm/train.max_length=20",
        "parity_check/lstm/train.max_length=40",
    ]
    assert spec.file.seeds == (3, 5)
    assert spec.cells[0].config.train.steps == 100
    assert spec.cells[0].trial(5).seed == 5


def test_labels_show_what_varies_within_a_kind():
    text = SPEC.replace("{kind: ldru}", "{kind: ldru}, {kind: ldru, lone_node: carry}")
    assert {cell.axes["model"] for cell in read(text).cells} == {
        "ldru(mlp, lone_node=zero_left)",
        "ldru(mlp, lone_node=carry)",
        "lstm",
    }


def test_an_axis_of_the_model_lies_over_it():
    text = SPEC.replace("train.max_length: [20, 40]", "model.width: [8, 16]").replace(
        "{kind: lstm, width: 16}", "{kind: rnn}"
    )
    assert [(cell.config.model.kind, cell.config.model.width) for cell in read(text).cells] == [
        ("ldru", 8),
        ("ldru", 16),
        ("rnn", 8),
        ("rnn", 16),
    ]


def test_overrides_apply_in_order_to_the_cells_that_match():
    text = SPEC + (
        "overrides:\n"
        "  - {when: {model.kind: [lstm, rnn]}, set: {train.steps: 7, train.batch_size: 8}}\n"
        "  - {when: {model.kind: lstm, train.max_length: 40}, set: {train.steps: 9}}\n"
    )
    settings = [
        (cell.config.train.steps, cell.config.train.batch_size) for cell in read(text).cells
    ]
    assert settings == [(100, 256), (100, 256), (7, 8), (9, 8)]


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("train.steps=5", lambda spec: spec.cells[0].config.train.steps == 5),
        ("train.learning_rate=1e-2", lambda spec: spec.cells[0].config.train.learning_rate == 0.01),
        ("seeds=4", lambda spec: spec.file.seeds == (0, 1, 2, 3)),
        ("grid.model[1].width=3", lambda spec: spec.cells[2].config.model.width == 3),
        ("grid.train.max_length=[10]", lambda spec: len(spec.cells) == 2),
        ("question=Is it: so?", lambda spec: spec.file.question == "Is it: so?"),
    ],
)
def test_set(change, seen, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(SPEC)
    assert not seen(load_study(path))
    if change.startswith("question"):
        change = "question='Is it: so?'"
    assert seen(load_study(path, [change]))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("train.steps", "--set train.steps: no '='. Write --set place=value."),
        ("train.steps=[", "--set train.steps=[: '[' is not YAML. Quote the whole argument."),
        ("seeds.x=1", "--set seeds.x=1: 'x' needs a mapping there, found a list."),
        (
            "grid.model[9].width=1",
            "--set grid.model[9].width=1: [9] is beyond the end of a list of 2.",
        ),
        ("=1", "--set =1: '' is not a place such as train.steps or grid.model[0].width."),
        ("train.stepz=1", "train.stepz (--set): no field is called 'stepz'. Did you mean 'steps'?"),
    ],
)
def test_set_with_a_mistake(change, problem, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(SPEC)
    with pytest.raises(SpecError) as caught:
        load_study(path, [change])
    assert list(caught.value.problems) == [problem]


OVERRULED = {
    "train.max_length=5": "train.max_length (--set): the axis grid.train.max_length overrules it "
    "in every cell, with [20, 40]. Drop one of the two, or change the axis: "
    "--set 'grid.train.max_length=[5]'.",
    "model.width=9": "model.width (--set): the axis grid.model overrules it in every cell, with "
    "[ldru, lstm(width=16)]. Drop one of the two, or change the "
    "axis: --set 'grid.model[0].width=9' and so on.",
    # an axis of names has nothing inside
    "train.max_length.x=5": "train.max_length.x (--set): the axis grid.train.max_length overrules "
    "it in every cell, with [20, 40]. Drop one of the two.",
}


@pytest.mark.parametrize(("change", "problem"), OVERRULED.items(), ids=OVERRULED)
def test_what_an_axis_would_overrule_is_refused(change, problem):
    with pytest.raises(SpecError) as caught:
        read(SPEC, change)
    assert list(caught.value.problems) == [problem]
    for advised in re.findall(r"--set '([^']*)'", problem):
        assert read(SPEC, advised).changes == (advised,)


FIXED = """
name: fixed
task: d_4
model: {kind: ldru}
train: {steps: 10, max_length: 20}
"""


def told(cells):
    return [(one.config.task, one.config.model.kind, one.config.train.steps) for one in cells]


@pytest.mark.parametrize(
    ("change", "cells"),
    [
        ("grid.train.steps=[10, 30]", [("d_4", "ldru", 10), ("d_4", "ldru", 30)]),
        ("grid.model=[{kind: lstm}, {kind: rnn}]", [("d_4", "lstm", 10), ("d_4", "rnn", 10)]),
        ("grid.task=[d_2, d_3]", [("d_2", "ldru", 10), ("d_3", "ldru", 10)]),
        ("grid={train.steps: [5]}", [("d_4", "ldru", 5)]),
        ("grid.train=[{steps: 7}]", [("d_4", "ldru", 7)]),
    ],
)
def test_an_axis_that_is_set_lies_over_a_field_of_the_file(change, cells):
    assert told(read(FIXED, change).cells) == cells


def test_a_field_of_the_file_beside_an_axis_of_the_file_can_be_dropped():
    text = FIXED + "grid: {train.steps: [10, 30]}\n"
    with pytest.raises(SpecError, match=r"train.steps \(line 5\): .* overrules it"):
        read(text)
    cells = [("d_4", "ldru", 10), ("d_4", "ldru", 30)]
    assert told(read(text, "train.steps=null").cells) == cells
    # only what --set gives as a whole shows which of the two is meant
    with pytest.raises(SpecError, match="overrules it"):
        read(text, "grid.train.steps[0]=20")


def test_a_null_of_the_file_is_a_value_as_any_other():
    text = FIXED.replace("max_length: 20", "max_length: 20, clip_norm: null")
    text += "grid: {train.clip_norm: [1, 2]}\n"
    with pytest.raises(SpecError, match=r"train.clip_norm \(line \d+\): .* overrules it"):
        read(text)
    cells = read(text, "train.clip_norm=null").cells
    assert [cell.config.train.clip_norm for cell in cells] == [1, 2]


@pytest.mark.parametrize("field", ["train.steps=5", "train={steps: 5}"])
def test_an_axis_and_a_field_that_are_both_set_are_refused(field):
    with pytest.raises(SpecError) as caught:
        read(FIXED, "grid.train.steps=[10, 30]", field)
    assert list(caught.value.problems) == [
        "train.steps (--set): the axis grid.train.steps overrules it in every cell, with [10, 30]. "
        "Drop one of the two, or change the axis: --set 'grid.train.steps=[5]'."
    ]


def test_what_overrides_would_overrule_in_every_cell_is_refused():
    text = SPEC + (
        "overrides:\n"
        "  - {when: {model.kind: lstm}, set: {train.steps: 7}}\n"
        "  - {when: {model.kind: ldru}, set: {train.steps: 9}}\n"
    )
    # the file may give what no cell keeps: a grid may grow again
    assert {cell.config.train.steps for cell in read(text).cells} == {7, 9}
    with pytest.raises(SpecError) as caught:
        read(text, "train.steps=5")
    assert list(caught.value.problems) == [
        "train.steps (--set): overrides set it in every cell of the grid. Drop them too: "
        "--set overrides=[]."
    ]
    assert {
        cell.config.train.steps for cell in read(text, "train.steps=5", "overrides=[]").cells
    } == {5}
    # one cell that keeps it is enough: that is what an override is for
    some = text.replace("lstm}, set: {train.steps", "lstm}, set: {train.batch_size")
    assert {cell.config.train.steps for cell in read(some, "train.steps=5").cells} == {5, 9}
    assert read(text, "train.batch_size=5").cells
    # nor is anything lost where an override sets just what was asked for
    assert {cell.config.train.steps for cell in read(text, "train.steps=9").cells} == {7, 9}
    same = text.replace("train.steps: 7", "train.steps: 9")
    assert {cell.config.train.steps for cell in read(same, "train.steps=9").cells} == {9}


def test_what_a_former_version_stored_is_read_as_it_read_it():
    text = FIXED + (
        "grid: {train.steps: [20, 30]}\n"
        "overrides: [{when: {model.kind: ldru}, set: {train.max_length: 9}}]\n"
    )
    changes = ("train.max_length=5", "task=d_2")
    with pytest.raises(SpecError, match="overrules it"):
        read(text, *changes)
    spec = parse_study(text, "fixed", changes, is_stored=True)
    assert told(spec.cells) == [("d_2", "ldru", 20), ("d_2", "ldru", 30)]
    assert {cell.config.train.max_length for cell in spec.cells} == {9}
    # whatever was wrong then is wrong now
    with pytest.raises(SpecError, match="no field is called 'stepz'"):
        parse_study(text, "fixed", ("train.stepz=1",), is_stored=True)


name = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@given(st.tuples(name.filter(lambda text: text != "grid"), st.lists(name | st.integers(0, 9))))
def test_a_place_written_reads_as_itself(steps):
    place = (steps[0], *steps[1])
    assert parse_place(format_place(place)) == place


def test_the_schema_accepts_the_studies_and_refuses_their_mistakes(tmp_path):
    from jsonschema import Draft202012Validator

    schema = json.loads(json.dumps(json_schema()))
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    specs = sorted(STUDIES.glob("*.yaml"))
    assert specs
    for path in specs:
        content = parse_yaml(path.read_text(), str(path)).content
        assert not list(validator.iter_errors(content)), path
    for bad in (
        {"name": "a", "sedes": 3},
        {"name": "a", "train": {"step": 3}},
        {"name": "a", "grid": {"tasks": ["parity_check"]}},
        {"name": "a", "grid": {"task": []}},
        {"name": "a", "model": {"kind": "lsmt"}},
        {"name": "a", "seeds": 0},
        {"task": "parity_check"},
    ):
        assert list(validator.iter_errors(bad)), bad


def test_ranges_of_test_lengths_are_written_short():
    found = EvaluateConfig.model_validate({"lengths": [7, "41..500 by 17", "8..9"]}).lengths
    assert found == (7, *range(41, 501, 17), 8, 9)
    for bad in ("9..8", "0..8", "8", "8..", "8..9 by 0", "8...9"):
        with pytest.raises(ValueError, match=f"42..500 or 41..500 by 17, found the text '{bad}'"):
            EvaluateConfig.model_validate({"lengths": [bad]})
    with pytest.raises(ValueError, match=r"1\.\.999999 has more than 10000 lengths. Give a step"):
        EvaluateConfig.model_validate({"lengths": ["1..999999"]})


# cells, trials that judge, trials that search
HOUSE = {
    "cpu_field": (52, 260, 0),
    "honest_rq1": (588, 5880, 4704),
    "ldru_recipe": (35, 105, 0),
    "length_sweep": (108, 540, 0),
    "long": (12, 36, 0),
    "paper_rq1": (147, 441, 0),
    "paper_rq2": (16, 48, 0),
    "paper_rq3": (20, 60, 0),
    "quick": (6, 18, 0),
    "scaling": (180, 900, 0),
    "search": (6, 18, 72),
}


def house(name, *changes):
    return load_study(STUDIES / f"{name}.yaml", changes)


def test_every_study_of_the_house_is_counted():
    assert {path.stem for path in STUDIES.glob("*.yaml")} == set(HOUSE)


@pytest.mark.parametrize("name", sorted(HOUSE))
def test_every_study_of_the_house_is_valid_and_planned(name):
    spec = house(name)
    trials = expected_plan(spec, plan_study(spec)).trials
    searching = sum(trial.suggestion is not None for trial in trials)
    assert (len(spec.cells), len(trials) - searching, searching) == HOUSE[name]
    assert (STUDIES / f"{name}.yaml").read_text().startswith("# ")
    assert all(trial.questions for trial in trials if trial.suggestion is None)


def test_the_papers_questions_share_the_trials_that_they_have_in_common():
    ids = {
        name: {trial.trial_id: trial.cell.key for trial in plan_study(house(name)).trials}
        for name in ("paper_rq1", "paper_rq2", "paper_rq3")
    }
    assert len(ids["paper_rq1"].keys() & ids["paper_rq2"].keys()) == 4 * 3
    assert len(ids["paper_rq1"].keys() & ids["paper_rq3"].keys()) == 4 * 3


def test_the_papers_settings_reach_their_cells():
    spec = house("paper_rq1")
    of = {(cell.config.task, cell.config.model.kind): cell.config for cell in spec.cells}
    deep, shallow = of["d_4", "ldru"], of["d_2", "ldru"]
    assert (deep.train.steps, deep.train.learning_rate, deep.model.dropout) == (10**6, 1e-4, 0.25)
    assert (shallow.train.steps, shallow.train.learning_rate) == (10**5, 1e-4)
    parity = of["parity_check", "ldru"]
    assert (parity.model.dropout, parity.train.learning_rate) == (0.1, 1e-3)
    assert of["d_4", "lstm"].train.learning_rate == 1e-3
    lengths = [q.length for q in questions_of(deep, spec.file.evaluate)]
    assert lengths == [10, 20, 30, 40, *range(42, 501)]
    # odd lengths only
    arithmetic = of["modular_arithmetic", "lstm"]
    lengths = [q.length for q in questions_of(arithmetic, spec.file.evaluate)]
    assert all(length % 2 for length in lengths)
    assert [length for length in lengths if length > 41] == list(range(43, 500, 2))


@pytest.mark.parametrize("line", re.findall(r"^ldru-study .*$", PAGE, flags=re.MULTILINE))
def test_every_command_of_the_page_is_a_small_study(line):
    _, verb, path, *options = shlex.split(line)
    assert verb == "submit"
    changes = [
        value for flag, value in zip(options[::2], options[1::2], strict=True) if flag == "--set"
    ]
    assert len(changes) * 2 == len(options)
    spec = load_study(STUDIES.parent / path, changes)
    plan = expected_plan(spec, plan_study(spec))
    assert len(plan.trials) <= 20
    assert all(trial.config.train.steps <= 500 for trial in plan.trials)
    assert spec.file.resources.gpus == 0
