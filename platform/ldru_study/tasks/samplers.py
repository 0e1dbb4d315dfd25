"""The samplers by name: how the strings of a task are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, Protocol, get_args

import numpy as np

from ldru_study.errors import StudyError, unknown_name
from ldru_study.tasks.automaton import Ints, Symbols
from ldru_study.tasks.hard import HardSampler
from ldru_study.tasks.listops import ListOps
from ldru_study.tasks.paper import PaperSampler, WalkSampler
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.sampling import BalancedSampler, Floats
from ldru_study.tasks.trees import TreeSampler

Sampling = Literal["balanced", "hard", "paper"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)


class Sampler(Protocol):
    """Draws strings of wanted lengths with labels; see `BalancedSampler`."""

    def covers(self, length: int) -> bool:
        """Whether ``length`` is usable."""

    def covered_lengths(self, low: int, high: int) -> Ints:
        """Return the usable lengths in low..high, int64, ascending."""

    def nearest_covered(self, length: int) -> int:
        """Return the usable length nearest to ``length``; ValueError if there is none."""

    def chance(self, length: int) -> float:
        """Return the accuracy of the best constant answer at ``length``."""

    def label_shares(self, length: int) -> Floats:
        """Return how probable each label is at ``length``, float64 [C]."""

    def sample(self, lengths: Ints, rng: np.random.Generator) -> tuple[Symbols, Ints]:
        """Draw one string of each length: tokens uint8 [B, T] and labels int64 [B]."""

    def sample_each(
        self, lengths: Sequence[Ints], generators: Sequence[np.random.Generator]
    ) -> list[tuple[Symbols, Ints]]:
        """Return what `sample` returns for each of ``lengths`` with its own generator."""

    def stream(
        self, length: int, num_strings: int, rng: np.random.Generator, size: int
    ) -> tuple[Ints, Iterator[Symbols]]:
        """Draw the same piece by piece: labels int64 [B] and tokens uint8 [B, size]."""


@lru_cache(maxsize=64)
def sampler_of(task: str, sampling: Sampling) -> Sampler:
    """Return the (shared) sampler of a task.

    Args:
        task: its name, see `find_task`.
        sampling: ``balanced``, ``paper`` or ``hard``.

    Raises:
        UnknownNameError: there is no such task.
        StudyError: the task is not sampled so.
    """
    found = find_task(task)
    if sampling not in SAMPLINGS:
        raise StudyError(unknown_name("sampling", sampling, SAMPLINGS))
    if sampling not in (has := samplings_of(task)):
        # the rest of a string that is to turn late is drawn by what leads to each label
        raise StudyError(
            f"{task} has no sampling '{sampling}': its strings are drawn by the states of a task's "
            f"automaton, and nested lists have none. Use {' or '.join(has)}."
        )
    if isinstance(found.language, ListOps):
        return TreeSampler(found.language, is_balanced=sampling == "balanced")
    if sampling == "balanced":
        return BalancedSampler(found.automaton)
    if sampling == "hard":
        return HardSampler(found)
    return WalkSampler(found) if found.paper == "half_walks" else PaperSampler(found)


def samplings_of(task: str) -> tuple[Sampling, ...]:
    """Return the ways in which a task's strings can be drawn."""
    return SAMPLINGS if find_task(task).is_regular else ("balanced", "paper")


def is_chance_exact(task: str, sampling: Sampling, length: int | None = None) -> bool:
    """Whether chance is computed; that of long nested lists is estimated unless balanced.

    Args:
        task: a task's name.
        sampling: how its strings are drawn.
        length: of the strings; None: at every length.
    """
    if find_task(task).is_regular:
        return True
    sampler = sampler_of(task, sampling)
    assert isinstance(sampler, TreeSampler)  # noqa: S101 - our own invariant
    return sampler.is_balanced if length is None else sampler.has_exact_shares(length)
