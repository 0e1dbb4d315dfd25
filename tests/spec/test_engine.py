"""How a training is carried out: what fits together, what is refused, and what names a trial."""

from __future__ import annotations

import pytest

from ldru_kernels.parallel import chunk_size
from ldru_study.errors import SpecError
from ldru_study.spec.study import validate_study
from ldru_study.spec.trial import TrialConfig, num_chunks_of
from ldru_study.spec.yaml_file import parse_yaml

STUDY = """\
name: good
task: parity_check
model: {kind: ldru, width: 32}
train: {steps: 100, max_length: 20, batch_size: 16}
"""
FILE = "the file: train"
WHERE = "in parity_check/ldru(mlp): "


def read(train="", *, model=None, more=""):
    text = STUDY.replace("size: 16", f"size: 16, {train}" if train else "size: 16") + more
    if model is not None:
        text = text.replace("{kind: ldru, width: 32}", model)
    file = parse_yaml(text, "study.yaml")
    return validate_study(file.content, file)


@pytest.mark.parametrize(
    ("train", "model", "problem"),
    [
        (
            "sequence_parallel: 3",
            None,
            "train (line 4): sequence_parallel 3 is no power of two: every worker reduces one "
            "complete subtree. Use 2 or 4.",
        ),
        (
            "sequence_parallel: 8",
            None,
            "train (line 4): sequence_parallel 8: strings of at most max_length 20 have 5 chunks, "
            "so that 3 workers would have nothing to do. Lower it, or train on longer strings.",
        ),
        (
            "sequence_parallel: 2",
            "{kind: lstm}",
            f"{FILE}.sequence_parallel 2: only the tree of an ldru can be cut into chunks, not the "
            "lstm. Use train.data_parallel, or set it in an override for model.kind ldru.",
        ),
        (
            "data_parallel: 3",
            None,
            "train (line 4): data_parallel 3 does not divide batch_size 16: every worker must "
            "weigh the same.",
        ),
        (
            "data_parallel: 4, engine: {gradient_accumulation: 3}",
            None,
            "train (line 4): engine.gradient_accumulation 3 does not divide the 4 strings of a "
            "worker (batch_size 16 / data_parallel 4).",
        ),
        (
            "engine: {precision: fp16}",
            None,
            "train.engine (line 4): precision fp16 needs its loss scaled, which kind deepspeed "
            "does and kind plain does not. Use bf16, or kind deepspeed.",
        ),
        (
            "engine: {kind: deepspeed, precision: fp16}",
            None,
            "train.engine (line 4): precision fp16 wants zero_stage 1, 2 or 3; with one worker, 1 "
            "is the same as 0.",
        ),
        (
            "engine: {kind: deepspeed, zero_stage: 1, precision: fp16}",
            None,
            f"train.engine.precision (line 4): {WHERE}fp16 runs on GPUs only. Use bf16 or fp32, or "
            "set resources.gpus.",
        ),
        (
            "engine: {kind: deepspeed, zero_stage: 1, offload: cpu}",
            None,
            f"train.engine.offload (line 4): {WHERE}without a GPU everything is on the CPU already."
            " Use none, or set resources.gpus.",
        ),
        (
            "engine: {kind: deepspeed, offload: cpu}",
            None,
            "train.engine (line 4): offload cpu moves what ZeRO shares out. Set zero_stage to 1, 2 "
            "or 3.",
        ),
        (
            "engine: {kind: deepspeed, zero_stage: 4}",
            None,
            "train.engine.zero_stage (line 4): must be at most 3, found the number 4.",
        ),
        (
            "engine: {kind: deepspede}",
            None,
            "train.engine.kind (line 4): no engine is called 'deepspede'. Did you mean "
            "'deepspeed'? Known: deepspeed, plain.",
        ),
        (
            "engine: {zero_stage: 1}",
            None,
            "train.engine.zero_stage (line 4): no field is called 'zero_stage'. Fields: "
            "activation_checkpointing, gradient_accumulation, kind, precision.",
        ),
        (
            "engine: {kind: deepspeed, zero_stage: 1}",
            "{kind: constant}",
            f"{FILE}.engine.zero_stage: the constant has no weights to share out, only a bias per "
            "class. Use zero_stage 0.",
        ),
        (
            "engine: {activation_checkpointing: true}",
            None,
            f"{FILE}.engine.activation_checkpointing: only a transformer has layers to recompute, "
            "the ldru has none (long trees recompute by themselves).",
        ),
        (
            "sequence_parallel: 2",
            "{kind: ldru, random_brackets: true}",
            f"{FILE}.sequence_parallel 2 gives every worker a complete subtree, and trees of "
            "model.random_brackets have none for all of them. Use train.data_parallel.",
        ),
        (
            "associativity_penalty: 0.1",
            "{kind: lstm}",
            f"{FILE}.associativity_penalty 0.1: the lstm has no operator. Leave it out, or set it "
            "in an override for model.kind ldru.",
        ),
        (
            "associativity_penalty: 0.1, engine: {kind: deepspeed, zero_stage: 3}",
            None,
            f"{FILE}.associativity_penalty is computed beside the forward pass, where zero_stage 3 "
            "has taken the weights away. Use zero_stage 2.",
        ),
        (
            "curriculum: {start_length: 30}",
            None,
            "train (line 4): curriculum.start_length 30 is above max_length 20.",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(train, model, problem):
    with pytest.raises(SpecError) as caught:
        read(train, model=model)
    assert list(caught.value.problems) == [problem]


def trial_id(train="", **more):
    return read(train, **more).cells[0].config.trial_id


def test_how_a_training_is_carried_out_names_no_trial():
    # as before there were engines
    assert trial_id() == "c8bed6e8bdab2d31"
    for train in (
        "engine: {kind: plain}",
        "engine: {kind: plain, gradient_accumulation: 4}",
        "engine: {kind: deepspeed, zero_stage: 3}",
        "sequence_parallel: 4, data_parallel: 2",
        "sequence_parallel: 2, engine: {kind: deepspeed, zero_stage: 2}",
    ):
        if "parallel: 4" in train:
            train = train.replace("parallel: 4", "parallel: 2")
        assert trial_id(train) == trial_id(), train
    bare = {"task": "parity_check", "model": {"kind": "lstm"}}
    one, two = (
        TrialConfig.model_validate(bare | more) for more in ({}, {"train": {"data_parallel": 2}})
    )
    assert one.trial_id == two.trial_id


def test_precision_names_a_trial_whatever_the_engine():
    gpus = "resources: {gpus: 1}\n"
    plain = trial_id("engine: {precision: bf16}")
    assert plain == trial_id("engine: {kind: deepspeed, zero_stage: 2, precision: bf16}")
    fp16 = trial_id("engine: {kind: deepspeed, zero_stage: 1, precision: fp16}", more=gpus)
    assert len({trial_id(), plain, fp16}) == 3
    others = ("curriculum: {start_length: 4}", "associativity_penalty: 0.1")
    assert len({trial_id(), *map(trial_id, others)}) == 3


def test_precision_is_an_axis_and_engines_are_told_apart():
    cells = read(more="grid: {train.engine.precision: [fp32, bf16]}\n").cells
    assert [cell.axes["train.engine.precision"] for cell in cells] == ["fp32", "bf16"]
    both = "[{kind: plain}, {kind: deepspeed, zero_stage: 1, precision: bf16}]"
    cells = read(more=f"grid: {{train.engine: {both}}}\n").cells
    shown = [cell.axes["train.engine"] for cell in cells]
    assert shown == ["plain", "deepspeed(zero_stage=1, precision=bf16)"]


def test_what_decides_no_weights_is_neither_axis_nor_dimension():
    with pytest.raises(SpecError, match=r"Keep one\. How a training is carried out decides no"):
        read(more="grid: {train.sequence_parallel: [1, 2]}\n")
    space = "{train.data_parallel: {kind: integer, low: 1, high: 2}}"
    with pytest.raises(SpecError, match=r"space.train.data_parallel .* nothing to search for"):
        read(more=f"search: {{trials: 3, space: {space}}}\n")


def test_overrides_reach_the_fields_of_an_engine():
    rule = "overrides: [{when: {train.engine.%s: %s}, set: {train.data_parallel: 2}}]\n"
    spec = read("engine: {kind: deepspeed}", more=rule % ("kind", "deepspeed"))
    assert spec.cells[0].config.train.workers == 2
    with pytest.raises(SpecError, match=r"train.engine.knid .*no field of a trial has this path"):
        read(more=rule % ("knid", "plain"))


@pytest.mark.parametrize(
    ("length", "workers", "chunks"),
    [(1, 1, 1), (1, 4, 1), (5, 4, 3), (8, 4, 4), (9, 4, 3), (20, 2, 2), (4096, 8, 8), (33, 2, 2)],
)
def test_chunks(length, workers, chunks):
    assert num_chunks_of(length, workers) == chunks
    # specs know no kernels, so the size stands in both
    assert num_chunks_of(length, workers) == -(-length // chunk_size(length, workers))
