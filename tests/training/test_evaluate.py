"""Counts are exact, whatever batch fits into memory."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import small_trial

from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrialConfig
from ldru_study.training import batches, evaluate
from ldru_study.training.failures import NoMemoryError
from ldru_study.training.training import Training

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return Training(small_trial(), CPU).model


def of_kind(kind, **more):
    return TrialConfig.model_validate(
        {"task": "parity_check", "model": {"kind": kind, "width": 8, **more}}
    )


def tight_memory(limit, seen):
    """Return `score` on a device that holds at most ``limit`` strings."""
    score = evaluate.score

    def scored(model, batch):
        seen.append(len(batch.labels))
        if len(batch.labels) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return score(model, batch)

    return scored


@pytest.mark.parametrize("limit", [1, 3, 16, 64])
def test_a_smaller_batch_changes_no_count(model, monkeypatch, limit):
    question = Question(20, 50, 0)
    whole = evaluate.evaluate(model, small_trial(), question, CPU)
    seen: list[int] = []
    monkeypatch.setattr(evaluate, "score", tight_memory(limit, seen))
    shrunk = evaluate.evaluate(model, small_trial(), question, CPU)
    assert shrunk.num_correct == whole.num_correct
    assert shrunk.loss == pytest.approx(whole.loss)
    assert sum(size for size in seen if size <= limit) == 50


def test_batches_shrink_with_length(model, monkeypatch):
    monkeypatch.setattr(evaluate, "_BATCH_TOKENS", 100)
    seen: list[int] = []
    monkeypatch.setattr(evaluate, "score", tight_memory(10**6, seen))
    evaluate.evaluate(model, small_trial(), Question(25, 10, 0), CPU)
    assert seen == [4, 4, 2]


def test_one_string_that_does_not_fit_is_an_error(model, monkeypatch):
    monkeypatch.setattr(evaluate, "score", tight_memory(0, []))
    with pytest.raises(NoMemoryError, match=r"one string, in a batch of 20 tokens .*Make the"):
        evaluate.evaluate(model, small_trial(), Question(20, 50, 0), CPU)


def test_other_errors_are_not_taken_for_memory(model, monkeypatch):
    def broken(model, batch):
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(evaluate, "score", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        evaluate.evaluate(model, small_trial(), Question(20, 50, 0), CPU)


def test_long_strings_come_in_blocks_and_all_are_counted(model, monkeypatch):
    monkeypatch.setattr(batches, "_BLOCK_TOKENS", 300)
    seen: list[int] = []
    monkeypatch.setattr(evaluate, "score", tight_memory(10**6, seen))
    answer = evaluate.evaluate(model, small_trial(), Question(100, 8, 0), CPU)
    assert seen == [3, 3, 2]
    assert 0 <= answer.num_correct <= 8


@pytest.mark.parametrize("kind", ["ldru", "lstm", "rnn"])
def test_very_long_strings_are_read_in_pieces_and_counted_the_same(kind, monkeypatch):
    config = of_kind(kind)
    model = Training(config, CPU).model
    question, pieces = Question(5000, 3, 0), []
    # a block of two strings and another one, of which the second is left out
    monkeypatch.setattr(batches, "_BLOCK_TOKENS", 10_000)
    whole = evaluate.evaluate(model, config, question, CPU)
    monkeypatch.setattr(evaluate, "_LONGEST_AT_ONCE", 4999)
    monkeypatch.setattr(evaluate, "_SMALLEST_PIECE", 1024)
    monkeypatch.setattr(evaluate, "_PIECE_TOKENS", 2 * 1024)
    monkeypatch.setattr(evaluate, "score", None)
    read = evaluate.evaluate(model, config, question, CPU, lambda: pieces.append(1))
    assert read.num_correct == whole.num_correct
    assert read.loss == pytest.approx(whole.loss, rel=1e-4)
    assert len(pieces) == 2 * 5


def test_a_model_that_reads_whole_strings_gets_whole_strings(monkeypatch):
    config = of_kind("transformer", heads=2, layers=1)
    monkeypatch.setattr(evaluate, "_LONGEST_AT_ONCE", 10)
    seen: list[int] = []
    monkeypatch.setattr(evaluate, "score", tight_memory(10**6, seen))
    evaluate.evaluate(Training(config, CPU).model, config, Question(20, 4, 0), CPU)
    assert seen == [4]


def test_a_piece_that_does_not_fit_is_an_error(model, monkeypatch):
    class Full:
        def push(self, tokens):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(evaluate, "_LONGEST_AT_ONCE", 10)
    monkeypatch.setattr(evaluate, "begin_stream", lambda model, lengths: Full())
    with pytest.raises(NoMemoryError, match="one string, in a batch of"):
        evaluate.evaluate(model, small_trial(), Question(20, 4, 0), CPU)


def test_the_answer_carries_chance_and_multiple(model):
    answer = evaluate.evaluate(model, small_trial(), Question(20, 10, 0), CPU)
    assert (answer.multiple, answer.chance) == (2.5, 0.5)
    assert answer.loss > 0
    assert answer.seconds >= 0
