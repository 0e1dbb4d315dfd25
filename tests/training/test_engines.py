"""Engines differ by rounding: DeepSpeed at every stage, bf16, several workers, and hand-overs.

Tolerances: over 50 steps losses agree within 1e-5 in fp32, where they are sums in another order;
in bf16 within 2e-2, as a weight that is rounded the other way differs by 2^-8 of itself.
"""

from __future__ import annotations

import math
import sys

import pytest
import torch
from tests.conftest import MODELS
from tests.training.gang import Gang

from ldru_study.errors import StudyError
from ldru_study.spec.trial import TrialConfig
from ldru_study.training import deepspeed_engine
from ldru_study.training.checkpoint import load
from ldru_study.training.deepspeed_engine import deepspeed_json
from ldru_study.training.failures import DivergedError
from ldru_study.training.training import Training

# what torch imports once an optimiser of DeepSpeed is made
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
CPU = torch.device("cpu")
PLAIN = {"kind": "plain"}


def zero(stage, **more):
    return {"kind": "deepspeed", "zero_stage": stage, **more}


def trial(model="ldru", engine=PLAIN, **train):
    kind = {**MODELS[model]} | ({} if model in ("lstm", "rnn", "constant") else {"dropout": 0.0})
    # a small rate: a tiny tree's loss is rough, and Adam makes much of the smallest gradients
    settings = {"max_length": 8, "steps": 50, "batch_size": 16, "lengths_per_batch": 4}
    settings |= {"learning_rate": 1e-4, "engine": engine} | train
    return TrialConfig.model_validate({"task": "parity_check", "model": kind, "train": settings})


def losses_of(config, num_steps=50):
    """Train; return the losses, then the gradient norm of the last step."""
    training = Training(config, CPU)
    try:
        losses = [training.advance().loss for _ in range(num_steps)]
        return losses, training.last.gradient_norm
    finally:
        training.close()


def continued(config, state, num_steps):
    """Continue from a state, or begin with None; return losses and the state afterwards."""
    training = Training(config, CPU)
    try:
        if state is not None:
            training.restore(state)
        losses = [training.advance().loss for _ in range(num_steps)]
        training.measure(training.last, 32)
        return losses, training.state()
    finally:
        training.close()


@pytest.fixture(scope="module")
def gang():
    gang = Gang(2)
    yield gang
    gang.end()


@pytest.fixture(scope="module")
def wanted():
    """Return what one worker does with the plain engine."""
    return {
        (model, precision): losses_of(trial(model, PLAIN | {"precision": precision}))
        for model, precision in (
            *(("ldru", precision) for precision in ("fp32", "bf16")),
            ("transformer", "fp32"),
            ("lstm", "fp32"),
        )
    }


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        *(("ldru", engine) for engine in (PLAIN, zero(0), zero(1), zero(2), zero(3))),
        ("transformer", zero(3, activation_checkpointing=True)),
        ("transformer", zero(1, gradient_accumulation=2)),
        ("lstm", zero(2)),
        ("lstm", PLAIN | {"gradient_accumulation": 4}),
        ("ldru", PLAIN | {"precision": "bf16"}),
        *(("ldru", zero(stage, precision="bf16")) for stage in (0, 1, 3)),
    ],
)
def test_two_workers_train_as_one(gang, wanted, model, engine):
    precision = engine.get("precision", "fp32")
    (losses, norm), (others, _) = gang.call(losses_of, trial(model, engine, data_parallel=2))
    # every rank knows the loss of the whole batch
    assert losses == others
    one_losses, one_norm = wanted[model, precision]
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    assert losses == pytest.approx(one_losses, abs=tolerance)
    assert norm == pytest.approx(one_norm, rel=1e-3 if precision == "fp32" else 0.2)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_workers_centralise_the_gradients_of_one(gang, stage):
    # a gradient through a norm is nearly centred already, those of queries and keys are not
    alone = losses_of(trial("transformer", gradient_centralisation=True), 5)
    shared = {"data_parallel": 2, "gradient_centralisation": True}
    together, _ = gang.call(losses_of, trial("transformer", zero(stage), **shared), 5)
    assert together[0] == pytest.approx(alone[0], abs=1e-5)
    assert together[1] == pytest.approx(alone[1], rel=1e-4)
    assert together[1] < 0.997 * losses_of(trial("transformer"), 5)[1]


@pytest.mark.parametrize(
    ("engine", "tolerance"),
    [(PLAIN, 1e-5), (zero(1), 1e-5), (zero(3), 1e-5), (zero(2, precision="bf16"), 5e-2)],
)
def test_two_workers_share_each_string(gang, engine, tolerance):
    precision = engine.get("precision", "fp32")
    wanted, _ = losses_of(trial(engine=PLAIN | {"precision": precision}, max_length=13), 20)
    config = trial(engine=engine, max_length=13, sequence_parallel=2)
    (losses, _), (others, _) = gang.call(losses_of, config, 20)
    assert losses == others == pytest.approx(wanted, abs=tolerance)


def test_two_workers_of_a_string_draw_the_same_penalty(gang):
    penalty = {"max_length": 13, "associativity_penalty": 1.0}
    wanted, _ = losses_of(trial(**penalty), 10)
    config = trial(engine=zero(2), sequence_parallel=2, **penalty)
    assert gang.call(losses_of, config, 10)[0][0] == pytest.approx(wanted, abs=1e-5)
    assert wanted != pytest.approx(losses_of(trial(max_length=13), 10)[0], abs=1e-4)


def test_two_workers_draw_the_same_brackets(gang):
    def bracketed(**train):
        config = trial(**train)
        changed = config.model.model_copy(update={"random_brackets": True})
        return config.model_copy(update={"model": changed})

    wanted, _ = losses_of(bracketed(), 10)
    for engine in (PLAIN | {"gradient_accumulation": 2}, zero(2)):
        config = bracketed(engine=engine, data_parallel=2)
        assert gang.call(losses_of, config, 10)[0][0] == pytest.approx(wanted, abs=1e-5)
    assert wanted != pytest.approx(losses_of(trial(), 10)[0], abs=1e-4)


def test_bf16_is_not_fp32(wanted):
    fp32, bf16 = (wanted["ldru", precision][0] for precision in ("fp32", "bf16"))
    assert max(abs(a - b) for a, b in zip(fp32, bf16, strict=True)) > 1e-4


@pytest.mark.parametrize("optimizer", ["adamw", "amsgrad"])
def test_a_training_is_handed_from_engine_to_engine(gang, optimizer):
    common = {"optimizer": optimizer, "weight_decay": 0.01, "schedule": "cosine"}
    whole, whole_state = continued(trial(**common), None, 50)
    two = {**common, "data_parallel": 2}
    first, state = continued(trial(**common), None, 10)
    # PyTorch, one worker -> ZeRO 3, two -> ZeRO 1, two -> ZeRO 2, one -> PyTorch, two
    losses = [*first]
    for engine, num_steps, is_group in (
        (zero(3), 10, True),
        (zero(1), 10, True),
        (zero(2), 10, False),
        (PLAIN, 10, True),
    ):
        config = trial(engine=engine, **(two if is_group else common))
        assert config.trial_id == trial(**common).trial_id
        if is_group:
            [(more, state), (_, nothing)] = gang.call(continued, config, state, num_steps)
            # one rank writes
            assert nothing == b""
        else:
            more, state = continued(config, state, num_steps)
        losses += more
    assert losses == pytest.approx(whole, abs=1e-5)
    found, wanted = (load(each, trial(**common)) for each in (state, whole_state))
    assert found[1]["step"] == wanted[1]["step"] == 50
    assert found[0].keys() == wanted[0].keys()
    for name, value in wanted[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-3, atol=1e-5)


def test_a_state_of_bf16_keeps_fp32_weights(gang):
    config = trial(engine=zero(2, precision="bf16"), data_parallel=2)
    [(_, state), _] = gang.call(continued, config, None, 3)
    tensors, _ = load(state, config)
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    weights = tensors["model/classifier.weight"]
    assert not torch.equal(weights, weights.bfloat16().float())


def test_a_group_diverges_as_one(gang):
    for engine in (PLAIN, zero(2)):
        config = trial(
            engine=engine, data_parallel=2, learning_rate=1e38, clip_norm=None, warmup=0.0
        )
        with pytest.raises(DivergedError, match=r"step \d+: .*Lower train.learning_rate"):
            gang.call(losses_of, config)
    # and can do other work afterwards
    assert math.isfinite(gang.call(losses_of, trial(data_parallel=2), 1)[0][1])


def test_more_or_fewer_processes_than_workers_are_refused(gang):
    with pytest.raises(ValueError, match=r"2 processes joined, but .* makes 1 workers"):
        gang.call(losses_of, trial())


def test_no_two_gradients_share_memory():
    for model in MODELS:
        training = Training(trial(model), CPU)
        training.advance()
        places = [p.grad.untyped_storage().data_ptr() for p in training.model.parameters()]
        starts = [p.grad.data_ptr() for p in training.model.parameters()]
        assert len(set(starts)) == len(places), model


def test_deepspeeds_json_is_derived_from_the_spec():
    assert deepspeed_json(trial().train) is None
    engine = zero(3, precision="fp16", offload="cpu", gradient_accumulation=2)
    derived = deepspeed_json(trial(engine=engine, data_parallel=4).train)
    assert derived["train_micro_batch_size_per_gpu"] == 4
    assert derived["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": {"device": "cpu"},
        "offload_param": {"device": "cpu"},
    }
    assert (derived["fp16"]["enabled"], derived["bf16"]["enabled"]) == (True, False)


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'deepspeed'"), OSError()])
def test_a_missing_or_broken_deepspeed_names_the_setting(monkeypatch, error):
    class Broken:
        def find_spec(self, name, *_):
            if name == "deepspeed":
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "deepspeed"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(StudyError, match=r"train.engine: kind deepspeed needs the package"):
        Training(trial(engine=zero(1)), CPU)


def test_what_deepspeed_refuses_names_the_setting(monkeypatch):
    derived = deepspeed_engine.deepspeed_json
    monkeypatch.setattr(
        deepspeed_engine, "deepspeed_json", lambda train: derived(train) | {"train_batch_size": 7}
    )
    with pytest.raises(StudyError, match=r"train.engine .*zero_stage.*: DeepSpeed .* refuses it"):
        Training(trial(engine=zero(1)), CPU)
