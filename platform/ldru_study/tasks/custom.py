"""A user's own task: a regular expression or an automaton, in a study file or as text.

The text form is what the rest of the house calls the task by; `find_task` finds it again:

    regex:(0|1)*010(0|1)*               over the symbols that occur in it, in order
    regex[abc]:a*b*                     over the symbols named
    automaton[01]:0,1;1,0:0,1           next states by state and symbol; then each state's class
    parity=automaton[01]:0,1;1,0:0,1    with a name of one's own for tables
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ldru_study.errors import UnknownNameError
from ldru_study.tasks.algebra import minimal, shortest_strings
from ldru_study.tasks.automaton import Automaton
from ldru_study.tasks.task import REJECTED_ACCEPTED, Family, Task

MOST_STATES = 1000
_LONGEST_PATTERN = 500
# of all repetitions {n} in a pattern multiplied; each copies its part of the pattern
_MOST_REPEATS = 1000
_LONGEST_LABEL = 48
# states x classes x (symbols - 1)
_LARGEST_TABLE = 50_000


def regex_text(pattern: str, *, alphabet: str | None = None, name: str | None = None) -> str:
    """Return the text form of a regular expression."""
    shown = f"[{alphabet}]" if alphabet is not None else ""
    return f"{name}={_REGEX}{shown}:{pattern}" if name else f"{_REGEX}{shown}:{pattern}"


def automaton_text(automaton: Automaton, *, alphabet: str, name: str | None = None) -> str:
    """Return the text form of an automaton, in its smallest form."""
    text = f"{_AUTOMATON}[{alphabet}]:{_body(minimal(automaton))}"
    return f"{name}={text}" if name else text


def automaton_of(
    alphabet: str, states: Mapping[str, Sequence[str]], start: str, classes: Mapping[str, int]
) -> Automaton:
    """Return an automaton with named states.

    Args:
        alphabet: a character per symbol.
        states: for every state the states that the symbols lead to, in order.
        start: the state before the first symbol.
        classes: the class of each state.

    Raises:
        ValueError: a state is not there, or has not one successor per symbol.
    """
    for state, leads in states.items():
        if len(leads) != len(alphabet):
            raise ValueError(
                f"states.{state}: wants one state per symbol of '{alphabet}', found {len(leads)}"
            )
    known = ", ".join(states)
    for place, wanted in [
        ("start", start),
        *((f"states.{state}", after) for state, leads in states.items() for after in leads),
        *(("classes", state) for state in classes),
    ]:
        if wanted not in states:
            raise ValueError(f"{place}: no state is called '{wanted}'. States: {known}")
    if missing := [state for state in states if state not in classes]:
        raise ValueError(f"classes: state '{missing[0]}' has none. Give every state one")
    return Automaton.explore(
        start,
        lambda state, symbol: states[state][symbol],
        lambda state: classes[state],
        num_symbols=len(alphabet),
        num_classes=max(classes.values()) + 1,
    )


def parse_regex(pattern: str, alphabet: str) -> Automaton:
    """Return the smallest automaton of a regular expression.

    Args:
        pattern: in the syntax of automata-lib: ``| * + ? ( ) . {n,m}``, ``[...]``, and also ``&``
            for both and ``^`` for interleaved.
        alphabet: the symbols, each a letter or digit.

    Raises:
        ValueError: it is no regular expression over the alphabet, or is too large.
    """
    from automata.base.exceptions import AutomatonException, RegexException
    from automata.fa.nfa import NFA

    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(f"has {len(pattern)} characters; {_LONGEST_PATTERN} are the most")
    repeats = 1
    for number in re.findall(r"\d+(?=[^{]*\})", pattern):
        repeats *= max(1, int(number))
    if repeats > _MOST_REPEATS:
        raise ValueError(f"repeats a part more than {_MOST_REPEATS} times. Use an automaton")
    try:
        found = NFA.from_regex(pattern, input_symbols=set(alphabet))
    except (AutomatonException, RegexException) as error:
        why = str(error).rstrip(".")
        raise ValueError(f"'{pattern}' is no regular expression over '{alphabet}': {why}") from None
    if other := sorted(found.input_symbols - set(alphabet)):
        raise ValueError(
            f"'{pattern}' names '{other[0]}', which is not in the alphabet '{alphabet}'. "
            "Name all symbols: alphabet"
        )
    leads = {state: dict(rows) for state, rows in found.transitions.items()}

    def closed(states: frozenset[int]) -> frozenset[int]:
        reached, waiting = set(states), list(states)
        for state in waiting:
            new = leads.get(state, {}).get("", frozenset()) - reached
            reached |= new
            waiting += new
        return frozenset(reached)

    sets: set[frozenset[int]] = set()

    def step(states: frozenset[int], symbol: int) -> frozenset[int]:
        character = alphabet[symbol]
        after = closed(
            frozenset(target for one in states for target in leads.get(one, {}).get(character, ()))
        )
        sets.add(after)
        if len(sets) > 10 * MOST_STATES:
            raise ValueError(f"'{pattern}' needs more than {10 * MOST_STATES} states")
        return after

    return minimal(
        Automaton.explore(
            closed(frozenset({found.initial_state})),
            step,
            lambda states: int(bool(states & found.final_states)),
            num_symbols=len(alphabet),
            num_classes=2,
        )
    )


def symbols_of(pattern: str) -> str:
    """Return the letters and digits that a pattern names, in order; numbers in braces aside."""
    return "".join(sorted(set(re.sub(r"\{[^}]*\}", "", pattern)) & _SYMBOLS))


def _regex(text: str, name: str | None, alphabet: str | None, pattern: str) -> Task:
    try:
        symbols = alphabet if alphabet is not None else symbols_of(pattern)
        _check_alphabet(symbols)
        return _task(text, name, symbols, parse_regex(pattern, symbols), pattern)
    except ValueError as error:
        raise UnknownNameError(f"regex: {error}.") from None


def _automaton(text: str, name: str | None, alphabet: str, rows: str, outputs: str) -> Task:
    try:
        _check_alphabet(alphabet)
        leads = [_numbers(row) for row in rows.split(";")]
        classes = np.array(_numbers(outputs))
        odd = next((len(row) for row in leads if len(row) != len(alphabet)), len(alphabet))
        if len(leads) != len(classes) or odd != len(alphabet):
            raise ValueError(
                f"wants {len(classes)} states with {len(alphabet)} symbols each, "
                f"found {len(leads)} with {odd}"
            )
        transitions = np.array(leads)
        if transitions.max() >= len(classes):
            raise ValueError(f"leads to state {transitions.max()} of {len(classes)}")
        if len(classes) > MOST_STATES or classes.max() >= MOST_STATES:
            raise ValueError(f"has more than {MOST_STATES} states or classes")
        found = minimal(Automaton(transitions, classes, int(classes.max()) + 1))
        return _task(text, name, alphabet, found, f"an automaton of {found.num_states} states")
    except ValueError as error:
        raise UnknownNameError(f"automaton: {error}.") from None


def _numbers(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise ValueError(f"'{text}' is no list of numbers such as 0,1")
    return [int(part) for part in text.split(",")]


def _check_alphabet(alphabet: str) -> None:
    repeated = [symbol for symbol in alphabet if alphabet.count(symbol) > 1]
    if repeated:
        raise ValueError(f"alphabet '{alphabet}' repeats '{repeated[0]}'")
    if odd := [symbol for symbol in alphabet if symbol not in _SYMBOLS]:
        raise ValueError(f"alphabet '{alphabet}': '{odd[0]}' is neither letter nor digit")
    if len(alphabet) < 2:
        raise ValueError(
            f"wants at least two symbols, found '{alphabet}'. Name them all: alphabet: \"01\""
        )


def _task(text: str, name: str | None, alphabet: str, automaton: Automaton, summary: str) -> Task:
    if automaton.num_states > MOST_STATES:
        raise ValueError(f"needs {automaton.num_states} states; {MOST_STATES} are the most")
    size = automaton.num_states * automaton.num_classes * (len(alphabet) - 1)
    if size > _LARGEST_TABLE:
        raise ValueError(
            f"has {automaton.num_states} states, {automaton.num_classes} classes and "
            f"{len(alphabet)} symbols: {size} numbers per token in the sampler's tables; "
            f"{_LARGEST_TABLE} are the most"
        )
    if len(automaton.recurring_classes) < 2:
        raise ValueError(
            f"gives every long string the class {automaton.recurring_classes[0]}: nothing to learn"
        )
    if not any(
        automaton.classes_at(length) == automaton.recurring_classes
        for length in range(1, 2 * automaton.num_class_patterns + 2)
    ):
        raise ValueError("has its classes at different lengths, so that the length tells them")
    body = _body(automaton)
    # a name of a state is no part of the language, nor are the characters of the alphabet
    identity = f"{_AUTOMATON}:{body}"
    is_accepting = automaton.num_classes == 2
    return Task(
        name=text,
        summary=summary,
        language=automaton,
        symbols=tuple(alphabet),
        classes=REJECTED_ACCEPTED
        if is_accepting
        else tuple(f"class {number}" for number in range(automaton.num_classes)),
        examples=tuple(
            ("".join(alphabet[symbol] for symbol in string), label)
            for label, string in sorted(shortest_strings(automaton).items(), reverse=True)[:4]
        ),
        label=name or _short(text, identity),
        identity=identity,
    )


def _short(text: str, identity: str) -> str:
    if len(text) <= _LONGEST_LABEL:
        return text
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{_REGEX if text.startswith(_REGEX) else _AUTOMATON}-{digest}"


def _body(automaton: Automaton) -> str:
    rows = ";".join(",".join(map(str, row)) for row in automaton.transitions.tolist())
    return f"{rows}:{','.join(map(str, automaton.outputs.tolist()))}"


_REGEX, _AUTOMATON = "regex", "automaton"
_SYMBOLS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
FAMILIES = (
    Family(rf"(?:({NAME})=)?{_REGEX}(?:\[([^\]]*)\])?:(.*)", _regex),
    Family(rf"(?:({NAME})=)?{_AUTOMATON}\[([^\]]*)\]:([\d,;]+):([\d,]+)", _automaton),
)
