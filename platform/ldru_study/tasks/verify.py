"""Labels that others computed, held against ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldru_study.errors import InputError, StudyError, UnknownNameError, did_you_mean
from ldru_study.npz_file import Array, read_npz
from ldru_study.tasks.registry import find_task
from ldru_study.tasks.task import Task

_KEY = re.compile(r"(?P<task>[^|]+)\|(?P<length>\d+)\|(?P<part>[xy])")
# a string longer than this is not printed
_SHOWN = 60


@dataclass(frozen=True)
class Comparison:
    """One array of strings with its labels.

    Args:
        task: name of the task.
        key: what the array is called in the file, without its last part.
        length: tokens of every string.
        num_strings: how many there are.
        num_disagreements: how many have another label than ours.
        example: the first of those, in words; empty if there is none.
    """

    task: str
    key: str
    length: int
    num_strings: int
    num_disagreements: int
    example: str


def verify_labels(path: Path) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Compare every string's label in a file with the task's.

    Args:
        path: an ``.npz`` with, for each pair, ``<task>|<length>|x``, token ids, integers
            [num, T], and ``<task>|<length>|y``, labels, integers [num]. What counts as the length
            of the strings is T.

    Returns:
        One comparison per pair, in the order of the file; and what could not be compared, and why.

    Raises:
        NotFoundError: there is no such file.
        InputError: nothing of it can be compared; it names every key that is odd.
        StudyError: it is no such file.
    """
    arrays, unread = read_npz(path)
    problems = list(unread.values())
    pairs: dict[str, str] = {}
    for key in arrays:
        match = _KEY.fullmatch(key)
        if match is None:
            problems.append(
                f"key '{key}' is none of ours. Write '<task>|<length>|x' for token ids and "
                "'<task>|<length>|y' for labels, such as 'd_4|40|x'."
            )
        else:
            pairs[f"{match['task']}|{match['length']}"] = match["task"]
    found = []
    for key, name in pairs.items():
        # why an array was not read has been said
        if unread.keys() & {f"{key}|x", f"{key}|y"}:
            continue
        try:
            task = _find(key, name)
            found.append(_compare(key, task, *(_array(arrays, key, part) for part in "xy")))
        except StudyError as error:
            problems.append(str(error))
    if not found:
        raise InputError(str(path), problems)
    return tuple(found), tuple(problems)


def _find(key: str, name: str) -> Task:
    try:
        return find_task(name)
    except UnknownNameError as error:
        raise StudyError(f"'{key}|x': {error}") from None


def _array(arrays: Mapping[str, Array], key: str, part: str) -> Array:
    wanted = f"{key}|{part}"
    if wanted not in arrays:
        other = f"{key}|{'xy'[part == 'x']}"
        near = did_you_mean(wanted, [one for one in arrays if one != other])
        raise StudyError(f"'{other}' is there without '{wanted}'. {near}".rstrip())
    array, shape = arrays[wanted], {"x": "[num, T]", "y": "[num]"}[part]
    if array.dtype.kind not in "iub":
        raise StudyError(f"'{wanted}': wants integers, found {array.dtype}.")
    if array.ndim != shape.count(",") + 1:
        raise StudyError(f"'{wanted}': wants shape {shape}, found {list(array.shape)}.")
    if not array.size:
        raise StudyError(f"'{wanted}': shape {list(array.shape)} has nothing to compare.")
    return array


def _compare(key: str, task: Task, x: Array, y: Array) -> Comparison:
    if len(x) != len(y):
        raise StudyError(f"'{key}|x' has {len(x)} strings, '{key}|y' {len(y)} labels.")
    odd = x[(x < 0) | (x >= task.num_symbols)]
    if odd.size:
        raise StudyError(
            f"'{key}|x': token {odd[0]} is none of {task.name}, which has 0 to "
            f"{task.num_symbols - 1}: {' '.join(task.symbols)}."
        )
    small = x.astype(np.uint8)
    labels = task.language.label(small, np.full(len(x), x.shape[1], dtype=np.int64))
    given = y.astype(np.int64)
    (differ,) = np.nonzero(labels != given)
    example = ""
    if len(differ):
        first = differ[0]
        text = task.decode(small[first][:_SHOWN]) + ("..." if x.shape[1] > _SHOWN else "")
        ours = "no string of the task" if labels[first] < 0 else str(labels[first])
        example = f"string {first}, {text}: file {given[first]}, ours {ours}"
    return Comparison(task.name, key, int(x.shape[1]), len(x), len(differ), example)
