"""What an automaton is, whatever states it was written with: smallest form, monoid, groups.

Shapes: V vocabulary, S states, M elements of a monoid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ldru_study.tasks.automaton import Automaton, Ints

# larger monoids are only known to be larger
LARGEST_MONOID = 20_000


def minimal(automaton: Automaton) -> Automaton:
    """Return the smallest automaton with the same labels, its states numbered as first reached.

    Equal for automata that give every string the same label, however they were written.

    Source: Moore 1956: states are split until those together agree after every symbol.
    """
    reached = _reached(automaton)
    position = np.zeros(automaton.num_states, dtype=np.int64)
    position[reached] = np.arange(len(reached))
    transitions = position[automaton.transitions[reached]]
    block = np.unique(automaton.outputs[reached], return_inverse=True)[1]
    while True:
        signature = np.column_stack([block, block[transitions]])
        split = np.unique(signature, axis=0, return_inverse=True)[1].reshape(-1)
        if split.max() == block.max():
            break
        block = split
    first = np.unique(block, return_index=True)[1]
    outputs = automaton.outputs[reached]
    return Automaton.explore(
        int(block[0]),
        lambda state, symbol: int(block[transitions[first[state], symbol]]),
        lambda state: int(outputs[first[state]]),
        num_symbols=automaton.num_symbols,
        num_classes=automaton.num_classes,
    )


def _reached(automaton: Automaton) -> Ints:
    reached = np.zeros(automaton.num_states, dtype=bool)
    reached[0] = True
    while True:
        wider = reached.copy()
        wider[automaton.transitions[reached]] = True
        if (wider == reached).all():
            return np.flatnonzero(reached)
        reached = wider


def shortest_strings(automaton: Automaton) -> dict[int, tuple[int, ...]]:
    """Return, for every class that exists, its first string in order of length and symbols."""
    found: dict[int, tuple[int, ...]] = {}
    seen = {0}
    waiting: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for state, string in waiting:
        found.setdefault(int(automaton.outputs[state]), string)
        for symbol, after in enumerate(automaton.transitions[state].tolist()):
            if after not in seen:
                seen.add(after)
                waiting.append((after, (*string, symbol)))
    return found


@dataclass(frozen=True)
class Algebra:
    """What the transition monoid of a minimal automaton says about a task.

    Args:
        num_states: of the minimal automaton.
        monoid_size: different maps of states to states that strings cause, the empty one
            included; None: more than ``monoid_limit``.
        monoid_limit: at most this many were looked for.
        is_star_free: whether the monoid holds no group but trivial ones; then counters need not
            be modular (Schützenberger 1965). None: unknown.
        is_solvable: whether every group in the monoid is solvable; then, and only then unless
            TC0 = NC1, the task is in TC0 (Barrington 1989). None: unknown.
    """

    num_states: int
    monoid_size: int | None
    monoid_limit: int
    is_star_free: bool | None
    is_solvable: bool | None


def algebra_of(automaton: Automaton, *, limit: int = LARGEST_MONOID) -> Algebra:
    """Describe the transition monoid, if it has at most ``limit`` elements."""
    smallest = minimal(automaton)
    # a longer string applies its last symbol to where the shorter one led
    found = unfold(
        np.arange(smallest.num_states),
        lambda leads, symbol: smallest.transitions[leads, symbol],
        smallest.num_symbols,
        limit,
    )
    if found is None:
        return Algebra(smallest.num_states, None, limit, None, None)
    monoid = found[1]
    groups = _groups(monoid)
    return Algebra(
        num_states=smallest.num_states,
        monoid_size=len(monoid),
        monoid_limit=limit,
        is_star_free=not groups,
        is_solvable=all(_is_solvable(group) for group in groups),
    )


def _groups(monoid: Ints) -> list[Ints]:
    """Return the maximal groups that are not trivial, as permutations, each int64 [M', points].

    Source: an idempotent e is the identity of {m : em = m = me, m permutes the image of e}.
    """
    powers = monoid
    for _ in range(int(monoid.shape[1]).bit_length()):
        powers = np.take_along_axis(powers, powers, axis=1)
    # after so many steps a map only permutes; one that does not stand still is in a group
    turning = (np.take_along_axis(monoid, powers, axis=1) != powers).any(axis=1)
    images = {np.unique(power).tobytes() for power in powers[turning]}
    found: dict[bytes, Ints] = {}
    squares = np.take_along_axis(monoid, monoid, axis=1)
    for idempotent in monoid[(squares == monoid).all(axis=1)]:
        points = np.unique(idempotent)
        if points.tobytes() not in images:
            continue
        # m after e is m, and what m reaches e keeps
        within = (monoid[:, idempotent] == monoid).all(axis=1)
        within &= (idempotent[monoid] == monoid).all(axis=1)
        maps = np.searchsorted(points, monoid[within][:, points])
        group = maps[(np.sort(maps, axis=1) == np.arange(len(points))).all(axis=1)]
        if len(group) > 1:
            group = group[np.lexsort(group.T[::-1])]
            found[group.tobytes()] = group
    return list(found.values())


def _is_solvable(group: Ints) -> bool:
    """Whether commutators of commutators end in the identity alone."""
    while len(group) > 1:
        derived = _derived(group)
        if len(derived) == len(group):
            return False
        group = derived
    return True


def _derived(group: Ints) -> Ints:
    """Return the subgroup that all commutators generate."""
    inverses = np.argsort(group, axis=1)
    commutators: dict[bytes, Ints] = {}
    for element, inverse in zip(group, inverses, strict=True):
        # one undone, the other undone, then both done in the same order
        undone = element[inverses[:, inverse]]
        rows = np.take_along_axis(group, undone, axis=1)
        commutators.update((row.tobytes(), row) for row in rows)
    return _closure(list(commutators.values()))


def _closure(generators: list[Ints]) -> Ints:
    identity = np.arange(len(generators[0]))
    known = {identity.tobytes(): identity}
    waiting = [identity]
    for element in waiting:
        for generator in generators:
            product = generator[element]
            if product.tobytes() not in known:
                known[product.tobytes()] = product
                waiting.append(product)
    return np.array(list(known.values()))


def unfold(
    start: Ints, step: Callable[[Ints, int], Ints], num_symbols: int, limit: int
) -> tuple[Ints, Ints] | None:
    """Explore vectors that a step function leads to: `Automaton.explore` for arrays.

    Returns:
        transitions int64 [M, V] and the vectors int64 [M, ...], the start first; None when there
        are more than ``limit``.
    """
    number = {start.tobytes(): 0}
    vectors = [start]
    rows: list[list[int]] = []
    for vector in vectors:
        row = []
        for symbol in range(num_symbols):
            after = step(vector, symbol)
            key = after.tobytes()
            if key not in number:
                if len(vectors) == limit:
                    return None
                number[key] = len(vectors)
                vectors.append(after)
            row.append(number[key])
        rows.append(row)
    return np.array(rows), np.array(vectors)
