"""Parameters, FLOPs, and widths that are found."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from tests.models.small import CONFIGS, build, name_of, strings
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ldru_kernels.schedule import LONE_NODE_RULES, build_schedule
from ldru_study.errors import SpecError
from ldru_study.models.registry import build_model, num_parameters
from ldru_study.spec.model import MODEL_CONFIGS, LdruConfig, matched
from ldru_study.spec.study import parse_study
from ldru_study.spec.suggestions import lay_over
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.registry import find_task

WIDE = [kind for kind, made in MODEL_CONFIGS.items() if "width" in made.model_fields]
# of these every product is one that torch can count
COUNTED = [c for c in CONFIGS if c["kind"] in ("gru", "regular_gpt", "rnn", "transformer")]


@pytest.mark.parametrize("config", COUNTED, ids=name_of)
@pytest.mark.parametrize("length", [2, 5, 8])
def test_flops_are_those_that_torch_counts(config, length):
    model = build(config)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        model(*strings(length))
    made = MODEL_CONFIGS[config["kind"]](**config)
    assert made.num_flops(length, 3, 4) == counted.get_total_flops()


@pytest.mark.parametrize("lone_node", LONE_NODE_RULES)
def test_ldru_counts_its_merges(lone_node):
    """At width 1 a leaf and a merge of a sum are an FFN each: 16 FLOPs."""
    config = LdruConfig(kind="ldru", operator="elementwise_sum", width=1, lone_node=lone_node)
    for length in range(1, 70):
        merges = build_schedule([length], length, lone_node).num_merges
        assert config.num_flops(length, 2, 3) == 16 * (length + merges) + 6


def test_a_merge_of_the_mlp_is_62_squares():
    two, one = (LdruConfig(kind="ldru").num_flops(length, 2, 2) for length in (2, 1))
    assert two - one == (62 + 16) * 64**2


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("wanted", [20_000, 161_602])
def test_the_width_with_the_wanted_parameters(kind, wanted):
    config = MODEL_CONFIGS[kind](kind=kind, match_parameters=wanted)
    if "heads" in MODEL_CONFIGS[kind].model_fields:
        config = MODEL_CONFIGS[kind](kind=kind, heads=2, match_parameters=wanted)
    found = matched(config, 3, 4)
    counts = [
        found.model_copy(update={"width": found.width + step}).num_parameters(3, 4)
        for step in (-found.width_step, 0, found.width_step)
    ]
    assert counts == sorted(counts)
    assert min(counts, key=lambda count: abs(count - wanted)) == counts[1]
    assert num_parameters(build_model(found, num_symbols=3, num_classes=4, seed=0)) == counts[1]
    # found widths are as good as given ones
    assert matched(found, 3, 4) == found
    assert MODEL_CONFIGS[kind].model_validate(found.model_dump()) == found


def trial(**model):
    return TrialConfig.model_validate({"task": "parity_check", "model": {"kind": "lstm"} | model})


def test_a_found_width_is_the_identity():
    found = trial(match_parameters=10_000)
    assert found.model.width == 48
    assert found.trial_id == trial(width=48).trial_id
    assert found.trial_id != trial(width=49).trial_id
    again = TrialConfig.model_validate(json.loads(found.model_dump_json()))
    assert again == found
    assert again.trial_id == found.trial_id
    # the width depends on the task
    longer = TrialConfig.model_validate(found.as_asked() | {"task": "prefix_4_4"})
    assert longer.model.width < 48
    task = find_task("prefix_4_4")
    count = longer.model.num_parameters(task.num_symbols, task.num_classes)
    assert abs(count - 10_000) < 500


def test_a_search_finds_the_width_anew():
    config = TrialConfig.model_validate(
        {
            "task": "parity_check",
            "model": {"kind": "deltanet", "heads": 2, "match_parameters": 50_000},
        }
    )
    deeper = lay_over(config, {"model.layers": 4})
    assert deeper.model.width < config.model.width
    assert abs(deeper.model.num_parameters(2, 2) - 50_000) < 2_500


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"match_parameters": 10_000, "width": 64},
            "width 64 is given, but match_parameters 10000 asks for width 48. Drop one of the two",
        ),
        (
            {"kind": "transformer", "match_parameters": 120_000},
            "match_parameters 120000: the nearest counts of this transformer are 97962 "
            "(width 40) and 140594 (width 48), none within 5 %. Ask for one of them, or change its "
            "other fields",
        ),
        (
            {"match_parameters": 3},
            "match_parameters 3: the nearest counts of this lstm are 24 (width 1), none within "
            "5 %. Ask for one of them, or change its other fields",
        ),
        ({"match_parameters": 0}, "Input should be greater than or equal to 1"),
        ({"kind": "constant", "match_parameters": 2}, "Extra inputs are not permitted"),
    ],
)
def test_widths_that_cannot_be(model, message):
    with pytest.raises(ValidationError) as caught:
        trial(**model)
    assert message in str(caught.value)


STUDY = """
name: matched
grid:
  task: [parity_check, prefix_4_4]
  model:
    - {kind: lstm, match_parameters: 10000}
    - {kind: rnn, match_parameters: 10000}
seeds: 1
"""


def test_a_matched_model_has_one_name_for_all_tasks():
    cells = parse_study(STUDY, "study.yaml").cells
    assert [cell.key for cell in cells] == [
        "parity_check/lstm",
        "parity_check/rnn",
        "prefix_4_4/lstm",
        "prefix_4_4/rnn",
    ]
    assert cells[0].config.model.width != cells[2].config.model.width


def test_an_override_of_a_found_width_is_refused():
    rule = "overrides: [{when: {model.kind: rnn}, set: {model.width: 8}}]\n"
    with pytest.raises(SpecError, match="width 8 is given, but match_parameters 10000 asks for"):
        parse_study(STUDY + rule, "study.yaml")
