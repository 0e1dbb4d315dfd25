"""The plan: a pure function of what is asked and what is held."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ldru_study.spec.plan import Holdings, Question, plan_study
from ldru_study.spec.resolved import resolved
from ldru_study.spec.study import validate_study
from ldru_study.spec.trial import RECIPE, TrainConfig, TrialConfig
from ldru_study.spec.yaml_file import parse_yaml

SPEC = """
name: planned
grid:
  task: [parity_check, d_4]
model: {kind: lstm, width: 4}
train: {max_length: 41}
seeds: 2
evaluate: {multiples: [1, 1.01, 2], lengths: [10, 82], strings: 64, seed: 9}
"""


def read(text=SPEC):
    file = parse_yaml(text, "study.yaml")
    return validate_study(file.content, file)


def test_questions_are_lengths_at_which_every_label_exists():
    plan = plan_study(read())
    assert [question.length for question in plan.trials[0].questions] == [10, 41, 82]
    # balanced brackets have even lengths; three multiples become two lengths
    assert [question.length for question in plan.trials[2].questions] == [10, 40, 82]
    assert {(q.num_total, q.eval_seed) for t in plan.trials for q in t.questions} == {(64, 9)}


def test_nothing_held_means_everything_is_trained():
    plan = plan_study(read())
    assert {trial.state for trial in plan.trials} == {"train"}
    assert plan.to_run == plan.trials


def held(**more):
    first, second, third, fourth = (trial.trial_id for trial in plan_study(read()).trials)
    questions = plan_study(read()).trials[0].questions
    return (first, second, third, fourth), Holdings(
        trained=frozenset({first, second}),
        answered={
            first: frozenset(questions),
            second: frozenset({questions[0], Question(10, 64, 1)}),
        },
        **{key: frozenset({third}) for key in more},
    )


def test_what_is_held_is_not_done_again():
    _, holdings = held()
    plan = plan_study(read(), holdings)
    assert [trial.state for trial in plan.trials] == ["done", "evaluate", "train", "train"]
    assert [question.length for question in plan.trials[1].missing] == [41, 82]


def test_weights_are_asked_about_only_where_a_question_is_open():
    (first, second, *_), holdings = held()

    class Asked(set):
        def __contains__(self, trial_id):
            self.add(trial_id)
            return True

    asked = Asked()
    plan = plan_study(read(), dataclasses.replace(holdings, trained=asked))
    assert asked == {trial.trial_id for trial in plan.trials} - {first}
    assert [trial.state for trial in plan.trials] == ["done", *["evaluate"] * 3]
    assert second in asked


@pytest.mark.parametrize("state", ["diverged", "running"])
def test_what_would_fail_again_or_runs_elsewhere_is_left(state):
    _, holdings = held(**{state: True})
    plan = plan_study(read(), holdings)
    assert plan.trials[2].state == state
    assert plan.trials[2] not in plan.to_run
    retried = plan_study(read(), holdings, retry_diverged=True)
    assert retried.trials[2].state == ("train" if state == "diverged" else "running")


@pytest.mark.parametrize(
    "change", [("strings: 64", "strings: 65"), ("seed: 9", "seed: 8"), ("[1, 1.01, 2]", "[4]")]
)
def test_other_questions_train_nothing(change):
    plan = plan_study(read())
    trained = Holdings(trained=frozenset(trial.trial_id for trial in plan.trials))
    asked = plan_study(read(SPEC.replace(*change)), trained)
    assert {trial.state for trial in asked.trials} == {"evaluate"}


def test_the_resolved_form_says_once_what_the_trials_of_a_cell_share():
    spec, plan = read(), plan_study(read())
    form = json.loads(json.dumps(resolved(spec, plan)))
    assert form["seeds"] == [0, 1]
    assert [cell["cell"] for cell in form["cells"]] == ["parity_check/lstm", "d_4/lstm"]
    told = [
        (TrialConfig.model_validate(cell["config"] | {"seed": seed}), trial_id, cell["questions"])
        for cell in form["cells"]
        for seed, trial_id in zip(form["seeds"], cell["trial_ids"], strict=True)
    ]
    assert told == [
        (t.config, t.trial_id, [[q.length, q.num_total, q.eval_seed] for q in t.questions])
        for t in plan.trials
    ]


def trial(**fields):
    base = {"task": "parity_check", "model": {"kind": "lstm", "width": 4}}
    return TrialConfig.model_validate(base | fields)


def test_ids_are_pinned():
    """A stored trial stays valid: change these only together with RECIPE."""
    assert RECIPE == 2
    assert trial().trial_id == "83e95db18d0ec786"
    ldru = {"kind": "ldru", "operator": "grc", "width": 32}
    assert trial(model=ldru, train={"steps": 5}, seed=7).trial_id == "726684855a5a79fc"
    # fields that are younger than stored trials
    young = {"gelu": "exact", "node_noise": 0.0, "random_brackets": False}
    assert trial(model=ldru | young, train={"steps": 5}, seed=7).trial_id == "726684855a5a79fc"
    others = [{}, {"node_noise": 0.1}, {"node_noise": 0.2}, {"random_brackets": True}]
    others.append({"gelu": "tanh"})
    assert len({trial(model=ldru | other).trial_id for other in others}) == 5


def test_defaults_are_pinned():
    """Fields at their default do not enter an id, so a default is part of every stored id."""
    assert TrainConfig().model_dump() == {
        "max_length": 40,
        "min_length": 1,
        "steps": 20_000,
        "batch_size": 256,
        "lengths_per_batch": 1,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup": 0.2,
        "schedule": "constant",
        "gradient_centralisation": False,
        "clip_norm": 1.0,
        "curriculum": None,
        "associativity_penalty": 0.0,
        "engine": {
            "kind": "plain",
            "precision": "fp32",
            "activation_checkpointing": False,
            "gradient_accumulation": 1,
        },
        "sequence_parallel": 1,
        "data_parallel": 1,
    }
    models = {
        "ldru": {
            "operator": "mlp",
            "width": 64,
            "lone_node": "zero_left",
            "dropout": 0.0,
            "node_noise": 0.0,
            "random_brackets": False,
            "gelu": "exact",
        },
        "lstm": {"width": 256},
        "rnn": {"width": 256},
        "gru": {"width": 256},
        "constant": {},
        "transformer": {
            "width": 64,
            "layers": 5,
            "heads": 8,
            "positions": "sinusoidal",
            "looped": False,
            "dropout": 0.0,
        },
        "regular_gpt": {"width": 64, "heads": 8, "window": 2, "dropout": 0.0},
        "s5": {"width": 64, "layers": 2, "state": 256, "dropout": 0.0},
        "sd_ssm": {"width": 64, "matrices": 8, "normalise": "column"},
        "deltanet": {
            "width": 64,
            "layers": 2,
            "heads": 4,
            "householders": 1,
            "negative_eigenvalues": False,
        },
        "mamba2": {
            "width": 64,
            "layers": 2,
            "heads": 8,
            "state": 64,
            "negative_eigenvalues": False,
        },
    }
    for kind, fields in models.items():
        if kind != "constant":
            fields["match_parameters"] = None
        assert trial(model={"kind": kind}).model.model_dump() == {"kind": kind} | fields


def test_what_decides_the_weights_decides_the_id():
    ids = {
        trial().trial_id,
        trial(seed=1).trial_id,
        trial(task="even_pairs").trial_id,
        trial(model={"kind": "lstm", "width": 5}).trial_id,
        trial(train={"learning_rate": 2e-3}).trial_id,
        trial(train={"gradient_centralisation": True}).trial_id,
    }
    assert len(ids) == 6


def test_how_a_value_is_written_does_not():
    assert trial(train={"learning_rate": 1e-3}).trial_id == trial().trial_id
    assert trial(train={"weight_decay": 0}).trial_id == trial(train={}).trial_id
    one = trial(train={"learning_rate": 1}).trial_id
    assert one == trial(train={"learning_rate": 1.0}).trial_id
