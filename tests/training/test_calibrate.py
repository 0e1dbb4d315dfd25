"""Costs: each part is measured, and put together by arithmetic that can be checked."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import small_trial

from ldru_study.spec.plan import Question
from ldru_study.training import calibrate as calibrating
from ldru_study.training import evaluate
from ldru_study.training.calibrate import (
    CalibrationError,
    Cost,
    calibrate,
    measure_cost,
    one_worker,
    zero_spares_mib,
)

CPU = torch.device("cpu")


def cost(*string_s):
    return Cost(((8, 0.5),), 3.0, string_s, 10.0, 100.0)


def test_a_training_is_its_steps_and_its_validations():
    # validated at 1, 2, 5, 10, 20 and 25
    assert cost((8, 1.0)).training_s(small_trial(steps=25).train) == 25 * 0.5 + 6 * 3.0


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("length", [4, 10, 25, 40, 80, 1000])
def test_a_power_law_is_found_between_and_beyond_the_lengths_measured(power, length):
    found = cost(*((at, 1e-3 * at**power) for at in (10, 40, 80)))
    asked = [Question(length, 20, 0)]
    assert found.evaluation_s(asked) == pytest.approx(20 * 1e-3 * length**power)


def test_a_law_that_bends_is_followed_piece_by_piece():
    found = cost((10, 1.0), (20, 1.0), (40, 4.0))
    for length, seconds in ((5, 1.0), (15, 1.0), (20, 1.0), (40, 4.0), (80, 16.0)):
        assert found.evaluation_s([Question(length, 1, 0)]) == pytest.approx(seconds)


def test_noise_makes_no_long_string_cheaper_than_a_short_one():
    assert cost((10, 2.0), (20, 1.0)).evaluation_s([Question(40, 1, 0)]) == 1.0


def test_one_length_needs_no_law():
    assert cost((8, 0.25)).evaluation_s([Question(8, 4, 0)]) == 1.0


def costly(monkeypatch, seconds_of):
    """Let the evaluation of one string of a length take ``seconds_of(length)``.

    Returns:
        The length and the number of strings of every evaluation from now on.
    """
    seen = []

    def answered(model, config, question, device):
        seen.append((question.length, question.num_total))

    def timed(call, device):
        call()
        return seconds_of(seen[-1][0]) * seen[-1][1] if seen else 1.0

    monkeypatch.setattr(calibrating, "evaluate", answered)
    monkeypatch.setattr(calibrating, "_timed", timed)
    return seen


@pytest.mark.parametrize(("unit", "power"), [(1e-5, 1), (1e-6, 2)])
def test_lengths_are_measured_until_they_take_too_long(monkeypatch, unit, power):
    monkeypatch.setattr(evaluate, "_BATCH_TOKENS", 1024)
    seen = costly(monkeypatch, lambda length: unit * length**power)
    questions = [Question(length, 512, 0) for length in (4, 8, 16, 100_000)]
    found = measure_cost(small_trial(), questions, CPU, 32)
    lengths = [length for length, _ in found.string_s]
    assert lengths[:4] == [4, 8, 16, 32]
    assert lengths[-1] < 100_000
    # the first is done twice: once to load what is loaded once
    assert [length for length, _ in seen] == [4, *lengths]
    assert sum(unit * length**power * number for length, number in seen[1:]) < 2.0
    wanted = sum(512 * unit * q.length**power for q in questions)
    assert found.evaluation_s(questions) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [((8,), [8]), ((4,), [4]), ((2, 5), [2, 5]), ((16,), [8, 16]), ((8, 50), [8, 16, 32, 50])],
)
def test_two_lengths_are_measured_where_one_does_not_tell(monkeypatch, asked, wanted):
    costly(monkeypatch, lambda length: 1e-9 * length)
    questions = [Question(length, 16, 0) for length in asked]
    found = measure_cost(small_trial(), questions, CPU, 32)
    assert [length for length, _ in found.string_s] == wanted


def test_a_trial_is_measured_in_a_process_of_its_own():
    found = calibrate(
        small_trial("ldru"), [Question(8, 64, 0), Question(40, 64, 0)], CPU, validation_strings=32
    )
    assert [length for length, _ in found.steps_s] == [8]
    assert found.steps_s[0][1] > 0
    assert found.validation_s > 0
    assert [length for length, _ in found.string_s] == [8, 16, 32, 40]
    assert found.evaluation_s([Question(80, 64, 0)]) > 0
    # torch alone is more than this, and the little model less
    assert found.process_mib > 50
    assert 0 <= found.memory_mib < 500


def test_what_cannot_be_measured_says_why():
    trial = small_trial(learning_rate=1e38, clip_norm=None, warmup=0, steps=100)
    with pytest.raises(CalibrationError, match=r"a few steps of it fail here: .*DivergedError.*st"):
        calibrate(trial, [Question(8, 64, 0)], CPU)


def test_a_curriculum_makes_early_steps_cheap():
    train = small_trial(max_length=32, steps=10, curriculum={"start_length": 8, "share": 0.8}).train
    found = Cost(((8, 1.0), (16, 2.0), (32, 4.0)), 0.0, ((8, 1.0),), 10.0, 100.0)
    # four steps of 8, four of 16, two of 32
    assert found.training_s(train) == pytest.approx(4 * 1.0 + 4 * 2.0 + 2 * 4.0)


def test_one_worker_has_its_share():
    config = small_trial("ldru", max_length=64, batch_size=24, sequence_parallel=4, data_parallel=3)
    share = one_worker(config).train
    assert (share.workers, share.batch_size, share.max_length) == (1, 8, 16)
    assert share.batch_size % share.lengths_per_batch == 0


@pytest.mark.parametrize(
    ("engine", "bytes_each"),
    [
        ({"kind": "plain"}, 0),
        ({"kind": "deepspeed", "zero_stage": 0}, 0),
        ({"kind": "deepspeed", "zero_stage": 1}, 12),
        ({"kind": "deepspeed", "zero_stage": 3}, 20),
        ({"kind": "deepspeed", "zero_stage": 2, "precision": "bf16"}, 14),
    ],
)
def test_what_zero_spares(engine, bytes_each):
    train = small_trial(engine=engine, data_parallel=4).train
    assert zero_spares_mib(train, 2**20) == pytest.approx(0.75 * bytes_each)


def test_long_strings_are_measured_by_shorter_ones(monkeypatch):
    monkeypatch.setattr(calibrating, "_LONG_TOKENS", 8)
    monkeypatch.setattr(calibrating, "_BUDGET_S", 0.05)
    config = small_trial("ldru", max_length=64, sequence_parallel=2, batch_size=8)
    found = measure_cost(config, [Question(8, 16, 0)], CPU, 16)
    # of each string a worker has half
    lengths = [length for length, _ in found.steps_s]
    assert lengths == [16, 32, 64][: len(lengths)]
    assert len(lengths) >= 2


def test_memory_grows_beyond_what_was_measured_as_it_did_before():
    assert calibrating._extended([(8, 100.0)], 64) == 100.0
    assert calibrating._extended([(8, 100.0), (16, 110.0)], 64) == 110.0 + 48 * 10 / 8
    assert calibrating._extended([(8, 100.0), (16, 90.0)], 64) == 90.0
