"""Training: pure functions of the step, bits that survive an interruption, and honest failures."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from tests.conftest import MODELS, small_trial

from ldru_study.training.failures import DamagedError, DivergedError
from ldru_study.training.optimiser import learning_rate_at
from ldru_study.training.training import Training, dump_weights, load_weights

CPU = torch.device("cpu")


def advance(training, steps):
    for _ in range(steps):
        result = training.advance()
        training.measure(result, 16)
    return training


def without_seconds(history):
    return [dataclasses.replace(row, seconds=0.0) for row in history]


@pytest.mark.parametrize("optimizer", ["adamw", "amsgrad"])
@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_restored_training_continues_to_the_same_bits(model, optimizer):
    config = small_trial(model, optimizer=optimizer, schedule="cosine", weight_decay=0.01)
    whole = advance(Training(config, CPU), 12)
    state = advance(Training(config, CPU), 5).state()
    # whatever else drew random numbers in between must not matter
    torch.manual_seed(999)
    torch.rand(7)
    resumed = Training(config, CPU)
    resumed.restore(state)
    assert resumed.step == 5
    advance(resumed, 7)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    wanted, found = (t.optimizer.state_dict()["state"] for t in (whole, resumed))
    for number, values in wanted.items():
        for key, value in values.items():
            assert torch.equal(value, found[number][key]), (number, key)
    assert without_seconds(whole.history) == without_seconds(resumed.history)
    assert whole.is_finished


@pytest.mark.parametrize("model", sorted(set(MODELS) - {"constant"}))
def test_training_learns(model):
    config = small_trial(model, steps=150, learning_rate=1e-2, batch_size=64, max_length=3)
    training = Training(config, CPU)
    losses = [training.advance().loss for _ in range(150)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_seeds_differ_and_a_seed_repeats():
    def weights(seed):
        return dump_weights(advance(Training(small_trial(seed=seed), CPU), 3).model, small_trial())

    assert weights(0) == weights(0)
    assert weights(0) != weights(1)


def test_weights_come_back_without_pickle():
    config = small_trial("ldru")
    model = advance(Training(config, CPU), 2).model
    data = dump_weights(model, config)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert (
        json.loads(header["__metadata__"]["ldru_study"])["about"]["config"]["task"]
        == "parity_check"
    )
    loaded = load_weights(data, config, CPU)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_weights_of_another_trial_are_refused():
    data = dump_weights(Training(small_trial(), CPU).model, small_trial())
    other = small_trial(seed=1)
    message = f"it is of trial {small_trial().trial_id}, wanted {other.trial_id}"
    with pytest.raises(DamagedError, match=message):
        load_weights(data, other, CPU)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_damaged_weights_are_named(cut):
    config = small_trial()
    data = dump_weights(Training(config, CPU).model, config)
    with pytest.raises(DamagedError, match=r"it is damaged \("):
        load_weights(data[:cut], config, CPU)


def test_every_flipped_bit_is_damage():
    config = small_trial()
    data = dump_weights(Training(config, CPU).model, config)
    for at in range(0, len(data), 41):
        spoilt = bytearray(data)
        spoilt[at] ^= 0x04
        with pytest.raises(DamagedError):
            load_weights(bytes(spoilt), config, CPU)


def test_divergence_is_found_before_the_weights_move():
    config = small_trial(learning_rate=1e38, clip_norm=None, warmup=0)
    training = Training(config, CPU)
    with pytest.raises(DivergedError, match=r"step \d+: loss .*Lower train.learning_rate"):
        advance(training, 12)
    assert training.step < 12


def test_clipping_bounds_what_reaches_the_optimiser():
    training = Training(small_trial(clip_norm=1e-3), CPU)
    result = training.advance()
    norm = torch.cat([p.grad.flatten() for p in training.model.parameters()]).norm()
    assert result.gradient_norm > 1e-3
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        ("constant", 0, 0.1),
        ("constant", 9, 1.0),
        ("constant", 10, 1.0),
        ("constant", 99, 1.0),
        ("cosine", 9, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.5),
        ("cosine", 99, 0.00030),
    ],
)
def test_learning_rate(schedule, step, rate):
    train = small_trial(steps=100, warmup=0.1, learning_rate=1.0, schedule=schedule).train
    assert learning_rate_at(step, train) == pytest.approx(rate, abs=1e-5)


def test_dropout_of_a_step_depends_on_nothing_but_the_step():
    config = small_trial("ldru")
    first, second = Training(config, CPU), Training(config, CPU)
    torch.manual_seed(1)
    one = first.advance().loss
    torch.manual_seed(2)
    assert second.advance().loss == one
    # and not every step drops the same features
    assert small_trial("ldru").model.dropout > 0
