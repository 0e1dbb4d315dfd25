"""Count right answers at one test length, in whatever batch fits into memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrialConfig
from ldru_study.training.batches import (
    Batch,
    evaluation_block,
    evaluation_block_size,
    sampler_of,
)
from ldru_study.training.failures import is_out_of_memory
from ldru_study.training.training import score

# tokens that go through the model at once: large enough to keep the cores busy, small enough
# for the activations of one batch to stay in cache
_BATCH_TOKENS = 2**15


@dataclass(frozen=True)
class Answer:
    """Exact counts for one question; ``loss`` is the mean cross-entropy in nats."""

    question: Question
    multiple: float
    num_correct: int
    chance: float
    loss: float
    seconds: float


def evaluate(
    model: nn.Module, config: TrialConfig, question: Question, device: torch.device
) -> Answer:
    """Answer one question: every one of ``num_total`` strings is counted exactly once.

    The strings depend on the question and the trial's seed only, never on the batch they go
    through the model in. When memory runs out the batch is halved and the strings tried again.

    Raises:
        RuntimeError: memory runs out even for a single string.
    """
    start = time.monotonic()
    length, num_total = question.length, question.num_total
    block_size = evaluation_block_size(length, num_total)
    batch_size = max(1, min(num_total, _BATCH_TOKENS // length))
    loss_sum, num_correct = 0.0, 0
    for block in range(-(-num_total // block_size)):
        strings = evaluation_block(config, length, question.eval_seed, block, block_size)
        at, end = 0, min(block_size, num_total - block * block_size)
        while at < end:
            part = _part(strings, at, min(end, at + batch_size)).to(device)
            try:
                loss, correct = score(model, part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or batch_size == 1:
                    raise
                batch_size //= 2
                continue
            loss_sum, num_correct, at = (
                loss_sum + loss,
                num_correct + correct,
                at + len(part.labels),
            )
    return Answer(
        question,
        multiple=length / config.train.max_length,
        num_correct=num_correct,
        chance=sampler_of(config.task).chance(length),
        loss=loss_sum / num_total,
        seconds=time.monotonic() - start,
    )


def _part(strings: Batch, start: int, end: int) -> Batch:
    return Batch(strings.tokens[start:end], strings.lengths[start:end], strings.labels[start:end])
