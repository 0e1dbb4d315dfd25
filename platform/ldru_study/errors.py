"""Every error that a user can mend, and the words that help to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class StudyError(Exception):
    """A mistake or a state that the user can mend; printed without a traceback.

    ``exit_code`` is the exit status of the command line for errors of this class.
    """

    exit_code = 2


class InputError(StudyError):
    """A file that cannot be used, with every problem found in it.

    Args:
        source: where it came from, usually a path.
        problems: one ``place: what. What to do.`` line each.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {line}" for line in problems)]))


class SpecError(InputError):
    """A study file that cannot be run."""


class UnknownNameError(StudyError):
    """A name that is not registered; the message suggests the nearest ones."""


class OtherVersionError(StudyError):
    """A stored study whose trials this version names or draws otherwise."""


class NotFoundError(StudyError):
    """A study, trial or file that the store does not hold."""

    exit_code = 3


class StoreError(StudyError):
    """A store that cannot be read or written."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Say which of ``known`` was probably meant by ``name``; '' when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def unknown_name(what: str, name: str, known: Sequence[str]) -> str:
    """Say that no ``what`` is called ``name``, what was meant and what there is."""
    parts = [f"no {what} is called '{name}'.", did_you_mean(name, known)]
    return " ".join(part for part in [*parts, f"Known: {', '.join(known)}."] if part)
