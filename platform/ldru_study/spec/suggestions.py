"""What a search does within one cell: its space there, its suggestions and its winner."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldru_study.spec.paths import get_place, parse_place, set_place
from ldru_study.spec.search import ChoiceDimension, Dimension, SearchConfig
from ldru_study.spec.trial import TrialConfig


@dataclass(frozen=True)
class Suggestion:
    """Settings that a search tried, or is about to.

    ``known`` are the numbers of the suggestions whose results had come when this one was made.
    ``config`` is None when the settings together are no valid trial. ``state`` is ``open`` until
    an attempt ended, then ``done``, ``pruned``, ``diverged`` or ``failed``; ``values`` are the
    objectives of a done one, ``rungs`` the validation losses where it could have been stopped.
    """

    number: int
    params: Mapping[str, Any]
    known: tuple[int, ...]
    config: TrialConfig | None
    state: str = "open"
    values: tuple[float, ...] | None = None
    rungs: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether its result is known, good or not."""
        return self.state != "open"


def winner(suggestions: Sequence[Suggestion]) -> Suggestion | None:
    """Return the suggestion with the smallest first objective, the earliest of equals."""
    done = [one for one in suggestions if one.values is not None and math.isfinite(one.values[0])]
    return min(done, key=lambda one: (one.values or (), one.number), default=None)


def is_active(
    dimension: Dimension, raw: Mapping[str, Any], params: Mapping[str, Any] | None = None
) -> bool:
    """Whether a dimension's ``when`` holds.

    Args:
        dimension: of a space.
        raw: the cell's trial as plain data.
        params: values by dotted path that are laid over it.
    """
    chosen = params or {}
    for path, wanted in (dimension.when or {}).items():
        try:
            value = chosen[path] if path in chosen else get_place(raw, parse_place(path))
        except LookupError:
            return False
        if value != wanted and not (isinstance(wanted, list) and value in wanted):
            return False
    return True


def lay_over(config: TrialConfig, params: Mapping[str, Any]) -> TrialConfig:
    """Return the trial with the values of ``params`` at their dotted paths.

    Raises:
        pydantic.ValidationError: together they are no valid trial.
    """
    raw: Any = config.as_asked()
    for path, value in params.items():
        raw = set_place(raw, parse_place(path), value)
    return TrialConfig.model_validate(raw)


def space_of(config: TrialConfig, search: SearchConfig) -> dict[str, Dimension]:
    """Return the dimensions that can ever be active in a cell, in the order of the file."""
    raw = config.model_dump(mode="python")
    found = {}
    for path, dimension in search.space.items():
        inner = {key: value for key, value in (dimension.when or {}).items() if key in found}
        outer = {key: value for key, value in (dimension.when or {}).items() if key not in found}
        trial = dimension.model_copy(update={"when": outer or None})
        if is_active(trial, raw):
            found[path] = dimension.model_copy(update={"when": inner or None})
    return found


def num_trials(config: TrialConfig, search: SearchConfig) -> int:
    """Return how many settings a cell's search tries; 0 when nothing of the space is for it."""
    space = space_of(config, search)
    if not space:
        return 0
    if search.sampler != "grid":
        return search.trials or 16
    size = math.prod(len(dimension.values()) for dimension in space.values())
    return min(size, search.trials or size)


def corners(space: Mapping[str, Dimension]) -> Iterator[tuple[str, Any]]:
    """Yield every (path, value) that shows whether a dimension fits its field."""
    for path, dimension in space.items():
        if isinstance(dimension, ChoiceDimension):
            yield from ((path, value) for value in dimension.options)
        else:
            yield from ((path, dimension.low), (path, dimension.high))


def search_id(config: TrialConfig, search: SearchConfig) -> str:
    """Return 16 hexadecimal digits that name a cell's search: all that decides its suggestions.

    The number of trials is not in it, so that it can be raised later.
    """
    decides: dict[str, Any] = {
        "config": config.trial_id,
        "search": search.model_dump(
            mode="json", exclude={"trials", "allow_oracle", "max_concurrent"}, by_alias=True
        ),
    }
    if "associativity_defect" in search.objective:
        # a search goes on with one definition only: number it anew when what is measured changes
        decides["associativity_defect"] = 2
    text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pareto_front(values: Sequence[Sequence[float]]) -> list[bool]:
    """Say for every point whether no other is at least as small everywhere and smaller somewhere.

    Args:
        values: one sequence of objectives per point, all to be minimised.
    """

    def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)

    return [not any(dominates(other, point) for other in values) for point in values]
