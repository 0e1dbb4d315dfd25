"""Bad study files: each gets one precise message, exit code 2, before anything is started."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ldru_study.cli import main
from ldru_study.errors import SpecError
from ldru_study.spec.model import MODEL_CONFIGS, OPERATORS
from ldru_study.spec.plan import plan_study
from ldru_study.spec.study import validate_study
from ldru_study.spec.yaml_file import parse_yaml

GOOD = """\
name: good
grid:
  task: [parity_check, tomita_3]
  model:
    - {kind: ldru, operator: mlp, width: 32}
    - {kind: lstm, width: 64}
train: {steps: 100, max_length: 20}
seeds: 2
"""

KINDS = ", ".join(sorted(MODEL_CONFIGS))
# what is wrong -> the file and every problem that is reported
CASES = {
    "empty file": (
        "",
        ["a study is a mapping of fields such as 'name' and 'grid'; found nothing."],
    ),
    "a list": (
        "- name: x\n",
        ["a study is a mapping of fields such as 'name' and 'grid'; found a list."],
    ),
    "plain text": (
        "hello\n",
        ["a study is a mapping of fields such as 'name' and 'grid'; found a single value."],
    ),
    "not yaml": (
        "name: [a\n",
        [
            "line 2, column 1: not YAML: expected ',' or ']', but got '<stream end>'. Check indentation, quotes and brackets there."
        ],
    ),
    "tab": (
        "name: a\n\ttask: b\n",
        [
            "line 2, column 1: not YAML: found character '\\t' that cannot start any token. Check indentation, quotes and brackets there."
        ],
    ),
    "duplicate key": (
        GOOD + "seeds: 3\n",
        ["seeds (line 9): given twice, first on line 8. Keep one."],
    ),
    "duplicate nested": (
        GOOD.replace("{steps: 100,", "{steps: 100, steps: 200,"),
        ["train.steps (line 7): given twice, first on line 7. Keep one."],
    ),
    "key not text": (
        GOOD + "1: 2\n",
        ["the file (line 9): the key '1' is not text. Put it in quotes."],
    ),
    "no name": (
        GOOD.replace("name: good\n", ""),
        ["the file: the field 'name' is missing. Add it."],
    ),
    "bad name": (
        GOOD.replace("name: good", "name: ../evil"),
        [
            "name (line 1): the text '../evil' is no name. Use letters, digits, '-' and '_', at most 64, beginning with a letter or digit."
        ],
    ),
    "unknown top": (
        GOOD + "sedes: 3\n",
        ["sedes (line 9): no field is called 'sedes'. Did you mean 'seeds'?"],
    ),
    "unknown top far": (
        GOOD + "wibble: 3\n",
        [
            "wibble (line 9): no field is called 'wibble'. Fields: analysis, budget, checkpoint_every_s, evaluate, grid, model, name, overrides, question, resources, retries, sampling, search, seeds, task, train, trial_timeout_s."
        ],
    ),
    "unknown task": (
        GOOD.replace("tomita_3", "parity_chek"),
        [
            "grid.task[1] (line 3): no task is called 'parity_chek'. Did you mean 'parity_check'? `ldru-study tasks list` prints all."
        ],
    ),
    "unknown operator": (
        GOOD.replace("mlp", "gcr"),
        [
            f"grid.model[0].operator (line 5): no operator is called 'gcr'. Did you mean 'grc'? Known: {', '.join(OPERATORS)}."
        ],
    ),
    "unknown train field": (
        GOOD.replace("steps: 100", "step: 100"),
        ["train.step (line 7): no field is called 'step'. Did you mean 'steps'?"],
    ),
    "unknown model kind": (
        GOOD.replace("kind: lstm", "kind: lsmt"),
        [
            f"grid.model[1].kind (line 6): no model is called 'lsmt'. Did you mean 'lstm'? Known: {KINDS}."
        ],
    ),
    "model without kind": (
        GOOD.replace("kind: lstm, ", ""),
        [f"grid.model[1] (line 6): the field 'kind' is missing. Add one of: {KINDS}."],
    ),
    "field of another kind": (
        GOOD.replace("kind: lstm, width: 64", "kind: lstm, heads: 4"),
        [
            "grid.model[1].heads (line 6): no field is called 'heads'. Fields: kind, match_parameters, width."
        ],
    ),
    "model as text": (
        GOOD.replace("{kind: lstm, width: 64}", "lstm"),
        ["grid.model[1] (line 6): wants a mapping, found the text 'lstm'."],
    ),
    "steps as text": (
        GOOD.replace("steps: 100", "steps: '100'"),
        [
            "train.steps (line 7): wants a whole number, found the text '100'. Write 100, without quotes."
        ],
    ),
    "steps with comma": (
        GOOD.replace("steps: 100", "steps: 20_000"),
        [
            "train.steps (line 7): wants a whole number, found the text '20_000'. Write 20000, without quotes."
        ],
    ),
    "steps fractional": (
        GOOD.replace("steps: 100", "steps: 1.5"),
        ["train.steps (line 7): wants a whole number, found the number 1.5."],
    ),
    "steps zero": (
        GOOD.replace("steps: 100", "steps: 0"),
        ["train.steps (line 7): must be at least 1, found the number 0."],
    ),
    "negative rate": (
        GOOD.replace("steps: 100", "learning_rate: -1e-3"),
        ["train.learning_rate (line 7): must be above 0.0, found the number -0.001."],
    ),
    "inf rate": (
        GOOD.replace("steps: 100", "learning_rate: .inf"),
        ["train.learning_rate (line 7): wants a finite number, found the number inf."],
    ),
    "warmup one": (
        GOOD.replace("steps: 100", "warmup: 1"),
        ["train.warmup (line 7): must be below 1.0, found the number 1."],
    ),
    "batch not divisible": (
        GOOD.replace("steps: 100", "batch_size: 100, lengths_per_batch: 16"),
        ["train (line 7): lengths_per_batch 16 does not divide batch_size 100."],
    ),
    "min above max": (
        GOOD.replace("steps: 100", "min_length: 30"),
        ["train (line 7): min_length 30 is above max_length 20."],
    ),
    "heads": (
        GOOD.replace("{kind: lstm, width: 64}", "{kind: transformer, width: 30, heads: 4}"),
        ["grid.model[1] (line 6): width 30 is not a multiple of heads 4."],
    ),
    "rope odd": (
        GOOD.replace(
            "{kind: lstm, width: 64}", "{kind: transformer, width: 12, heads: 4, positions: rope}"
        ),
        ["grid.model[1] (line 6): positions 'rope' rotates pairs: width / heads = 3 is odd."],
    ),
    "empty axis": (
        GOOD.replace("[parity_check, tomita_3]", "[]"),
        ["grid.task (line 3): is an empty list. Give at least one value."],
    ),
    "axis no list": (
        GOOD.replace("[parity_check, tomita_3]", "parity_check"),
        ["grid.task (line 3): wants a list, found the text 'parity_check'. Write [parity_check]."],
    ),
    "repeated value": (
        GOOD.replace("[parity_check, tomita_3]", "[tomita_3, tomita_3]"),
        ["grid.task[1] (line 3): repeats grid.task[0]. Keep one."],
    ),
    "unknown axis": (
        GOOD.replace("  task:", "  tasks:"),
        [
            "grid.tasks (line 3): no axis is called 'tasks'. Did you mean 'task'? Known: task, sampling, model, train.",
            "the file: no task is given. Add 'task:' or an axis 'grid.task'.",
        ],
    ),
    "seed axis": (
        GOOD.replace("  task:", "  seed: [1, 2]\n  task:"),
        ["grid.seed (line 3): seeds are no axis. Use the field 'seeds'."],
    ),
    "seeds zero": (
        GOOD.replace("seeds: 2", "seeds: 0"),
        ["seeds (line 8): wants at least 1 and at most 100000 seeds, found 0."],
    ),
    "seeds repeated": (
        GOOD.replace("seeds: 2", "seeds: [1, 1]"),
        ["seeds (line 8): repeats 1. Give each seed once."],
    ),
    "seeds text": (
        GOOD.replace("seeds: 2", "seeds: two"),
        [
            "seeds (line 8): wants a number of seeds or a list of them such as [0, 1, 2], found the text 'two'."
        ],
    ),
    "seeds negative": (
        GOOD.replace("seeds: 2", "seeds: [-1]"),
        ["seeds[0] (line 8): must be at least 0, found the number -1."],
    ),
    "no task": (
        GOOD.replace("  task: [parity_check, tomita_3]\n", ""),
        ["the file: no task is given. Add 'task:' or an axis 'grid.task'."],
    ),
    "multiples empty": (
        GOOD + "evaluate: {multiples: []}\n",
        ["evaluate (line 9): multiples and lengths are both empty: nothing would be evaluated."],
    ),
    "multiples scalar": (
        GOOD + "evaluate: {multiples: 3}\n",
        ["evaluate.multiples (line 9): wants a list, found the number 3. Write [3]."],
    ),
    "multiples zero": (
        GOOD + "evaluate: {multiples: [0]}\n",
        ["evaluate.multiples[0] (line 9): must be above 0.0, found the number 0."],
    ),
    "strings zero": (
        GOOD + "evaluate: {strings: 0}\n",
        ["evaluate.strings (line 9): must be at least 1, found the number 0."],
    ),
    "field and axis": (
        GOOD.replace("grid:\n", "grid:\n  train.steps: [100, 200]\n") + "task: d_4\n",
        [
            "train.steps (line 8): the axis grid.train.steps overrules it in every cell, with [100, 200]. Drop one of the two, or change the axis: --set 'grid.train.steps=[100]'.",
            "task (line 10): the axis grid.task overrules it in every cell, with [parity_check, tomita_3]. Drop one of the two, or change the axis: --set 'grid.task=[d_4]'.",
        ],
    ),
    "model and axis": (
        GOOD + "model: {kind: rnn, width: 8}\n",
        [
            "model (line 9): the axis grid.model overrules it in every cell, with [ldru(operator=mlp, width=32), lstm(width=64)]. Drop one of the two, or change the axis: --set 'grid.model=[{kind: rnn, width: 8}]'.",
        ],
    ),
    "mapping of an axis": (
        GOOD.replace("grid:\n", "grid:\n  train: [{steps: 5}, {steps: 6}]\n"),
        [
            "train (line 8): the axis grid.train overrules it in every cell, with [(steps=5), (steps=6)]. Drop one of the two, or change the axis: --set 'grid.train=[{steps: 100, max_length: 20}]'.",
        ],
    ),
    "gelu of an operator without": (
        GOOD.replace("operator: mlp", "operator: mlp, gelu: tanh"),
        [
            "grid.model[0] (line 5): gelu 'tanh': operator mlp has none. Leave it out, or use operator grc."
        ],
    ),
    "override unmatched": (
        GOOD + "overrides: [{when: {model.kind: rnn}, set: {train.steps: 5}}]\n",
        ["overrides[0].when (line 9): matches no cell of the grid. Mend or drop it."],
    ),
    "override unknown": (
        GOOD + "overrides: [{when: {model.kind: lstm}, set: {train.stepz: 5}}]\n",
        [
            "overrides[0].set.train.stepz (line 9): no field is called 'stepz'. Did you mean 'steps'?"
        ],
    ),
    "override when unknown": (
        GOOD + "overrides: [{when: {train.stepz: 3}, set: {train.steps: 5}}]\n",
        ["overrides[0].when.train.stepz (line 9): no field of a trial has this path."],
    ),
    "gpus negative": (
        GOOD + "resources: {gpus: -1}\n",
        ["resources.gpus (line 9): must be at least 0.0, found the number -1."],
    ),
    "cpus zero": (
        GOOD + "resources: {cpus: 0}\n",
        ["resources.cpus (line 9): must be above 0.0, found the number 0."],
    ),
    "bool as int": (
        GOOD.replace("steps: 100", "steps: true"),
        ["train.steps (line 7): wants a whole number, found the truth value true."],
    ),
    "on is a word": (
        GOOD.replace("steps: 100", "steps: on"),
        ["train.steps (line 7): wants a whole number, found the text 'on'."],
    ),
    "no usable length": (
        GOOD.replace("max_length: 20", "max_length: 1").replace("tomita_3", "d_4"),
        [
            "d_4/ldru(mlp): between lengths 1 and 1, d_4 has none at which every label exists. Raise train.max_length.",
            "d_4/lstm: between lengths 1 and 1, d_4 has none at which every label exists. Raise train.max_length.",
        ],
    ),
    "too many cells": (
        GOOD.replace(
            "  task:",
            f"  train.steps: {[*range(1, 401)]}\n  train.batch_size: {[*range(1, 401)]}\n  task:",
        ).replace("steps: 100, ", ""),
        ["grid (line 2): spans 640000 cells; 100000 is the most. Split the study."],
    ),
    "same trial twice": (
        GOOD.replace(
            "{kind: lstm, width: 64}", "{kind: ldru, operator: mlp, width: 32, dropout: 0}"
        ),
        [
            "grid.model[1] (line 6): gives the same trial as grid.model[0], defaults included. Keep one."
        ],
    ),
    "sampling": (
        GOOD + "sampling: papr\n",
        [
            "sampling (line 9): no sampling is called 'papr'. Did you mean 'paper'? Known: balanced, hard, paper."
        ],
    ),
    "no such sampling of a task": (
        GOOD.replace("tomita_3", "listops_3_9") + "sampling: hard\n",
        [
            "sampling (line 9): listops_3_9 has no sampling 'hard': its strings are drawn by the "
            "states of a task's automaton, and nested lists have none. Use balanced or paper."
        ],
    ),
    "lists too long": (
        "name: good\ntask: listops_3_9\nmodel: {kind: lstm}\nevaluate: {multiples: [1, 200]}\n",
        [
            "listops_3_9/lstm: strings of ListOps have at most 4096 tokens, found 8000. Ask for shorter ones"
        ],
    ),
    "own task without a language": (
        GOOD.replace("tomita_3", '{regexp: "0*"}'),
        [
            "grid.task[1] (line 3): a task of your own has the field regex or automaton; found regexp."
        ],
    ),
    "own task with two": (
        GOOD.replace("tomita_3", '{regex: "0*1", automaton: {}}'),
        [
            "grid.task[1] (line 3): a task of your own has the field regex or automaton; found regex, automaton."
        ],
    ),
    "own task with a mistake": (
        GOOD.replace("tomita_3", '{regex: "0*1", alphbet: "01"}'),
        ["grid.task[1] (line 3): alphbet: no field is called 'alphbet'. Did you mean 'alphabet'?"],
    ),
    "no regular expression": (
        GOOD.replace("tomita_3", '{regex: "(0|1"}'),
        [
            "grid.task[1] (line 3): regex: '(0|1' is no regular expression over '01': Token list has unclosed parethesis."
        ],
    ),
    "own task called like another": (
        GOOD.replace("tomita_3", '{regex: "0*1", name: d_4}'),
        ["grid.task[1] (line 3): name: 'd_4' is another task. Choose another name."],
    ),
    "own name of no name": (
        GOOD.replace("tomita_3", '{regex: "0*1", name: "a b"}'),
        [
            "grid.task[1] (line 3): name: the text 'a b' is no name. Use letters, digits, '-' and '_', at most 64, beginning with a letter or digit."
        ],
    ),
    "two tasks of one name": (
        GOOD.replace("parity_check, tomita_3", '{regex: "0*1", name: a}, {regex: "1*0", name: a}'),
        ["grid.task[1] (line 3): is shown as 'a', as another task is. Give it a name of its own."],
    ),
    "one task twice": (
        GOOD.replace(
            "parity_check, tomita_3", '{regex: "0*1", name: a}, {regex: "0*01|1", name: b}'
        ),
        [
            "grid.task[1] (line 3): gives the same trial as grid.task[0], defaults included. Keep one."
        ],
    ),
    "automaton without classes": (
        GOOD.replace("tomita_3", '{automaton: {alphabet: "01", states: {a: [a, b], b: [b, a]}}}'),
        ["grid.task[1] (line 3): automaton: give either accept or classes."],
    ),
    "automaton that leads nowhere": (
        GOOD.replace(
            "tomita_3", '{automaton: {alphabet: "01", states: {a: [a, b], b: [c, a]}, accept: [b]}}'
        ),
        ["grid.task[1] (line 3): automaton.states.b: no state is called 'c'. States: a, b."],
    ),
    "automaton with too few symbols": (
        GOOD.replace(
            "tomita_3", '{automaton: {alphabet: "01", states: {a: [a, b], b: [a]}, accept: [b]}}'
        ),
        ["grid.task[1] (line 3): automaton.states.b: wants one state per symbol of '01', found 1."],
    ),
    "automaton that accepts what is not there": (
        GOOD.replace(
            "tomita_3",
            '{automaton: {alphabet: "01", states: {even: [even, odd], odd: [odd, even]}, accept: [oddd]}}',
        ),
        ["grid.task[1] (line 3): automaton.accept: no state is called 'oddd'. Did you mean 'odd'?"],
    ),
    "alias cycle": (
        "name: good\ngrid: &g\n  task: [parity_check]\n  again: *g\n",
        ["grid.again (line 4): an alias refers to a value that contains it."],
    ),
    "unknown field": (
        GOOD + "serch: {trials: 3}\n",
        ["serch (line 9): no field is called 'serch'. Did you mean 'search'?"],
    ),
    "search without a space": (
        GOOD + "search: {trials: 3}\n",
        ["search (line 9): the field 'space' is missing. Add it."],
    ),
    "dimension": (
        GOOD + "search: {space: {train.learning_rate: {kind: log_unifrm, low: 1e-4, high: 1}}}\n",
        [
            "search.space.train.learning_rate.kind (line 9): no dimension is called 'log_unifrm'. Did you mean 'log_uniform'? Known: choice, integer, log_uniform, uniform."
        ],
    ),
    "range": (
        GOOD + "search: {space: {train.learning_rate: {kind: uniform, low: 2.0, high: 1.0}}}\n",
        ["search.space.train.learning_rate (line 9): low 2 is not below high 1."],
    ),
    "space of no field": (
        GOOD + "search: {space: {train.learning_rte: {kind: uniform, low: 0.1, high: 1.0}}}\n",
        [
            "search.space.train.learning_rte (line 9): in parity_check/ldru(mlp): no field is called 'learning_rte'. Did you mean 'learning_rate'?",
            "search.space.train.learning_rte (line 9): in parity_check/lstm: no field is called 'learning_rte'. Did you mean 'learning_rate'?",
            "search.space.train.learning_rte (line 9): in tomita_3/ldru(mlp): no field is called 'learning_rte'. Did you mean 'learning_rate'?",
            "search.space.train.learning_rte (line 9): in tomita_3/lstm: no field is called 'learning_rte'. Did you mean 'learning_rate'?",
        ],
    ),
    "space out of range": (
        GOOD
        + "search: {space: {model.dropout: {kind: uniform, low: 0.0, high: 2.0, when: {model.kind: ldru}}}}\n",
        [
            "search.space.model.dropout (line 9): in parity_check/ldru(mlp): must be below 1.0, found the number 2.0.",
            "search.space.model.dropout (line 9): in tomita_3/ldru(mlp): must be below 1.0, found the number 2.0.",
        ],
    ),
    "space for no cell": (
        GOOD
        + "search: {space: {model.width: {kind: choice, values: [2, 4], when: {model.kind: rnn}}}}\n",
        ["search.space.model.width.when (line 9): holds in no cell. Mend or drop it."],
    ),
    "another question": (
        GOOD + "search: {space: {train.max_length: {kind: choice, values: [20, 40]}}}\n",
        [
            "search (line 9): space: train.max_length makes another question of it. Use an axis of grid."
        ],
    ),
    "strings for nothing": (
        GOOD + "search: {strings: 9, space: {model.width: {kind: choice, values: [2, 4]}}}\n",
        ["search (line 9): strings are for extrapolation_error, which is no objective. Drop it."],
    ),
    "oracle": (
        GOOD
        + "search:\n  objective: extrapolation_error\n  multiples: [2]\n  space: {model.width: {kind: choice, values: [2, 4]}}\n",
        [
            f"{cell}: search.multiples: length 40 also judges, so the search would choose what it is judged by. Choose other multiples, or say search.allow_oracle: true, and every table says so too."
            for cell in (
                "parity_check/ldru(mlp)",
                "parity_check/lstm",
                "tomita_3/ldru(mlp)",
                "tomita_3/lstm",
            )
        ],
    ),
    "duration": (
        GOOD + "budget: {wall_clock: 90}\n",
        [
            "budget.wall_clock (line 9): wants a duration such as 2h30m, 90m or 45s, found the number 90."
        ],
    ),
    "hours of no GPU": (
        GOOD + "budget: {gpu_hours: 2}\n",
        [
            "budget.gpu_hours (line 9): a trial takes no GPU, so no hour is ever spent. Set resources.gpus, or drop it."
        ],
    ),
}


def read(text):
    file = parse_yaml(text, "study.yaml")
    return plan_study(validate_study(file.content, file))


def test_the_good_one_is_good():
    assert len(read(GOOD).trials) == 8


def test_there_are_enough_of_them():
    assert len(CASES) >= 25


@pytest.mark.parametrize(("text", "problems"), CASES.values(), ids=CASES)
def test_each_problem_is_named(text, problems):
    with pytest.raises(SpecError) as caught:
        read(text)
    assert list(caught.value.problems) == problems


@pytest.mark.parametrize("command", ["validate", "plan", "submit"])
@pytest.mark.parametrize("case", ["unknown task", "not yaml", "no usable length"])
def test_the_command_line_exits_with_2_and_starts_nothing(case, command, tmp_path, monkeypatch):
    text, problems = CASES[case]
    spec = tmp_path / "study.yaml"
    spec.write_text(text)
    monkeypatch.setenv("LDRU_STORE", str(tmp_path / "results"))
    done = CliRunner().invoke(main, [command, str(spec)])
    assert done.exit_code == 2
    assert done.stdout == ""
    for problem in problems:
        assert f"  {problem}" in done.stderr.splitlines()
    assert done.stderr.startswith("Error: ")
    # neither a study nor an attempt was recorded
    assert not (tmp_path / "results").exists()


def test_all_problems_come_at_once():
    text = (
        GOOD.replace("mlp", "gcr").replace("tomita_3", "tomita_33").replace("seeds: 2", "seeds: 0")
    )
    with pytest.raises(SpecError) as caught:
        read(text.replace("steps: 100", "step: 100"))
    places = [problem.split(" (")[0] for problem in caught.value.problems]
    assert sorted(places) == ["grid.model[0].operator", "grid.task[1]", "seeds", "train.step"]
    assert str(caught.value).splitlines()[0] == "study.yaml: 4 problems"


def test_a_missing_file_is_not_found(tmp_path):
    done = CliRunner().invoke(main, ["validate", str(tmp_path / "none.yaml")])
    assert done.exit_code == 3
    assert "none.yaml: no such file. Give the path of a study file." in done.stderr
