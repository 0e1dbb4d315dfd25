"""Count right answers at one test length, in whatever batch fits into memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.samplers import sampler_of
from ldru_study.training.batches import (
    Batch,
    evaluation_block,
    evaluation_block_size,
)
from ldru_study.training.memory import in_parts
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
    model: nn.Module,
    config: TrialConfig,
    question: Question,
    device: torch.device,
    between_batches: Callable[[], None] = lambda: None,
) -> Answer:
    """Answer one question: every one of ``num_total`` strings is counted exactly once.

    The strings depend on the question and the trial's seed only, never on the batch they go
    through the model in. When memory runs out the batch is halved and the strings tried again.
    What ``between_batches`` raises ends the evaluation.

    Raises:
        NoMemoryError: memory runs out even for a single string.
    """
    start = time.monotonic()
    length, num_total = question.length, question.num_total
    block_size = evaluation_block_size(length, num_total)
    batch_size = evaluation_batch_size(length, num_total)
    scores: list[tuple[float, int]] = []

    def scored(part: Batch) -> tuple[float, int]:
        if scores:
            between_batches()
        scores.append(score(model, part.to(device)))
        return scores[-1]

    for block in range(-(-num_total // block_size)):
        strings = evaluation_block(config, length, question.eval_seed, block, block_size)
        wanted = strings.part(0, num_total - block * block_size)
        _, batch_size = in_parts(scored, wanted, batch_size)
    return Answer(
        question,
        multiple=length / config.train.max_length,
        num_correct=sum(correct for _, correct in scores),
        chance=sampler_of(config.task, config.sampling).chance(length),
        loss=sum(loss for loss, _ in scores) / num_total,
        seconds=time.monotonic() - start,
    )


def evaluation_batch_size(length: int, num_strings: int) -> int:
    """Return how many strings of ``length`` go through the model at once, if memory allows."""
    return max(1, min(num_strings, _BATCH_TOKENS // length))
