"""Word problems of finite groups: symbols are generators, the label is their product so far.

By the group alone such a problem is easy or hard: those of solvable groups are in TC0, that of A5
is complete for NC1 (Barrington 1989), which constant-depth models are believed not to reach.
"""

from __future__ import annotations

from ldru_study.errors import UnknownNameError
from ldru_study.tasks.automaton import Automaton
from ldru_study.tasks.task import Family, Task, digits

Permutation = tuple[int, ...]

_DEGREES = {"s": (2, 5), "a": (3, 5)}
# a sampler's tables grow with the square of it
_LARGEST_CYCLIC = 32


def word_problem(generators: tuple[Permutation, ...]) -> tuple[Automaton, tuple[Permutation, ...]]:
    """Multiply permutations; symbol 0 is the identity, symbol g the generator number g.

    Without an identity some products would exist at some lengths only, such as odd permutations
    at odd lengths. With generators that swap and rotate three things: 12 -> 3, 21 -> 4.

    Args:
        generators: permutations of 0..n-1, each as its images.

    Returns:
        The automaton, whose classes are the elements of the group in the order in which they are
        first reached, and these elements; a product applies its left factor first.
    """
    identity = tuple(range(len(generators[0])))
    number: dict[Permutation, int] = {}

    def step(product: Permutation, symbol: int) -> Permutation:
        factor = (identity, *generators)[symbol]
        return tuple(factor[image] for image in product)

    def count(product: Permutation) -> int:
        return number.setdefault(product, len(number))

    explored = Automaton.explore(
        identity, step, count, num_symbols=len(generators) + 1, num_classes=0
    )
    elements = tuple(number)
    return Automaton(explored.transitions, explored.outputs, len(elements)), elements


def _cycle(length: int, degree: int, first: int = 0) -> Permutation:
    """Return the permutation that moves ``length`` things on by one place, from ``first`` on."""
    images = list(range(degree))
    for place in range(length):
        images[first + place] = first + (place + 1) % length
    return tuple(images)


def _permutations(name: str, kind: str, number: str) -> Task:
    degree = int(number)
    low, high = _DEGREES[kind]
    if not low <= degree <= high:
        group = "symmetric" if kind == "s" else "alternating"
        raise UnknownNameError(
            f"'{name}': n of group_{kind}n, the {group} group on n things, must be in "
            f"{low}..{high}, found {degree}."
        )
    if kind == "s":
        generators = tuple({_cycle(2, degree): 1, _cycle(degree, degree): 2})
        moves = "swap the first two, rotate all"
    else:
        # of an even number of things rotating all is odd: leave out the first
        generators = tuple({_cycle(3, degree): 1, _odd_cycle(degree): 2})
        moves = "rotate the first three, rotate the longest odd number at the end"
    return _word_problem(name, f"product of permutations of {degree} things: {moves}", generators)


def _odd_cycle(degree: int) -> Permutation:
    skipped = 1 - degree % 2
    return _cycle(degree - skipped, degree, skipped)


def _cyclic(name: str, number: str) -> Task:
    order = int(number)
    if not 2 <= order <= _LARGEST_CYCLIC:
        raise UnknownNameError(
            f"'{name}': n of group_z_n must be in 2..{_LARGEST_CYCLIC}, found {order}."
        )
    summary = f"number of 1s modulo {order}"
    # longer permutations than these say it no better
    meaning = f"0 is the identity, 1 rotates all {order} things by one place"
    return _word_problem(name, summary, (_cycle(order, order),), meaning)


def _word_problem(
    name: str, summary: str, generators: tuple[Permutation, ...], meaning: str = ""
) -> Task:
    automaton, elements = word_problem(generators)
    return Task(
        name=name,
        summary=summary,
        language=automaton,
        symbols=digits(automaton.num_symbols),
        classes=tuple(" ".join(map(str, element)) for element in elements),
        examples=_examples(generators, elements),
        meaning=meaning or _meaning(generators),
    )


def _meaning(generators: tuple[Permutation, ...]) -> str:
    """Say which permutation each symbol is, by its images, as classes are named."""
    things = " ".join(map(str, range(len(generators[0]))))
    images = [
        f"{symbol} takes {things} to {' '.join(map(str, images))}"
        for symbol, images in enumerate(generators, start=1)
    ]
    return ", ".join(("0 is the identity", *images))


def _examples(
    generators: tuple[Permutation, ...], elements: tuple[Permutation, ...]
) -> tuple[tuple[str, int], ...]:
    first, last = generators[0], generators[-1]
    product = tuple(last[image] for image in first)
    return (("1", elements.index(first)), (f"01{len(generators)}", elements.index(product)))


FAMILIES = (
    Family(
        r"group_([sa])([1-9]\d{0,3})",
        _permutations,
        ("group_s3", "group_s4", "group_s5", "group_a4", "group_a5"),
    ),
    Family(r"group_z_([1-9]\d{0,3})", _cyclic, ("group_z_7",)),
)
