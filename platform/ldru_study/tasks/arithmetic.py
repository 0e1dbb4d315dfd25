"""Expressions of digits and operators modulo 5, in two readings."""

from __future__ import annotations

from ldru_study.tasks.automaton import NO_CLASS, Automaton
from ldru_study.tasks.task import Family, Task

MODULUS = 5
# the last symbol pads shorter expressions in published data; no expression contains it
SYMBOLS = ("0", "1", "2", "3", "4", "+", "-", "*", "_")
_PLUS, _MINUS, _TIMES = 5, 6, 7
_SIZES = {"num_symbols": len(SYMBOLS), "num_classes": MODULUS}
_VALUES = tuple(f"value {value}" for value in range(MODULUS))
# of the reading from left to right: value so far and the operator that waits for a digit
_Flat = tuple[int, int | None] | None
# of the reading with precedence: sum of the finished terms, the open term, the waiting operator
_Nested = tuple[int, int, int | None] | None


def modular_arithmetic() -> Automaton:
    """Reckon strictly from left to right, modulo 5: 3+4*2 -> 4, 2-4 -> 3.

    Digits stand at even places, operators between them; other strings have no class.
    """

    def step(state: _Flat, symbol: int) -> _Flat:
        if state is None:
            return None
        value, operator = state
        if operator is None:
            return (value, symbol) if symbol in (_PLUS, _MINUS, _TIMES) else None
        if symbol >= MODULUS:
            return None
        reckoned = {_PLUS: value + symbol, _MINUS: value - symbol, _TIMES: value * symbol}
        return reckoned[operator] % MODULUS, None

    def value_of(state: _Flat) -> int:
        return NO_CLASS if state is None or state[1] is not None else state[0]

    # as if the string came after "0+"
    start: _Flat = (0, _PLUS)
    return Automaton.explore(start, step, value_of, **_SIZES)


def modular_arithmetic_precedence() -> Automaton:
    """Reckon products before sums and differences, modulo 5: 3+4*2 -> 1, 2-4*3+1 -> 1.

    Digits stand at even places, operators between them; other strings have no class.

    Source: Delétang et al. 2023 (arXiv 2207.02098), the task modular arithmetic (simple).
    """

    def step(state: _Nested, symbol: int) -> _Nested:
        if state is None:
            return None
        total, term, operator = state
        if operator is None:
            if symbol == _TIMES:
                return total, term, _TIMES
            return ((total + term) % MODULUS, 0, symbol) if symbol in (_PLUS, _MINUS) else None
        if symbol >= MODULUS:
            return None
        opened = {_PLUS: symbol, _MINUS: -symbol, _TIMES: term * symbol}
        return total, opened[operator] % MODULUS, None

    def value_of(state: _Nested) -> int:
        if state is None or state[2] is not None:
            return NO_CLASS
        return (state[0] + state[1]) % MODULUS

    # as if the string came after "0+"
    start: _Nested = (0, 0, _PLUS)
    return Automaton.explore(start, step, value_of, **_SIZES)


def _modular_arithmetic(name: str) -> Task:
    return Task(
        name=name,
        summary="digits 0-4 and operators + - *, reckoned from left to right, modulo 5",
        language=modular_arithmetic(),
        symbols=SYMBOLS,
        classes=_VALUES,
        examples=(("3+4*2", 4), ("2-4", 3)),
    )


def _modular_arithmetic_precedence(name: str) -> Task:
    return Task(
        name=name,
        summary="digits 0-4 and operators + - *, products first, modulo 5",
        language=modular_arithmetic_precedence(),
        symbols=SYMBOLS,
        classes=_VALUES,
        examples=(("3+4*2", 1), ("2-4*3+1", 1)),
    )


FAMILIES = (
    Family("modular_arithmetic", _modular_arithmetic, ("modular_arithmetic",)),
    Family(
        "modular_arithmetic_precedence",
        _modular_arithmetic_precedence,
        ("modular_arithmetic_precedence",),
    ),
)
