"""The regular languages of the field, each as an automaton built from its definition.

Class 1 is accepted unless a language says otherwise.
"""

from __future__ import annotations

from ldru_study.errors import UnknownNameError
from ldru_study.tasks.automaton import Automaton
from ldru_study.tasks.task import Family, Task, digits

# of tomita_3: the last symbol, whether its run is odd, whether an odd run of 1s came before it
_Runs = tuple[int, bool, bool]
_BINARY = {"num_symbols": 2, "num_classes": 2}


def parity_check() -> Automaton:
    """Count the 1s, modulo 2: 1101 -> 1, 11 -> 0."""
    return Automaton.explore(0, lambda ones, symbol: ones ^ symbol, lambda ones: ones, **_BINARY)


def even_pairs() -> Automaton:
    """Count unequal neighbours, modulo 2: 01 -> 1, 010 -> 0.

    The same as whether the first symbol differs from the last; a single symbol has class 0.
    """

    def step(ends: tuple[int, ...], symbol: int) -> tuple[int, ...]:
        return (*ends[:1], symbol)

    nothing: tuple[int, ...] = ()
    return Automaton.explore(nothing, step, lambda ends: int(len(set(ends)) == 2), **_BINARY)


def cycle_navigation(num_places: int = 5) -> Automaton:
    """Walk on a circle, 0 left, 1 stay, 2 right, and name the place: 2212 -> 3, 0 -> 4."""
    return Automaton.explore(
        0,
        lambda place, symbol: (place + symbol - 1) % num_places,
        lambda place: place,
        num_symbols=3,
        num_classes=num_places,
    )


def tomita_1() -> Automaton:
    """Accept strings of 1s only: 111 -> 1, 101 -> 0."""
    return Automaton.explore(
        0, lambda zeros, symbol: zeros | (1 - symbol), lambda zeros: 1 - zeros, **_BINARY
    )


def tomita_2() -> Automaton:
    """Accept 10 repeated: 1010 -> 1, 101 -> 0."""
    dead = -1

    def step(wanted: int, symbol: int) -> int:
        return 1 - wanted if symbol == wanted else dead

    return Automaton.explore(1, step, lambda wanted: int(wanted == 1), **_BINARY)


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
    return Automaton.explore(start, step, accepts, **_BINARY)


def tomita_4() -> Automaton:
    """Accept unless there are three 0s in a row: 00100 -> 1, 10001 -> 0."""

    def step(zeros: int, symbol: int) -> int:
        if zeros == 3:
            return 3
        return 0 if symbol else zeros + 1

    return Automaton.explore(0, step, lambda zeros: int(zeros < 3), **_BINARY)


def tomita_5() -> Automaton:
    """Accept an even number of 0s with an even number of 1s: 0110 -> 1, 011 -> 0."""

    def step(odd: tuple[int, int], symbol: int) -> tuple[int, int]:
        return odd[0] ^ (symbol == 0), odd[1] ^ (symbol == 1)

    return Automaton.explore((0, 0), step, lambda odd: int(odd == (0, 0)), **_BINARY)


def tomita_6() -> Automaton:
    """Accept when the number of 1s minus that of 0s is a multiple of 3: 111 -> 1, 110 -> 0."""
    return Automaton.explore(
        0,
        lambda surplus, symbol: (surplus + (1 if symbol else -1)) % 3,
        lambda surplus: int(surplus == 0),
        **_BINARY,
    )


def tomita_7() -> Automaton:
    """Accept 0*1*0*1*, at most four runs that begin with 0s: 001101 -> 1, 1010 -> 0."""

    def step(block: int, symbol: int) -> int:
        if block == 4 or block % 2 == symbol:
            return block
        return block + 1

    return Automaton.explore(0, step, lambda block: int(block < 4), **_BINARY)


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

    return Automaton.explore(0, step, lambda open_now: int(open_now == 0), **_BINARY)


def dyck_of_depth(depth: int) -> Automaton:
    """Accept brackets, 0 opens and 1 closes, that balance and are ``depth`` deep exactly.

    With depth 2: 0011 -> 1, 0101 -> 0.
    """
    dead = (-1, False)

    def step(state: tuple[int, bool], symbol: int) -> tuple[int, bool]:
        open_now, was_deep = state
        after = open_now - 1 if symbol else open_now + 1
        if state == dead or not 0 <= after <= depth:
            return dead
        return after, was_deep or after == depth

    return Automaton.explore((0, False), step, lambda state: int(state == (0, True)), **_BINARY)


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


def _parity_check(name: str) -> Task:
    return Task(
        name=name,
        summary="number of 1s modulo 2",
        language=parity_check(),
        symbols=digits(2),
        classes=("even", "odd"),
        examples=(("1101", 1), ("11", 0)),
    )


def _even_pairs(name: str) -> Task:
    return Task(
        name=name,
        summary="number of unequal neighbours modulo 2",
        language=even_pairs(),
        symbols=digits(2),
        classes=("even", "odd"),
        examples=(("01", 1), ("010", 0)),
    )


def _cycle_navigation(name: str) -> Task:
    return Task(
        name=name,
        summary="place on a circle of 5 after steps: 0 left, 1 stay, 2 right",
        language=cycle_navigation(),
        symbols=digits(3),
        classes=tuple(f"place {place}" for place in range(5)),
        examples=(("2212", 3), ("0", 4)),
    )


def _tomita(name: str, number: str) -> Task:
    automaton, summary, accepted, rejected = {
        1: (tomita_1, "1s only", "111", "101"),
        2: (tomita_2, "10 repeated", "1010", "101"),
        3: (tomita_3, "no odd run of 0s right after an odd run of 1s", "1100", "110111000"),
        4: (tomita_4, "no three 0s in a row", "00100", "10001"),
        5: (tomita_5, "an even number of 0s and an even number of 1s", "0110", "011"),
        6: (tomita_6, "number of 1s minus number of 0s is a multiple of 3", "111", "110"),
        7: (tomita_7, "0*1*0*1*", "001101", "1010"),
    }[int(number)]
    return Task(
        name=name,
        summary=summary,
        language=automaton(),
        symbols=digits(2),
        examples=((accepted, 1), (rejected, 0)),
        paper="half_walks",
    )


_MOST_DEPTH = 64
_MOST_PREFIXES = 1024


def _bounded_dyck(name: str, number: str) -> Task:
    depth = int(number)
    if not 1 <= depth <= _MOST_DEPTH:
        raise UnknownNameError(f"'{name}': n of d_n must be in 1..{_MOST_DEPTH}, found {depth}.")
    deeper = depth + 1
    return Task(
        name=name,
        summary=f"0 opens, 1 closes: balanced and never deeper than {depth}",
        language=bounded_dyck(depth),
        symbols=digits(2),
        examples=(("0" * depth + "1" * depth, 1), ("0" * deeper + "1" * deeper, 0)),
        paper="half_accepted",
        near_misses=dyck_of_depth(deeper),
    )


def _prefix(name: str, *numbers: str) -> Task:
    num_read, num_symbols = map(int, numbers)
    # python would build the whole number before comparing: bound the exponent first
    if not (1 <= num_read <= 10 and 2 <= num_symbols <= 10) or (
        num_symbols**num_read > _MOST_PREFIXES
    ):
        raise UnknownNameError(
            f"'{name}': prefix_p_q wants p in 1..10, q in 2..10 and q^p at most "
            f"{_MOST_PREFIXES}, found p = {num_read}, q = {num_symbols}."
        )
    shorter = num_symbols**num_read
    first, last = "0" * (num_read - 1) + "1", str(num_symbols - 1) * num_read
    return Task(
        name=name,
        summary=f"the first {num_read} symbols as a number in base {num_symbols}",
        language=prefix(num_read, num_symbols),
        symbols=digits(num_symbols),
        classes=(*(f"number {value}" for value in range(shorter)), f"shorter than {num_read}"),
        examples=((f"{first}0", 1), (last, shorter - 1)),
    )


FAMILIES = (
    Family("parity_check", _parity_check, ("parity_check",)),
    Family("even_pairs", _even_pairs, ("even_pairs",)),
    Family("cycle_navigation", _cycle_navigation, ("cycle_navigation",)),
    Family("tomita_([1-7])", _tomita, tuple(f"tomita_{number}" for number in range(1, 8))),
    Family(
        r"d_([1-9]\d{0,3})", _bounded_dyck, tuple(f"d_{depth}" for depth in (1, 2, 3, 4, 6, 8, 12))
    ),
    Family(
        r"prefix_([1-9]\d{0,3})_([1-9]\d{0,3})",
        _prefix,
        tuple(
            f"prefix_{num_read}_{num_symbols}" for num_read in (1, 2, 4) for num_symbols in (2, 4)
        ),
    ),
)
