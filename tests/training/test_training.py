"""Training: pure functions of the step, bits that survive an interruption, and honest failures."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from tests.conftest import MODELS, small_trial
from torch import nn
from torch.nn import functional as F

from ldru_study.tasks.streams import random_stream
from ldru_study.training.batches import training_batch
from ldru_study.training.failures import DamagedError, DivergedError, NoMemoryError
from ldru_study.training.optimiser import (
    build_optimizer,
    centralise_gradients,
    learning_rate_at,
    set_learning_rate,
)
from ldru_study.training.training import Training, load_weights, new_model

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
    wanted, found = (t.engine.optimizer_state() for t in (whole, resumed))
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
        return advance(Training(small_trial(seed=seed), CPU), 3).model.state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_weights_come_back_without_pickle():
    config = small_trial("ldru")
    training = advance(Training(config, CPU), 2)
    model, data = training.model, training.weights()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert (
        json.loads(header["__metadata__"]["ldru_study"])["about"]["config"]["task"]
        == "parity_check"
    )
    loaded = load_weights(data, config, CPU)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_weights_of_another_trial_are_refused():
    data = Training(small_trial(), CPU).weights()
    other = small_trial(seed=1)
    message = f"it is of trial {small_trial().trial_id}, wanted {other.trial_id}"
    with pytest.raises(DamagedError, match=message):
        load_weights(data, other, CPU)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_damaged_weights_are_named(cut):
    config = small_trial()
    data = Training(config, CPU).weights()
    with pytest.raises(DamagedError, match=r"it is damaged \("):
        load_weights(data[:cut], config, CPU)


def test_every_flipped_bit_is_damage():
    config = small_trial()
    data = Training(config, CPU).weights()
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


def test_the_brackets_of_a_step_depend_on_nothing_but_the_step():
    config = without_dropout("random_brackets")
    drawn = []
    for elsewhere in (1, 2):
        training, offsets = Training(config, CPU), []
        for _ in range(4):
            torch.manual_seed(elsewhere)
            training.advance()
            offsets.append(training.model._offsets)
        drawn.append(offsets)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4


def tight_memory(training, limit, seen):
    """Let the model in ``training`` hold at most ``limit`` strings."""
    forward = training.model.forward

    def held(tokens, lengths):
        seen.append(len(lengths))
        if len(lengths) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(tokens, lengths)

    training.model.forward = held


@pytest.mark.parametrize("model", sorted(MODELS))
def test_one_micro_batch_is_the_plain_step_to_the_bit(model):
    config = small_trial(model)
    training = advance(Training(config, CPU), 3)
    plain = new_model(config)
    optimizer = build_optimizer(plain.parameters(), config.train)
    for step in range(3):
        batch = training_batch(config, step)
        set_learning_rate(optimizer, learning_rate_at(step, config.train))
        torch.manual_seed(int(random_stream(config.seed, "dropout", step).integers(2**63)))
        plain.train()
        optimizer.zero_grad()
        F.cross_entropy(plain(batch.tokens, batch.lengths), batch.labels).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), config.train.clip_norm)
        optimizer.step()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, training.model.state_dict()[name]), name


def test_centralised_gradients_have_rows_of_mean_zero():
    """By hand: rows 1 5 and 2 4 become -2 2 and -1 1; a vector stays; blocks lose one mean each."""
    matrix, vector, blocks = (nn.Parameter(torch.zeros(size)) for size in ((2, 2), (2,), (2, 1, 2)))
    centralise_gradients([matrix, vector, blocks])
    given = torch.tensor([[1.0, 5.0], [2.0, 4.0]])
    for _ in range(2):
        # a second part of the batch adds up
        (matrix * given).sum().backward()
    (vector * given[0]).sum().backward()
    (blocks * given[:, None]).sum().backward()
    assert matrix.grad.tolist() == [[-4, 4], [-2, 2]]
    assert vector.grad.tolist() == [1, 5]
    assert blocks.grad.tolist() == [[[-2, 2]], [[-1, 1]]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_centralised_before_they_are_clipped(precision):
    settings = {"engine": {"precision": precision}, "clip_norm": 1e-3}
    raw, centred = (
        Training(without_dropout(gradient_centralisation=flag, **settings), CPU)
        for flag in (False, True)
    )
    assert centred.advance().gradient_norm < raw.advance().gradient_norm
    matrices = [p for p in centred.engine.masters if p.ndim > 1]
    assert matrices
    for parameter in matrices:
        sums = parameter.grad.flatten(1).mean(1)
        # 8 bits of each entry remain in bf16
        limit = (1e-6 if precision == "fp32" else 2e-2) * float(parameter.grad.abs().max())
        assert float(sums.abs().max()) <= limit
    norm = torch.stack([p.grad.norm() for p in centred.engine.masters]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)


def without_dropout(model="transformer", **train):
    # its masks are drawn part by part, and so are others in other parts
    more = {"random_brackets": True} if model == "random_brackets" else {}
    config = small_trial("ldru" if more else model, **train)
    changes = {"dropout": 0.0, **more}
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("model", "size"), [*(("transformer", size) for size in (1, 5, 8, 15)), ("random_brackets", 5)]
)
def test_micro_batches_give_the_gradient_of_the_whole_batch(model, size):
    config = without_dropout(model, clip_norm=1e-2)
    whole, parts = Training(config, CPU), Training(config, CPU, micro_batch_size=size)
    wanted, found = whole.advance(), parts.advance()
    # clipped once, by the norm of the whole
    assert found.gradient_norm == pytest.approx(wanted.gradient_norm, rel=1e-5)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-6)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_the_micro_batch_is_halved_until_it_fits_and_stays():
    config = without_dropout()
    training, seen = Training(config, CPU), []
    tight_memory(training, 3, seen)
    first, second = training.advance(), training.advance()
    assert seen == [16, 8, 4, 2] + 15 * [2]
    assert (training.step, training.micro_batch_size) == (2, 2)
    roomy = Training(config, CPU)
    assert first.loss == pytest.approx(roomy.advance().loss, rel=1e-6)
    assert second.loss == pytest.approx(roomy.advance().loss, rel=1e-4)
    # validation too holds no more
    seen.clear()
    training.measure(second, 5)
    assert seen == [2, 2, 1]


@pytest.mark.parametrize("model", ["ldru", "transformer"])
def test_a_retried_step_has_the_bits_of_one_that_was_ordered_so(model):
    config = small_trial(model)
    retried, seen = Training(config, CPU), []
    tight_memory(retried, 4, seen)
    retried.advance()
    ordered = Training(config, CPU, micro_batch_size=4)
    ordered.advance()
    assert seen[:3] == [16, 8, 4]
    for name, value in ordered.model.state_dict().items():
        assert torch.equal(value, retried.model.state_dict()[name]), name


def test_memory_that_runs_out_in_the_backward_pass_leaves_nothing_behind():
    config = without_dropout()
    training = Training(config, CPU, micro_batch_size=8)
    calls = []

    def fails_once(gradient):
        calls.append(len(gradient))
        if len(calls) == 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    forward = training.model.forward

    def hooked(tokens, lengths):
        logits = forward(tokens, lengths)
        logits.register_hook(fails_once)
        return logits

    training.model.forward = hooked
    result = training.advance()
    # the second part failed when the first was added up already
    assert calls == [8, 8, 4, 4, 4, 4]
    assert result.gradient_norm == pytest.approx(Training(config, CPU).advance().gradient_norm)


def test_memory_that_holds_no_string_says_what_to_do_and_moves_nothing():
    training = Training(small_trial(), CPU)
    before = training.state()
    tight_memory(training, 0, [])
    with pytest.raises(NoMemoryError, match=r"memory ran out for one string, .*Make the strings"):
        training.advance()
    training.micro_batch_size = None
    assert training.state() == before


def test_an_error_that_is_not_of_memory_is_not_retried():
    training, calls = Training(small_trial(), CPU), []

    def broken(tokens, lengths):
        calls.append(len(lengths))
        raise RuntimeError("size mismatch")

    training.model.forward = broken
    with pytest.raises(RuntimeError, match="size mismatch"):
        training.advance()
    assert calls == [16]


@pytest.mark.parametrize(
    ("ordered", "saved", "wanted"), [(None, 4, 4), (2, 4, 2), (4, 2, 2), (4, None, 4)]
)
def test_a_resumed_training_keeps_the_smaller_micro_batch(ordered, saved, wanted):
    config = small_trial()
    state = advance(Training(config, CPU, micro_batch_size=saved), 2).state()
    resumed = Training(config, CPU, micro_batch_size=ordered)
    resumed.restore(state)
    assert resumed.micro_batch_size == wanted
    assert resumed.last is not None


def test_levels_of_a_tree_have_norms_and_other_models_none():
    for model in ("ldru", "lstm"):
        training = advance(Training(small_trial(model, min_length=8), CPU), 2)
        row = training.history[-1]
        if model == "lstm":
            assert row.level_state_norms is row.level_gradient_norms is None
            continue
        # eight leaves are merged in three levels
        assert len(row.level_state_norms) == len(row.level_gradient_norms) == 4
        assert all(norm > 0 for norm in row.level_state_norms)
        again = Training(training.config, CPU)
        again.restore(training.state())
        assert again.history == training.history


def test_the_penalty_makes_an_operator_more_associative():
    settings = {"steps": 60, "learning_rate": 3e-3, "batch_size": 32, "max_length": 16}
    defects = []
    for penalty in (0.0, 10.0):
        training = Training(small_trial("ldru", associativity_penalty=penalty, **settings), CPU)
        losses = [training.advance().loss for _ in range(60)]
        training.measure(training.last, 32)
        defects.append(training.history[-1].associativity_defect)
        # what is reported is the cross-entropy alone
        assert max(losses) < 3
    assert defects[1] < 0.5 * defects[0]


def test_micro_batches_add_up_in_fp32_whatever_the_model_computes_in():
    engine = {"precision": "bf16", "gradient_accumulation": 4}
    training = Training(small_trial("lstm", engine=engine), CPU)
    assert training.micro_batch_size == 4
    training.advance()
    assert {p.dtype for p in training.model.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in training.engine.weights().values()} == {torch.float32}
    # weights come back in the precision that they were trained in
    loaded = load_weights(training.weights(), training.config, CPU)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
