"""Count right answers at one test length, in whatever batch fits into memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ldru_study.models.registry import begin_stream, can_stream
from ldru_study.spec.plan import Question
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.samplers import sampler_of
from ldru_study.training.batches import (
    Batch,
    evaluation_block,
    evaluation_block_size,
    evaluation_stream,
)
from ldru_study.training.memory import halved, in_parts
from ldru_study.training.training import score

# tokens that go through the model at once: large enough to keep the cores busy, small enough
# for the activations of one batch to stay in cache
_BATCH_TOKENS = 2**15
# strings longer than this come and go in pieces of so many tokens altogether, and so many of each
# string at least, because a walk costs as much for one string as for a few
_LONGEST_AT_ONCE, _PIECE_TOKENS, _SMALLEST_PIECE = 2**17, 2**17, 2**14


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
    Very long strings are drawn and read piece by piece where the model can.
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

    reads_pieces = length > _LONGEST_AT_ONCE and can_stream(model)
    for block in range(-(-num_total // block_size)):
        wanted = min(block_size, num_total - block * block_size)
        if reads_pieces:
            drawn = _Drawn(config, question, block, block_size, wanted)
            scores.append(_score_in_pieces(model, drawn, device, between_batches))
            continue
        strings = evaluation_block(config, length, question.eval_seed, block, block_size)
        _, batch_size = in_parts(scored, strings.part(0, wanted), batch_size)
    return Answer(
        question,
        multiple=length / config.train.max_length,
        num_correct=sum(correct for _, correct in scores),
        chance=sampler_of(config.task, config.sampling).chance(length),
        loss=sum(loss for loss, _ in scores) / num_total,
        seconds=time.monotonic() - start,
    )


class _Drawn(NamedTuple):
    """The first ``wanted`` strings of a block of ``size``."""

    config: TrialConfig
    question: Question
    block: int
    size: int
    wanted: int


@torch.inference_mode()
def _score_in_pieces(
    model: nn.Module,
    drawn: _Drawn,
    device: torch.device,
    between_pieces: Callable[[], None],
) -> tuple[float, int]:
    """Do as `score` does, with strings that are never there as a whole.

    Raises:
        NoMemoryError: memory runs out.
    """
    length, wanted = drawn.question.length, drawn.wanted
    # a power of two, as models want it
    piece = max(_SMALLEST_PIECE, 1 << (_PIECE_TOKENS // drawn.size).bit_length() - 1)
    labels, pieces = evaluation_stream(
        drawn.config, length, drawn.question.eval_seed, drawn.block, drawn.size, piece
    )
    labels = labels[:wanted].to(device)
    model.eval()
    stream = begin_stream(model, torch.full((wanted,), length, device=device))
    try:
        for tokens in pieces:
            stream.push(tokens[:wanted].to(device))
            between_pieces()
        logits = stream.logits()
    except (RuntimeError, MemoryError) as error:
        one = torch.ones(1, dtype=torch.int64)
        halved(1, error, Batch(one.new_zeros(1, piece), one * piece, one))
        raise
    loss = F.cross_entropy(logits.double(), labels, reduction="sum")
    return float(loss), int((logits.argmax(1) == labels).sum())


def evaluation_batch_size(length: int, num_strings: int) -> int:
    """Return how many strings of ``length`` go through the model at once, if memory allows."""
    return max(1, min(num_strings, _BATCH_TOKENS // length))
