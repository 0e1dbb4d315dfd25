"""Labels that others computed, held against ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ldru_study.errors import StudyError, did_you_mean
from ldru_study.npz_file import read_npz
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


def verify_labels(path: Path) -> tuple[Comparison, ...]:
    """Compare every string's label in a file with the task's.

    Args:
        path: an ``.npz`` with, for each pair, ``<task>|<length>|x``, token ids, integers
            [num, T], and ``<task>|<length>|y``, labels, integers [num]. What counts as the length
            of the strings is T.

    Returns:
        One comparison per pair, in the order of the file.

    Raises:
        NotFoundError: there is no such file.
        StudyError: it is no such file; the message names the key that is odd.
        UnknownNameError: a task is unknown.
    """
    arrays = read_npz(path)
    pairs: dict[str, str] = {}
    for key in arrays:
        match = _KEY.fullmatch(key)
        if match is None:
            raise StudyError(
                f"{path}: key '{key}' is none of ours. Write '<task>|<length>|x' for token ids "
                "and '<task>|<length>|y' for labels, such as 'd_4|40|x'."
            )
        pairs[f"{match['task']}|{match['length']}"] = match["task"]
    found = []
    for key, name in pairs.items():
        for part, other in ("xy", "yx"):
            if f"{key}|{part}" not in arrays:
                near = did_you_mean(f"{key}|{part}", arrays)
                raise StudyError(
                    f"{path}: '{key}|{other}' is there without '{key}|{part}'. {near}".rstrip()
                )
        found.append(_compare(path, key, find_task(name), arrays[f"{key}|x"], arrays[f"{key}|y"]))
    return tuple(found)


def _compare(
    path: Path, key: str, task: Task, x: npt.NDArray[np.generic], y: npt.NDArray[np.generic]
) -> Comparison:
    for part, array, shape in (("x", x, "[num, T]"), ("y", y, "[num]")):
        where = f"{path}: '{key}|{part}'"
        if array.dtype.kind not in "iub":
            raise StudyError(f"{where}: wants integers, found {array.dtype}.")
        if array.ndim != shape.count(",") + 1:
            raise StudyError(f"{where}: wants shape {shape}, found {list(array.shape)}.")
    if len(x) != len(y):
        raise StudyError(f"{path}: '{key}|x' has {len(x)} strings, '{key}|y' {len(y)} labels.")
    tokens = x.astype(np.int64)
    odd = tokens[(tokens < 0) | (tokens >= task.num_symbols)]
    if odd.size:
        raise StudyError(
            f"{path}: '{key}|x': token {odd[0]} is none of {task.name}, which has 0 to "
            f"{task.num_symbols - 1}: {' '.join(task.symbols)}."
        )
    small = tokens.astype(np.uint8)
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
