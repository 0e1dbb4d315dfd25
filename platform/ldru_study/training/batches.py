"""Strings for training, validation and evaluation: pure functions of the trial and the position.

Shapes: B batch, T tokens. All models with the same seed see the same strings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ldru_study.spec.trial import TrainConfig, TrialConfig
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.samplers import Sampling, sampler_of
from ldru_study.tasks.streams import random_stream

# strings of one evaluation length are drawn in blocks of at most this many tokens, so that a
# length of a million fits in memory; the block size is part of what the strings are
_BLOCK_TOKENS = 2**24
# training batches that are drawn at once, and the most tokens that these may have
_MOST_STEPS_AHEAD, _TOKENS_AHEAD = 64, 2**19

# tokens uint8 [B, T], lengths int64 [B] and labels int64 [B]
Strings = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Batch:
    """Strings with their labels.

    ``tokens`` int64 [B, T], zero beyond a string's length; ``lengths`` int64 [B], >= 1;
    ``labels`` int64 [B].
    """

    tokens: Tensor
    lengths: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        return Batch(self.tokens.to(device), self.lengths.to(device), self.labels.to(device))

    def part(self, start: int, end: int) -> Batch:
        """Return the strings from number ``start`` to before number ``end``."""
        return Batch(self.tokens[start:end], self.lengths[start:end], self.labels[start:end])


@lru_cache(maxsize=64)
def _training_lengths(task: str, sampling: Sampling, low: int, high: int) -> npt.NDArray[np.int64]:
    return sampler_of(task, sampling).covered_lengths(low, high)


def _stream(config: TrialConfig, what: str, *position: int) -> np.random.Generator:
    """Return the generator of the strings for ``what``; equal languages share theirs."""
    name = f"{what}/{find_task(config.task).identity}/{config.sampling}"
    return random_stream(config.seed, name, *position)


class TrainingBatches:
    """The batches of a trial's steps, those of the next few steps drawn ahead together.

    A batch is a function of the trial and the step alone, whatever was asked before: ahead is
    faster, and changes nothing.
    """

    def __init__(self, config: TrialConfig) -> None:
        self._config = config
        strings = config.train.batch_size * config.train.max_length
        self.num_ahead = max(1, min(_MOST_STEPS_AHEAD, _TOKENS_AHEAD // strings))
        self._first, self._drawn = 0, list[Strings]()

    def at(self, step: int) -> Batch:
        """Return the batch of optimiser step ``step``, counted from 0; see `training_batch`."""
        if not 0 <= step - self._first < len(self._drawn):
            # twice as many as before while steps go on, so that a few steps cost no more than these
            goes_on = step == self._first + len(self._drawn)
            num_steps = min(self.num_ahead, 2 * len(self._drawn) if goes_on else 1)
            end = min(step + max(1, num_steps), max(self._config.train.steps, step + 1))
            self._first, self._drawn = step, _training_strings(self._config, range(step, end))
        return _batch(*self._drawn[step - self._first])


def training_batch(config: TrialConfig, step: int) -> Batch:
    """Return the batch of optimiser step ``step``, counted from 0.

    ``lengths_per_batch`` lengths are drawn uniformly from the usable training lengths, as far as
    the curriculum has come, and shared out evenly over the ``batch_size`` strings.
    """
    return _batch(*_training_strings(config, [step])[0])


def _training_strings(config: TrialConfig, steps: Sequence[int]) -> list[Strings]:
    generators = [_stream(config, "data", step) for step in steps]
    lengths = [
        _training_lengths_of(config, step, generator)
        for step, generator in zip(steps, generators, strict=True)
    ]
    drawn = sampler_of(config.task, config.sampling).sample_each(lengths, generators)
    return [(tokens, one, labels) for one, (tokens, labels) in zip(lengths, drawn, strict=True)]


def _training_lengths_of(
    config: TrialConfig, step: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw the lengths of the strings of one step, int64 [B]."""
    train = config.train
    usable = _training_lengths(config.task, config.sampling, train.min_length, train.max_length)
    if train.curriculum is not None:
        # one length at least, where the first ones are too short for the task
        usable = usable[: max(1, int((usable <= longest_length(train, step)).sum()))]
    drawn = rng.choice(usable, train.lengths_per_batch)
    return np.repeat(drawn, train.batch_size // train.lengths_per_batch)


def longest_length(train: TrainConfig, step: int) -> int:
    """Return the longest length that optimiser step ``step``, counted from 0, may draw."""
    curriculum = train.curriculum
    if curriculum is None:
        return train.max_length
    num_doublings = math.ceil(math.log2(train.max_length / curriculum.start_length))
    duration = curriculum.share * train.steps
    if step >= duration:
        return train.max_length
    return min(train.max_length, curriculum.start_length << int(step * num_doublings / duration))


def validation_batch(config: TrialConfig, num_strings: int) -> Batch:
    """Return in-distribution strings that training does not draw, lengths uniform."""
    train = config.train
    rng = _stream(config, "validation")
    usable = _training_lengths(config.task, config.sampling, train.min_length, train.max_length)
    return _draw(config, rng.choice(usable, num_strings), rng)


def evaluation_block_size(length: int, num_strings: int) -> int:
    """Return how many strings of ``length`` are drawn at once."""
    return max(1, min(num_strings, _BLOCK_TOKENS // length))


def evaluation_block(
    config: TrialConfig, length: int, eval_seed: int, block: int, size: int
) -> Batch:
    """Return strings number ``block * size`` to ``(block + 1) * size`` of one test length."""
    rng = _stream(config, "evaluation", eval_seed, length, block)
    return _draw(config, np.full(size, length, dtype=np.int64), rng)


def evaluation_stream(
    config: TrialConfig, length: int, eval_seed: int, block: int, size: int, piece: int
) -> tuple[Tensor, Iterator[Tensor]]:
    """Return the labels and the tokens of `evaluation_block`, the latter piece by piece.

    Args:
        config: as in `evaluation_block`, and so on.
        length: T.
        eval_seed: the same.
        block: the same.
        size: the same.
        piece: tokens that come at once.

    Returns:
        labels int64 [B], and tokens int64 [B, piece], the last ones what is left.
    """
    rng = _stream(config, "evaluation", eval_seed, length, block)
    labels, pieces = sampler_of(config.task, config.sampling).stream(length, size, rng, piece)
    tokens = (torch.from_numpy(part.astype(np.int64)) for part in pieces)
    return torch.from_numpy(labels), tokens


def _draw(config: TrialConfig, lengths: npt.NDArray[np.int64], rng: np.random.Generator) -> Batch:
    tokens, labels = sampler_of(config.task, config.sampling).sample(lengths, rng)
    return _batch(tokens, lengths, labels)


def _batch(
    tokens: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> Batch:
    # copies: what is drawn may be asked for again
    return Batch(
        torch.from_numpy(tokens.astype(np.int64)),
        torch.from_numpy(lengths.astype(np.int64)),
        torch.from_numpy(labels.astype(np.int64)),
    )
