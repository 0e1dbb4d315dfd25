"""Strings are pure functions of the trial and the position."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from tests.conftest import small_trial

from ldru_study.spec.trial import CurriculumConfig
from ldru_study.tasks.registry import find_task
from ldru_study.training.batches import (
    TrainingBatches,
    evaluation_block,
    longest_length,
    training_batch,
    validation_batch,
)


def test_a_step_has_one_batch():
    config = small_trial()
    one, other = training_batch(config, 3), training_batch(config, 3)
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.labels, other.labels)
    assert not torch.equal(one.tokens, training_batch(config, 4).tokens)


def test_labels_are_those_of_the_task():
    batch = training_batch(small_trial(), 0)
    automaton = find_task("parity_check").automaton
    labels = automaton.label(batch.tokens.numpy().astype(np.uint8), batch.lengths.numpy())
    assert labels.tolist() == batch.labels.tolist()


def test_lengths_per_batch():
    single = training_batch(small_trial(lengths_per_batch=1), 0)
    assert len(set(single.lengths.tolist())) == 1
    assert single.tokens.shape == (16, int(single.lengths[0]))
    mixed = training_batch(small_trial(batch_size=128, lengths_per_batch=128), 0)
    assert len(set(mixed.lengths.tolist())) > 4
    groups = training_batch(small_trial(lengths_per_batch=4), 0).lengths.view(4, 4)
    assert (groups == groups[:, :1]).all()


def test_models_of_a_seed_see_the_same_strings_and_seeds_see_others():
    lstm, ldru = training_batch(small_trial("lstm"), 5), training_batch(small_trial("ldru"), 5)
    assert torch.equal(lstm.tokens, ldru.tokens)
    other = training_batch(small_trial("lstm", seed=1), 5)
    assert not torch.equal(lstm.tokens, other.tokens)


def test_validation_is_in_distribution_and_apart_from_training():
    config = small_trial(min_length=3)
    batch = validation_batch(config, 500)
    assert set(batch.lengths.tolist()) == set(range(3, 9))
    assert abs(float(batch.labels.double().mean()) - 0.5) < 0.1


def test_evaluation_strings_depend_on_question_and_seed_only():
    config = small_trial()
    one = evaluation_block(config, 50, 0, 0, 32)
    more_steps = evaluation_block(small_trial("ldru", steps=99), 50, 0, 0, 32)
    assert torch.equal(one.tokens, more_steps.tokens)
    for length, eval_seed, block in ((50, 1, 0), (50, 0, 1)):
        other = evaluation_block(config, length, eval_seed, block, 32)
        assert not torch.equal(one.tokens, other.tokens)
    assert not torch.equal(one.tokens, evaluation_block(small_trial(seed=1), 50, 0, 0, 32).tokens)


def longest_lengths(max_length, start_length, share, steps):
    curriculum = {"start_length": start_length, "share": share}
    train = small_trial(max_length=max_length, curriculum=curriculum, steps=steps).train
    return [longest_length(train, step) for step in range(steps)]


def test_a_curriculum_doubles_in_steps_of_equal_duration():
    assert longest_lengths(32, 4, 0.6, 10) == [4, 4, 8, 8, 16, 16, 32, 32, 32, 32]
    # what is no doubling of the start is reached at the end of the share as well
    assert longest_lengths(20, 8, 0.5, 8) == [8, 8, 16, 16, 20, 20, 20, 20]
    assert longest_lengths(20, 20, 0.5, 3) == longest_lengths(20, 4, 0.0, 3) == [20, 20, 20]


def test_a_curriculum_bounds_what_is_drawn_and_no_validation():
    whole = small_trial(max_length=32, batch_size=64, lengths_per_batch=16)
    train = whole.train.model_copy(update={"curriculum": CurriculumConfig(start_length=2)})
    config = whole.model_copy(update={"train": train})
    longest = [int(training_batch(config, step).lengths.max()) for step in range(12)]
    assert longest[0] <= 2 < longest[-1]
    assert all(length <= longest_length(train, step) for step, length in enumerate(longest))
    assert torch.equal(validation_batch(config, 64).tokens, validation_batch(whole, 64).tokens)


def test_a_curriculum_that_begins_below_a_task_draws_its_shortest_length():
    config = small_trial(max_length=32, curriculum={"start_length": 1})
    config = config.model_copy(update={"task": "d_4"})
    assert set(training_batch(config, 0).lengths.tolist()) == {2}


def own_trial(task, sampling="balanced"):
    base = small_trial(max_length=12)
    return type(base).model_validate(base.model_dump() | {"task": task, "sampling": sampling})


@pytest.mark.parametrize(
    ("task", "sampling"),
    [("parity_check", "balanced"), ("d_2", "hard"), ("listops_3_9", "balanced")],
)
def test_batches_drawn_ahead_are_those_of_their_steps(task, sampling):
    config, ahead = own_trial(task, sampling), TrainingBatches(own_trial(task, sampling))
    # on and on, beyond the last step, again, and on from elsewhere
    for step in (*range(14), 2, 3, 4, 11, 40, 0):
        one, alone = ahead.at(step), training_batch(config, step)
        assert torch.equal(one.tokens, alone.tokens)
        assert torch.equal(one.lengths, alone.lengths)
        assert torch.equal(one.labels, alone.labels)
        # whoever changes a batch changes no other
        one.tokens.zero_()


@pytest.mark.parametrize(
    ("task", "sampling", "checksum"),
    [
        ("parity_check", "balanced", 1675995600),
        ("cycle_navigation", "hard", 3358141611),
        ("modular_arithmetic", "paper", 971393746),
        ("d_4", "balanced", 3170293530),
        ("d_4", "hard", 3189506889),
        ("tomita_7", "paper", 1533429994),
        ("group_s5", "balanced", 3033183865),
        ("listops_5_9", "balanced", 197489145),
    ],
)
def test_strings_are_pinned(task, sampling, checksum):
    """Change these only together with RECIPE, or with the identity of the task."""
    config = own_trial(task, sampling)
    batches = [training_batch(config, step) for step in (0, 5)]
    batches.append(evaluation_block(config, 25, 0, 0, 20))
    found = b"".join(
        array.numpy().tobytes()
        for batch in batches
        for array in (batch.tokens, batch.lengths, batch.labels)
    )
    assert zlib.crc32(found) == checksum


@pytest.mark.parametrize(
    ("task", "sampling"),
    [
        ("d_2", "paper"),
        ("d_2", "hard"),
        ("tomita_3", "paper"),
        ("listops_3_9", "balanced"),
        ("modular_arithmetic", "paper"),
        ({"regex": "(0|1)*010(0|1)*"}, "hard"),
    ],
)
def test_every_task_and_sampling_makes_batches(task, sampling):
    config = own_trial(task, sampling)
    language = find_task(config.task).language
    for batch in (
        training_batch(config, 3),
        validation_batch(config, 20),
        evaluation_block(config, 25, 0, 0, 20),
    ):
        labels = language.label(batch.tokens.numpy().astype(np.uint8), batch.lengths.numpy())
        assert labels.tolist() == batch.labels.tolist()
    other = own_trial(task, "balanced" if sampling != "balanced" else "paper")
    assert not torch.equal(training_batch(config, 3).tokens, training_batch(other, 3).tokens)


def test_one_language_has_one_stream_however_it_is_written():
    one, other = own_trial({"regex": "(0|1)*1"}), own_trial({"regex": "0*1(1|00*1)*", "name": "a"})
    assert one.trial_id == other.trial_id
    assert torch.equal(training_batch(one, 3).tokens, training_batch(other, 3).tokens)
