"""Places inside a study: ``grid.model[0].operator`` as text, as a tuple, and set by ``--set``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Place = tuple[str | int, ...]

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
# axes of the grid and paths of an override are single keys that contain dots
_DOTTED_KEYS = ("grid",)


def format_place(place: Place) -> str:
    """Write a place as text: names joined by dots, list positions in brackets."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def parse_place(text: str) -> Place:
    """Read a place such as ``train.steps`` or ``grid.model[0].width``.

    Raises:
        ValueError: it is not of that form.
    """
    steps: list[str | int] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise ValueError(f"'{text}' is not a place such as train.steps or grid.model[0].width")
        steps.append(match[1] if match[1] is not None else int(match[2]))
        at = match.end()
        if at < len(text) and text[at] == ".":
            at += 1
            if at == len(text):
                raise ValueError(f"'{text}' ends in a dot")
    if not steps or isinstance(steps[0], int):
        raise ValueError(f"'{text}' is not a place such as train.steps or grid.model[0].width")
    if steps[0] in _DOTTED_KEYS and len(steps) > 1:
        return _join_axis(steps)
    return tuple(steps)


def _join_axis(steps: list[str | int]) -> Place:
    names = 1
    while names < len(steps) and isinstance(steps[names], str):
        names += 1
    return (steps[0], ".".join(str(step) for step in steps[1:names]), *steps[names:])


def set_place(tree: Any, place: Place, value: Any) -> Any:
    """Return ``tree`` with ``value`` at ``place``; missing mappings on the way are made.

    Neither ``tree`` nor anything in it is changed.

    Raises:
        ValueError: the way leads through a value that is neither a mapping nor a list, or beyond
            the end of a list.
    """
    if not place:
        return value
    step, rest = place[0], place[1:]
    if isinstance(step, int):
        if not isinstance(tree, list):
            raise ValueError(f"[{step}] needs a list there, found {describe(tree)}")
        if step >= len(tree):
            raise ValueError(f"[{step}] is beyond the end of a list of {len(tree)}")
        return [*tree[:step], set_place(tree[step], rest, value), *tree[step + 1 :]]
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise ValueError(f"'{step}' needs a mapping there, found {describe(tree)}")
    return {**tree, step: set_place(tree.get(step), rest, value)}


def get_place(tree: Any, place: Place) -> Any:
    """Return the value at ``place``.

    Raises:
        LookupError: there is none.
    """
    for step in place:
        if not isinstance(tree, (Mapping, list, tuple)):
            raise LookupError(step)
        tree = tree[step]  # type: ignore[index]
    return tree


def describe(value: Any) -> str:
    """Name a value and its YAML type for an error message, at most 60 characters of it."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    text = str(value)
    return f"the text '{text if len(text) <= 60 else text[:57] + '...'}'"
