"""The tasks by name: single languages, and families such as ``d_n`` whose names carry numbers."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import import_module

from ldru_study.errors import UnknownNameError, did_you_mean
from ldru_study.tasks.task import Family, Task

# a task is added by a file beside this one that has its families, and by the file's name here
FILES = ("languages", "arithmetic", "groups", "listops", "custom")
FAMILIES: tuple[Family, ...] = tuple(
    family for file in FILES for family in import_module(f"ldru_study.tasks.{file}").FAMILIES
)


def task_names() -> tuple[str, ...]:
    """Return the names of all single tasks and of the listed members of the families."""
    return tuple(name for family in FAMILIES for name in family.members)


@lru_cache(maxsize=256)
def find_task(name: str) -> Task:
    """Return the task of this name; every call returns the same object.

    Args:
        name: as in a study file; or the text form of a user's own task, see `custom`.

    Raises:
        UnknownNameError: there is none, or what its name carries is out of range.
    """
    for family in FAMILIES:
        if match := re.fullmatch(family.pattern, name, re.DOTALL):
            return family.build(name, *match.groups())
    guess = did_you_mean(name, task_names())
    parts = (f"no task is called '{name}'.", guess, "`ldru-study tasks list` prints all.")
    raise UnknownNameError(" ".join(part for part in parts if part))
