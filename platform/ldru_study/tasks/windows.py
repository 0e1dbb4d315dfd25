"""What a short window gives away: the accuracy of whoever reads only the first or last tokens.

A curve that stays at its window's accuracy says nothing about long strings.
Shapes: T tokens, C classes, S states, w tokens of the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldru_study.tasks.algebra import minimal, unfold
from ldru_study.tasks.automaton import Automaton, Ints, Symbols
from ldru_study.tasks.counts import LogCounts
from ldru_study.tasks.paper import PaperSampler, WalkSampler
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.samplers import Sampler, Sampling, sampler_of
from ldru_study.tasks.sampling import BalancedSampler, Floats
from ldru_study.tasks.streams import random_stream

# what the last tokens can mean is at most so many maps of states to classes, or is not computed
_MOST_MEANINGS = 4096
# strings that estimate a window where it is not computed, at least and at most, and their tokens
_FEWEST, _MOST, _MOST_TOKENS = 1024, 8192, 2**22


@dataclass(frozen=True)
class Window:
    """The best accuracy from a window of ``window`` tokens at ``length``.

    Args:
        length: tokens of the whole string.
        window: tokens that are read.
        first: from the first tokens; None: not known.
        last: from the last tokens; None: not known.
        is_exact: whether these were computed, rather than counted on drawn strings. Where strings
            with equal labels are not equally likely, as in walks and in hard sampling, both are
            of the best rule on what the automaton knows from the window.
    """

    length: int
    window: int
    first: float | None
    last: float | None
    is_exact: bool


def window_shortcuts(
    task: str, sampling: Sampling, lengths: Sequence[int], window: int
) -> tuple[Window, ...]:
    """Return the best window accuracies at ``lengths``, each of which has strings.

    Args:
        task: its name, see `find_task`; for tasks that are not regular nothing is known.
        sampling: how its strings are drawn.
        lengths: tokens of whole strings.
        window: tokens that are read, >= 1.
    """
    found, sampler = find_task(task), sampler_of(task, sampling)
    if not found.is_regular:
        return tuple(_whole(length, window) or _unknown(length, window) for length in lengths)
    if type(sampler) in (BalancedSampler, PaperSampler):
        return _exact(minimal(found.automaton), sampler, lengths, window)
    if isinstance(sampler, WalkSampler):
        return tuple(
            _whole(length, window) or _of_walks(sampler, length, window) for length in lengths
        )
    return tuple(_estimated(task, sampling, sampler, length, window) for length in lengths)


def _exact(
    automaton: Automaton, sampler: Sampler, lengths: Sequence[int], window: int
) -> tuple[Window, ...]:
    """Compute the accuracies where strings with equal labels are equally likely.

    Then a string's probability is its label's share by the number of strings with that label, and
    all that the first tokens tell is the state they lead to, and all that the last ones tell is
    the map from states to classes that they are.
    """
    counts = LogCounts(automaton)
    rests = [length - window for length in lengths if length > window]
    into = counts.by_state([window, *rests])
    out_of = counts.to_classes(rests)
    meanings = _meanings(automaton)
    weights = None if meanings is None else LogCounts(meanings[0]).by_state([window])[window]
    found = []
    for length in lengths:
        if whole := _whole(length, window):
            found.append(whole)
            continue
        rest = length - window
        # the logarithm of the probability of one string, by its class
        shares, each = sampler.label_shares(length), np.full(automaton.num_classes, -np.inf)
        exists = shares > 0
        each[exists] = np.log(shares[exists]) - counts.by_class(length)[exists]
        first = _sum(into[window] + (out_of[rest] + each).max(axis=1))
        last = None
        if meanings is not None and weights is not None:
            # [M, C]: all ways to the states that a meaning maps to a class
            ways = np.stack([_by_class(into[rest], row, automaton) for row in meanings[1]])
            last = _sum(weights + (ways + each).max(axis=1))
        found.append(Window(length, window, first, last, is_exact=True))
    return tuple(found)


def _whole(length: int, window: int) -> Window | None:
    """Return what is known of a string that the window covers: everything."""
    return Window(length, window, 1.0, 1.0, is_exact=True) if length <= window else None


def _unknown(length: int, window: int) -> Window:
    return Window(length, window, None, None, is_exact=False)


def _meanings(automaton: Automaton) -> tuple[Automaton, Ints] | None:
    """Return the automaton that reads strings backward, and the maps that its states are, [M, S].

    A string maps each state to the class that it leads to from there.
    """
    read = unfold(
        automaton.outputs,
        lambda meaning, symbol: meaning[automaton.transitions[:, symbol]],
        automaton.num_symbols,
        _MOST_MEANINGS,
    )
    if read is None:
        return None
    transitions, meanings = read
    return Automaton(transitions, np.zeros(len(meanings), dtype=np.int64), 1), meanings


def _by_class(ways: Floats, meaning: Ints, automaton: Automaton) -> Floats:
    found = np.full(automaton.num_classes, -np.inf)
    for label in np.unique(meaning[meaning >= 0]):
        found[label] = np.logaddexp.reduce(ways[meaning == label])
    return found


def _sum(logs: Floats) -> float:
    # rounding may lead a hair above certainty
    return min(1.0, float(np.exp(np.logaddexp.reduce(logs))))


def _of_walks(sampler: WalkSampler, length: int, window: int) -> Window:
    """Follow the walks of each label: their states, then which map their last tokens are."""
    automaton, rest = sampler.automaton, length - window
    maps = unfold(
        np.arange(automaton.num_states),
        lambda leads, symbol: automaton.transitions[leads, symbol],
        automaton.num_symbols,
        _MOST_MEANINGS,
    )
    firsts, lasts = [], []
    for label, share in enumerate(sampler.label_shares(length)):
        steps = [sampler.reach.shares(label, length - 1 - place) for place in range(length)]
        states = [np.zeros(automaton.num_states)]
        states[0][0] = share
        for step in steps[: max(window, rest)]:
            after = np.zeros(automaton.num_states)
            np.add.at(after, automaton.transitions, states[-1][:, None] * step)
            states.append(after)
        firsts.append(states[window])
        if maps is not None:
            lasts.append(_maps_of_walks(states[rest], steps[rest:], *maps))
    last = None
    if maps is not None:
        kinds = np.unique(automaton.outputs[maps[1]], axis=0, return_inverse=True)[1].reshape(-1)
        # a row of each meaning's maps
        together = (kinds == np.arange(kinds.max() + 1)[:, None]).astype(np.float64)
        last = _best([together @ one for one in lasts])
    return Window(length, window, _best(firsts), last, is_exact=True)


def _maps_of_walks(states: Floats, steps: Sequence[Floats], longer: Ints, maps: Ints) -> Floats:
    """Return how probable it is that the symbols drawn in ``steps`` are each map, [M].

    Args:
        states: how probable each state is before them, [S].
        steps: how probable each symbol is in each state, [S, V] each.
        longer: number of the map that a map and a symbol are, [M, V].
        maps: where each leads, [M, S]; number 0 is the empty string's.
    """
    joint = np.zeros_like(maps, dtype=np.float64)
    joint[0] = states
    for step in steps:
        after = np.zeros_like(joint)
        for symbol in range(longer.shape[1]):
            np.add.at(after, longer[:, symbol], joint * step[maps, symbol])
        joint = after
    found: Floats = joint.sum(axis=1)
    return found


def _best(joint: Sequence[Floats]) -> float:
    """Return the accuracy of the best rule, given how probable what it knows is with each class."""
    return float(np.max(joint, axis=0).sum())


def _estimated(task: str, sampling: Sampling, sampler: Sampler, length: int, window: int) -> Window:
    """Draw strings, learn the best rule on one half of them and count on the other, both ways."""
    if whole := _whole(length, window):
        return whole
    automaton = minimal(find_task(task).automaton)
    num_strings = max(_FEWEST, min(_MOST, _MOST_TOKENS // length))
    rng = random_stream(0, f"windows/{find_task(task).identity}/{sampling}", length, window)
    tokens, labels = sampler.sample(np.full(num_strings, length), rng)
    return Window(
        length,
        window,
        _score(_states_after(automaton, tokens[:, :window])[:, None], labels),
        _score(_maps_of(automaton, tokens[:, -window:]), labels),
        is_exact=False,
    )


def _states_after(automaton: Automaton, tokens: Symbols) -> Ints:
    state = np.zeros(len(tokens), dtype=np.int64)
    for symbol in tokens.T:
        state = automaton.transitions[state, symbol]
    return state


def _maps_of(automaton: Automaton, tokens: Symbols) -> Ints:
    meanings = np.tile(automaton.outputs, (len(tokens), 1))
    for symbol in tokens.T[::-1]:
        meanings = np.take_along_axis(meanings, automaton.transitions.T[symbol], axis=1)
    return meanings


def _score(known: Ints, labels: Ints) -> float:
    """Return the accuracy of the best rule from what is known, [B, ...], to labels, [B]."""
    kinds = np.unique(known, axis=0, return_inverse=True)[1].reshape(-1)
    half = len(labels) // 2
    return float(
        np.mean(
            [
                _count_right(kinds[:half], labels[:half], kinds[half:], labels[half:]),
                _count_right(kinds[half:], labels[half:], kinds[:half], labels[:half]),
            ]
        )
    )


def _count_right(kinds: Ints, labels: Ints, new_kinds: Ints, new_labels: Ints) -> float:
    table = np.zeros((max(kinds.max(), new_kinds.max()) + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(table, (kinds, labels), 1)
    # what was never seen is answered as most are
    rule = np.where(table.any(axis=1), table.argmax(axis=1), table.sum(axis=0).argmax())
    return float((rule[new_kinds] == new_labels).mean())
