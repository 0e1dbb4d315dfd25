"""From the axes of a grid to its cells: overlay every combination on the base and validate it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from ldru_study.errors import unknown_name
from ldru_study.spec.engine import ENGINE_CONFIGS
from ldru_study.spec.model import MODEL_CONFIGS
from ldru_study.spec.paths import Place, describe, format_place, get_place, parse_place, set_place
from ldru_study.spec.problems import problems_of
from ldru_study.spec.task import as_task_text
from ldru_study.spec.trial import TrainConfig, TrialConfig
from ldru_study.tasks.registry import find_task

Rule = tuple[Mapping[str, Any], Mapping[str, Any]]
Problem = tuple[Place, str]

_ROOTS = ("task", "sampling", "model", "train")
MAX_CELLS = 100_000
# values of an axis that a message repeats
_MOST_SHOWN = 8
# of these only the precision tells trials apart
CARRIED_OUT = ("train.engine", "train.sequence_parallel", "train.data_parallel")


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    ``key`` names it within its study, ``axes`` maps what varies over the grid to the value shown,
    ``config`` is its trial with seed 0.
    """

    key: str
    axes: Mapping[str, str]
    config: TrialConfig

    def trial(self, seed: int) -> TrialConfig:
        """Return the cell's trial with this seed."""
        return self.config.model_copy(update={"seed": seed})


def expand(
    base: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    rules: Sequence[Rule],
    changed: Sequence[Place] = (),
    *,
    is_stored: bool = False,
) -> tuple[tuple[Cell, ...], list[Problem]]:
    """Return the cells that ``grid`` spans over ``base``, and every problem found on the way.

    A field that an axis would overrule everywhere is a problem. A rule may overrule a field, that
    is what it is for; but not in every cell what somebody has just changed.

    Args:
        base: the trial's fields that hold in every cell.
        grid: dotted path -> values; a shorter path is laid before a longer one.
        rules: (when, set) pairs of dotted paths, applied in order to the cells that match.
        changed: the places that ``--set`` names.
        is_stored: it is a study that was accepted once: what is overruled is no problem.
    """
    problems = _axis_problems(base, grid)
    if not is_stored:
        problems += _overruled(base, grid, changed)
    if problems:
        return (), problems
    expansion = _Expansion(base, grid, rules, () if is_stored else changed)
    return expansion.cells(), list(expansion.found)


class _Expansion:
    """One expansion of a grid; ``found`` collects each problem once, however many cells it hits."""

    def __init__(
        self,
        base: Mapping[str, Any],
        grid: Mapping[str, Sequence[Any]],
        rules: Sequence[Rule],
        changed: Sequence[Place],
    ) -> None:
        self.base, self.grid, self.rules = base, grid, rules
        # the changed fields that no cell has been seen to keep
        self.unused = {place for place in changed if place[0] in _ROOTS}
        self.axes = sorted(grid, key=lambda axis: axis.count("."))
        self.unmatched = set(range(len(rules)))
        self.found: dict[Problem, None] = {}

    def cells(self) -> tuple[Cell, ...]:
        choices = itertools.product(*(range(len(self.grid[axis])) for axis in self.axes))
        configs = [
            (choice, config) for choice in choices if (config := self._config(choice)) is not None
        ]
        # a rule may only seem to match nothing where cells could not be built
        for number in sorted(self.unmatched) if not self.found else ():
            place = ("overrides", number, "when")
            self.found[place, "matches no cell of the grid. Mend or drop it."] = None
        for changed in sorted(self.unused, key=format_place) if not self.found else ():
            text = "overrides set it in every cell of the grid. Drop them too: --set overrides=[]"
            self.found[changed, f"{text}."] = None
        return _named(self.axes, self.grid, configs, self.found)

    def _config(self, choice: tuple[int, ...]) -> TrialConfig | None:
        raw: dict[str, Any] = dict(self.base)
        origin: dict[Place, Place] = {}
        for axis, number in zip(self.axes, choice, strict=True):
            source: Place = ("grid", axis, number)
            raw = _overlay(raw, axis, self.grid[axis][number], source, origin, self.found)
        config = _validated(raw, origin, self.found)
        if config is None or not self.rules:
            self.unused = set()
            return config
        full = config.model_dump(mode="python")
        laid = set()
        for number, (when, to_set) in enumerate(self.rules):
            if _matches(full, when, ("overrides", number, "when"), self.found):
                self.unmatched.discard(number)
                for path, value in to_set.items():
                    source = ("overrides", number, "set", path)
                    raw = _overlay(raw, path, value, source, origin, self.found)
                    laid.add(path)
        self.unused = {
            place
            for place in self.unused
            if any(_is_within(place, tuple(path.split("."))) for path in laid)
            and not self._is_kept(place, raw)
        }
        return _validated(raw, origin, self.found)

    def _is_kept(self, place: Place, raw: Mapping[str, Any]) -> bool:
        """Whether a cell has what was given for a field, though a rule lies over it."""
        if not _is_in(self.base, place) or not _is_in(raw, place):
            return False
        return bool(get_place(raw, place) == get_place(self.base, place))


def _axis_problems(base: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> list[Problem]:
    problems: list[Problem] = []
    size = 1
    for axis, values in grid.items():
        size *= len(values)
        if axis == "seed" or axis == "seeds":
            problems.append((("grid", axis), "seeds are no axis. Use the field 'seeds'."))
        elif axis.split(".")[0] not in _ROOTS:
            problems.append((("grid", axis), unknown_name("axis", axis, list(_ROOTS))))
        if not values:
            problems.append((("grid", axis), "is an empty list. Give at least one value."))
        for number, value in enumerate(values):
            if value in values[:number]:
                first = values.index(value)
                text = f"repeats grid.{axis}[{first}]. Keep one."
                problems.append((("grid", axis, number), text))
    if size > MAX_CELLS:
        text = f"spans {size} cells; {MAX_CELLS} is the most. Split the study."
        problems.append((("grid",), text))
    for field in ("task", "model"):
        if field not in base and field not in grid and not _covered(field, grid):
            text = f"no {field} is given. Add '{field}:' or an axis 'grid.{field}'."
            problems.append(((), text))
    return problems


def _overruled(
    base: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], changed: Sequence[Place]
) -> list[Problem]:
    """Return the fields of ``base`` that no cell would have, since an axis lies over them.

    An axis that ``--set`` gives may lie over a field of the file: which of the two is meant is
    plain, as long as ``--set`` does not give the field as well.
    """
    problems: list[Problem] = []
    for axis, values in grid.items():
        place: Place = tuple(axis.split("."))
        # a study without any field of train has an empty one
        if not values or not _is_in(base, place) or get_place(base, place) == {}:
            continue
        if get_place(base, place) is None and any(_is_within(place, one) for one in changed):
            # --set place=null drops a field; in a file it is a value
            continue
        inside = [one for one in changed if _is_within(one, place) and _is_in(base, one)]
        # ('grid', axis) or ('grid',)
        is_asked_for = any(_is_within(("grid", axis), one) for one in changed)
        if is_asked_for and not inside and not any(_is_within(place, one) for one in changed):
            continue
        for one in inside or [place]:
            advice = f"Drop one of the two{_instead(axis, values, base, one)}."
            text = f"the axis grid.{axis} overrules it in every cell, with {_listed(values)}."
            problems.append((one, f"{text} {advice}"))
    return problems


def _is_within(place: Place, outer: Place) -> bool:
    return place[: len(outer)] == outer


def _is_in(base: Mapping[str, Any], place: Place) -> bool:
    try:
        get_place(base, place)
    except LookupError:
        return False
    return True


def _instead(axis: str, values: Sequence[Any], base: Mapping[str, Any], place: Place) -> str:
    """Say how an axis gets what was given for the field that it is, or for a part of that."""
    below, value = place[len(axis.split(".")) :], get_place(base, place)
    if not below:
        return f", or change the axis: --set 'grid.{axis}=[{_in_yaml(value)}]'"
    if not isinstance(values[0], Mapping):
        return ""
    change = f"--set 'grid.{axis}[0].{format_place(below)}={_in_yaml(value)}'"
    return f", or change the axis: {change}{' and so on' if values[1:] else ''}"


def _listed(values: Sequence[Any]) -> str:
    shown = [_show(value) for value in values[:_MOST_SHOWN]]
    return f"[{', '.join([*shown, *(['...'] if values[_MOST_SHOWN:] else [])])}]"


def _in_yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _covered(field: str, grid: Mapping[str, Sequence[Any]]) -> bool:
    return any(axis.startswith(f"{field}.") for axis in grid)


def _overlay(
    raw: dict[str, Any],
    path: str,
    value: Any,
    source: Place,
    origin: dict[Place, Place],
    found: dict[Problem, None],
) -> dict[str, Any]:
    try:
        place = parse_place(path)
        if place[0] not in _ROOTS:
            raise ValueError(unknown_name("field of a trial", str(place[0]), list(_ROOTS)))
        laid: dict[str, Any] = set_place(raw, place, value)
    except ValueError as error:
        found[source, f"{error}" if str(error).endswith(".") else f"{error}."] = None
        return raw
    origin[place] = source
    return laid


def _validated(
    raw: Mapping[str, Any], origin: Mapping[Place, Place], found: dict[Problem, None]
) -> TrialConfig | None:
    try:
        return TrialConfig.model_validate(raw)
    except ValidationError as error:
        for place, text in problems_of(error, TrialConfig):
            # say where in the file the value came from, not where in the trial it was laid
            laid = next((n for n in range(len(place), 0, -1) if place[:n] in origin), 0)
            shown = (*origin[place[:laid]], *place[laid:]) if laid else place
            found[shown, text] = None
        return None


def _matches(
    full: Mapping[str, Any], when: Mapping[str, Any], source: Place, found: dict[Problem, None]
) -> bool:
    for path, wanted in when.items():
        try:
            value = get_place(full, parse_place(path))
        except LookupError:
            if path.split(".")[0] not in _ROOTS or _unknown_in_train(path):
                found[(*source, path), "no field of a trial has this path."] = None
            # a field of another kind of model: this cell has none of that name
            return False
        except ValueError as error:
            found[(*source, path), f"{error}."] = None
            return False
        if path == "task":
            try:
                wanted = _task_texts(wanted)
            except ValueError as error:
                found[(*source, path), str(error)] = None
                return False
        if value != wanted and not (isinstance(wanted, list) and value in wanted):
            return False
    return True


def _task_texts(wanted: Any) -> Any:
    # a task of the user's own is known by its text form
    if isinstance(wanted, list):
        return [as_task_text(one) for one in wanted]
    return as_task_text(wanted)


def _unknown_in_train(path: str) -> bool:
    root, *fields = path.split(".")
    if root != "train":
        return False
    if fields[0] == "engine" and len(fields) == 2:
        return not any(fields[1] in config.model_fields for config in ENGINE_CONFIGS.values())
    return fields[0] not in TrainConfig.model_fields


def _named(
    axes: Sequence[str],
    grid: Mapping[str, Sequence[Any]],
    configs: Sequence[tuple[tuple[int, ...], TrialConfig]],
    found: dict[Problem, None],
) -> tuple[Cell, ...]:
    varying = _varying_fields([config for _, config in configs], axes)
    seen: dict[str, tuple[int, ...]] = {}
    called: dict[str, str] = {}
    cells = []
    for choice, config in configs:
        label = find_task(config.task).label
        if called.setdefault(label, config.task) != config.task:
            # only an axis can give a study two tasks
            place: Place = ("grid", "task", choice[axes.index("task")])
            text = f"is shown as '{label}', as another task is. Give it a name of its own."
            found[place, text] = None
        shown = {"task": label, "model": _model_label(config, varying)}
        for axis, number in zip(axes, choice, strict=True):
            if axis not in shown and len(grid[axis]) > 1:
                shown[axis] = _show(grid[axis][number])
        key = "/".join(
            value if axis in ("task", "model") else f"{axis}={value}"
            for axis, value in shown.items()
        )
        first = seen.setdefault(config.trial_id, choice)
        for axis, was, now in zip(axes, first, choice, strict=True):
            if was != now:
                text = f"gives the same trial as grid.{axis}[{was}], defaults included. Keep one."
                if axis.startswith(CARRIED_OUT):
                    text += " How a training is carried out decides no weights."
                found[("grid", axis, now), text] = None
        cells.append(Cell(key, shown, config))
    return tuple(cells)


def _varying_fields(configs: Sequence[TrialConfig], axes: Sequence[str]) -> dict[str, list[str]]:
    """Return, for each kind of model, the fields that its label must show."""
    values: dict[str, dict[str, set[str]]] = {}
    for config in configs:
        for field, value in config.as_asked()["model"].items():
            of_kind = values.setdefault(config.model.kind, {})
            of_kind.setdefault(field, set()).add(repr(value))
    return {
        kind: [
            field
            for field, seen in fields.items()
            if field == MODEL_CONFIGS[kind].headline
            or (len(seen) > 1 and f"model.{field}" not in axes)
        ]
        for kind, fields in values.items()
    }


def _model_label(config: TrialConfig, varying: Mapping[str, Sequence[str]]) -> str:
    kind, asked = config.model.kind, config.as_asked()["model"]
    parts = [
        f"{asked[field]}" if field == config.model.headline else f"{field}={asked[field]}"
        for field in varying[kind]
        if field in asked
    ]
    return f"{kind}({', '.join(parts)})" if parts else kind


def _show(value: Any) -> str:
    if isinstance(value, dict):
        shown = ", ".join(f"{key}={_show(each)}" for key, each in value.items() if key != "kind")
        kind = value.get("kind", "")
        return f"{kind}({shown})" if shown or not kind else str(kind)
    return describe(value) if isinstance(value, list) else str(value)
