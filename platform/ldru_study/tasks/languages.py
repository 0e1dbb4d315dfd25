"""The regular languages of the field, each as an automaton built from its definition.

Class 1 is accepted unless a language says otherwise.
"""

from __future__ import annotations

from ldru_study.tasks.automaton import Automaton

# of tomita_3: the last symbol, whether its run is odd, whether an odd run of 1s came before it
_Runs = tuple[int, bool, bool]


def parity_check() -> Automaton:
    """Count the 1s, modulo 2: 1101 -> 1, 11 -> 0."""
    return Automaton.explore(
        0, lambda ones, symbol: ones ^ symbol, lambda ones: ones, num_symbols=2, num_classes=2
    )


def even_pairs() -> Automaton:
    """Count unequal neighbours, modulo 2: 01 -> 1, 010 -> 0.

    The same as whether the first symbol differs from the last; a single symbol has class 0.
    """

    def step(ends: tuple[int, ...], symbol: int) -> tuple[int, ...]:
        return (*ends[:1], symbol)

    nothing: tuple[int, ...] = ()
    return Automaton.explore(
        nothing, step, lambda ends: int(len(set(ends)) == 2), num_symbols=2, num_classes=2
    )


def cycle_navigation(num_places: int = 5) -> Automaton:
    """Walk on a circle, 0 left, 1 stay, 2 right, and name the place: 2212 -> 3, 0 -> 4."""
    return Automaton.explore(
        0,
        lambda place, symbol: (place + symbol - 1) % num_places,
        lambda place: place,
        num_symbols=3,
        num_classes=num_places,
    )


def tomita_3() -> Automaton:
    """Accept unless an odd run of 0s comes right after an odd run of 1s: 1100 -> 1, 10 -> 0."""

    def step(state: _Runs | None, symbol: int) -> _Runs | None:
        if state is None:
            return None
        last, is_odd, after_odd_ones = state
        if symbol == last:
            return last, not is_odd, after_odd_ones
        if last == 0 and is_odd and after_odd_ones:
            return None
        return symbol, True, last == 1 and is_odd

    def accepts(state: _Runs | None) -> int:
        return int(state is not None and state != (0, True, True))

    # as if the string came after an even run of 0s
    start: _Runs | None = (0, False, False)
    return Automaton.explore(start, step, accepts, num_symbols=2, num_classes=2)


def tomita_4() -> Automaton:
    """Accept unless there are three 0s in a row: 00100 -> 1, 10001 -> 0."""

    def step(zeros: int, symbol: int) -> int:
        if zeros == 3:
            return 3
        return 0 if symbol else zeros + 1

    return Automaton.explore(0, step, lambda zeros: int(zeros < 3), num_symbols=2, num_classes=2)


def tomita_5() -> Automaton:
    """Accept an even number of 0s with an even number of 1s: 0110 -> 1, 011 -> 0."""

    def step(odd: tuple[int, int], symbol: int) -> tuple[int, int]:
        return odd[0] ^ (symbol == 0), odd[1] ^ (symbol == 1)

    return Automaton.explore(
        (0, 0), step, lambda odd: int(odd == (0, 0)), num_symbols=2, num_classes=2
    )


def tomita_6() -> Automaton:
    """Accept when the number of 1s minus that of 0s is a multiple of 3: 111 -> 1, 110 -> 0."""
    return Automaton.explore(
        0,
        lambda surplus, symbol: (surplus + (1 if symbol else -1)) % 3,
        lambda surplus: int(surplus == 0),
        num_symbols=2,
        num_classes=2,
    )


def tomita_7() -> Automaton:
    """Accept 0*1*0*1*, at most four runs that begin with 0s: 001101 -> 1, 1010 -> 0."""

    def step(block: int, symbol: int) -> int:
        if block == 4 or block % 2 == symbol:
            return block
        return block + 1

    return Automaton.explore(0, step, lambda block: int(block < 4), num_symbols=2, num_classes=2)


def bounded_dyck(depth: int) -> Automaton:
    """Accept brackets, 0 opens and 1 closes, that balance and nest at most ``depth`` deep.

    With depth 2: 001011 -> 1, 000111 -> 0.
    """
    dead = -1

    def step(open_now: int, symbol: int) -> int:
        if open_now == dead:
            return dead
        after = open_now - 1 if symbol else open_now + 1
        return after if 0 <= after <= depth else dead

    return Automaton.explore(
        0, step, lambda open_now: int(open_now == 0), num_symbols=2, num_classes=2
    )


def prefix(num_read: int, num_symbols: int) -> Automaton:
    """Read the first ``num_read`` symbols as a number in base V; one more class if there are fewer.

    With 2 symbols read of an alphabet of 4: 31002 -> 13, 2 -> 16.
    """

    def output(read: tuple[int, ...]) -> int:
        if len(read) < num_read:
            return int(num_symbols**num_read)
        value = 0
        for symbol in read:
            value = value * num_symbols + symbol
        return value

    nothing: tuple[int, ...] = ()
    return Automaton.explore(
        nothing,
        lambda read, symbol: read if len(read) == num_read else (*read, symbol),
        output,
        num_symbols=num_symbols,
        num_classes=num_symbols**num_read + 1,
    )
