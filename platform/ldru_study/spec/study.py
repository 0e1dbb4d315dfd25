"""A study file as data: its fields, its grid and the cells that they span."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema, model_validator

from ldru_study.errors import SpecError
from ldru_study.spec.engine import DeepSpeedEngine
from ldru_study.spec.grid import CARRIED_OUT, Cell, expand
from ldru_study.spec.paths import Place, describe, format_place, parse_place, set_place
from ldru_study.spec.problems import problems_of
from ldru_study.spec.search import SearchConfig
from ldru_study.spec.strict import Strict
from ldru_study.spec.suggestions import corners, lay_over, space_of
from ldru_study.spec.trial import Count, Positive, TrialConfig
from ldru_study.spec.yaml_file import YamlFile, parse_scalar, parse_yaml, read_yaml


def _as_seeds(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, list, tuple)):
        raise ValueError(
            f"wants a number of seeds or a list of them such as [0, 1, 2], found {describe(value)}"
        )
    if isinstance(value, int):
        if not 1 <= value <= 100_000:
            raise ValueError(f"wants at least 1 and at most 100000 seeds, found {value}")
        return tuple(range(value))
    if repeated := sorted({seed for seed in value if value.count(seed) > 1}, key=str):
        raise ValueError(f"repeats {', '.join(map(str, repeated))}. Give each seed once")
    return tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def as_seconds(value: Any) -> Any:
    """Read a duration with its units, such as 2h30m, 90m or 45s, as seconds."""
    match = _DURATION.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    if match is None or not any(match.groups()):
        raise ValueError(f"wants a duration such as 2h30m, 90m or 45s, found {describe(value)}")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(3600 * hours + 60 * minutes + seconds)


# seconds to the code, a text with units in a file
Duration = Annotated[
    float,
    Field(gt=0),
    BeforeValidator(as_seconds),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+h)?(\d+m)?(\d+s)?$"}),
]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})(?: by (\d{1,9}))?")


def _as_lengths(value: Any) -> Any:
    """Read ranges such as 42..500 or 41..500 by 17, ends included, among single lengths."""
    if not isinstance(value, (list, tuple)):
        return value
    lengths: list[Any] = []
    for each in value:
        if not isinstance(each, str):
            lengths.append(each)
            continue
        match = _RANGE.fullmatch(each)
        low, high, step = (int(part or 1) for part in match.groups()) if match else (1, 0, 1)
        if not 1 <= low <= high or not step:
            raise ValueError(
                "wants lengths such as 63, or ranges of them such as 42..500 or 41..500 by 17, "
                f"found {describe(each)}"
            )
        if (high - low) // step >= _MAX_LENGTHS:
            raise ValueError(
                f"{each} has more than {_MAX_LENGTHS} lengths. Give a step: {low}..{high} by "
                f"{-(-(high - low) // 100)}"
            )
        lengths += range(low, high + 1, step)
    return tuple(lengths)


_MAX_LENGTHS = 10_000
# whole numbers to the code
Lengths = Annotated[
    tuple[Count, ...],
    BeforeValidator(_as_lengths),
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "integer", "minimum": 1},
                    {"type": "string", "pattern": r"^\d{1,9}\.\.\d{1,9}( by \d{1,9})?$"},
                ]
            },
        }
    ),
]


class EvaluateConfig(Strict):
    """What is asked of a trained model; decides no weights, so it can change at any time."""

    multiples: Annotated[tuple[Positive, ...], BeforeValidator(_as_tuple)] = Field(
        (1, 1.5, 2, 3, 4, 6, 8, 12.5, 25, 50, 100),
        description="test lengths as multiples of train.max_length",
    )
    lengths: Lengths = Field(
        (), description="further test lengths in tokens, single or as ranges: 42..500 by 2"
    )
    strings: Count = Field(1024, description="strings per test length")
    seed: Seed = Field(0, description="of the test strings; every model sees the same ones")
    validation_strings: Count = Field(512, description="in-distribution strings, at log steps")

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.multiples and not self.lengths:
            raise ValueError("multiples and lengths are both empty: nothing would be evaluated")
        return self


class ResourcesConfig(Strict):
    """What one worker of a trial takes of the machine; fractions share a device.

    A trial has ``train.sequence_parallel`` times ``train.data_parallel`` workers: most have one.
    """

    cpus: Annotated[float, Field(gt=0, le=1024)] = 1
    gpus: Annotated[float, Field(ge=0, le=64)] = 0


class AnalysisConfig(Strict):
    """Where the verdicts draw their lines; see the report for what each means."""

    sharp_ratio: Annotated[float, Field(gt=1)] = Field(
        2.0, description="a failure is sharp when accuracy falls within this ratio of multiples"
    )
    learned_level: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9,
        description="accuracy in distribution, of 0 at chance and 1 without a mistake, below which "
        "a seed never learned the task; 0.9 is 95 % right of two balanced classes",
    )
    near_perfect: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.99,
        description="accuracy that the claim at 2x and 3x asks for, and the share of what it has "
        "in distribution that a curve must keep to hold",
    )


class BudgetConfig(Strict):
    """What a study may cost; once it is spent, submit ends with exit code 5 and can go on later."""

    trials: Count | None = Field(None, description="trials of this study, all submits together")
    gpu_hours: Positive | None = Field(
        None, description="hours times resources.gpus, all submits together"
    )
    wall_clock: Duration | None = Field(None, description="of one submit, such as 90m or 2h30m")


class Override(Strict):
    """Settings for the cells that match: ``when`` a field has a value, ``set`` others."""

    when: Annotated[dict[str, Any], Field(min_length=1)]
    set: Annotated[dict[str, Any], Field(min_length=1)]


class StudyFile(Strict):
    """Every field of a study file. The trial's own fields are validated cell by cell."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    question: str = Field("", description="what the study asks, in one sentence")
    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="axes; every combination of values is a cell"
    )
    task: Any = None
    sampling: Any = None
    model: Any = None
    train: dict[str, Any] = Field(default_factory=dict)
    overrides: tuple[Override, ...] = Field((), strict=False)
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_as_seeds), Field(min_length=1)] = (0,)
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: ResourcesConfig = ResourcesConfig()
    analysis: AnalysisConfig = AnalysisConfig()
    search: SearchConfig | None = None
    budget: BudgetConfig = BudgetConfig()
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        2, description="further attempts after a worker died"
    )
    checkpoint_every_s: Positive = Field(20, description="seconds between checkpoints of a trial")
    trial_timeout_s: Positive | None = Field(
        None,
        description="seconds that one attempt at a trial may take; then it is saved and ends as "
        "timed_out, and the next submit continues it; null: no limit",
    )


@dataclass(frozen=True)
class StudySpec:
    """A valid study: the file's fields, the cells of its grid, and the text that was given.

    ``changes`` are the ``--set`` arguments that were applied to the text.
    """

    file: StudyFile
    cells: tuple[Cell, ...]
    text: str
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The study's name, which is also its folder in the store."""
        return self.file.name


def load_study(path: Path, changes: Sequence[str] = ()) -> StudySpec:
    """Read, change and validate a study file.

    Args:
        path: a YAML file.
        changes: ``place=value`` settings applied before validation, values in YAML.

    Raises:
        NotFoundError: there is no such file.
        SpecError: every problem of the file and of the changes, in one error.
    """
    return _changed_study(read_yaml(path), changes)


def parse_study(
    text: str, source: str, changes: Sequence[str] = (), *, is_stored: bool = False
) -> StudySpec:
    """Return the study in a text; ``source`` says where it is from. See `load_study`.

    Of one that is stored it is no problem that axes or overrides overrule a field: versions that
    did not refuse this have submitted such studies.
    """
    return _changed_study(parse_yaml(text, source), changes, is_stored=is_stored)


def _changed_study(file: YamlFile, changes: Sequence[str], *, is_stored: bool = False) -> StudySpec:
    content, problems = _changed(file.content, changes)
    if problems:
        raise SpecError(file.source, problems)
    return validate_study(content, file, tuple(changes), is_stored=is_stored)


def validate_study(
    content: dict[str, Any],
    file: YamlFile,
    changes: tuple[str, ...] = (),
    *,
    is_stored: bool = False,
) -> StudySpec:
    """Validate a study's content; see `parse_study`, and `load_study` for what is raised."""
    found: list[tuple[Place, str]] = []
    changed = [parse_place(change.partition("=")[0].strip()) for change in changes]
    frame = None
    try:
        frame = StudyFile.model_validate(content)
    except ValidationError as error:
        found += problems_of(error, StudyFile)
    bad = {place[0] for place, _ in found if place}
    cells: tuple[Cell, ...] = ()
    # the cells can be judged as long as the fields that span them have the right types
    if not bad & {"grid", "train", "overrides"}:
        usable = frame or StudyFile.model_validate(
            {"name": "unnamed"} | {key: content[key] for key in _SPANNING if key in content}
        )
        cells, problems = expand(
            {key: value for key in _BASE if (value := getattr(usable, key)) is not None},
            usable.grid,
            [(rule.when, rule.set) for rule in usable.overrides],
            changed,
            is_stored=is_stored,
        )
        found += problems
    if frame is not None:
        found += _budget_problems(frame) + _device_problems(frame, cells)
        if frame.search is not None and cells:
            found += _search_problems(frame.search, cells)
    if found or frame is None:
        raise SpecError(file.source, [_line(place, text, file, changed) for place, text in found])
    return StudySpec(frame, cells, file.text, changes)


def _budget_problems(frame: StudyFile) -> list[tuple[Place, str]]:
    if frame.budget.gpu_hours is None or frame.resources.gpus:
        return []
    text = "a trial takes no GPU, so no hour is ever spent. Set resources.gpus, or drop it."
    return [(("budget", "gpu_hours"), text)]


def _device_problems(frame: StudyFile, cells: Sequence[Cell]) -> list[tuple[Place, str]]:
    """Return what the engines of the cells want and a CPU has not."""
    if frame.resources.gpus:
        return []
    found: dict[tuple[Place, str], None] = {}
    for cell in cells:
        engine = cell.config.train.engine
        if engine.precision == "fp16":
            text = f"in {cell.key}: fp16 runs on GPUs only. Use bf16 or fp32, or set resources.gpus"
            found[("train", "engine", "precision"), f"{text}."] = None
        if isinstance(engine, DeepSpeedEngine) and engine.offload == "cpu":
            text = f"in {cell.key}: without a GPU everything is on the CPU already. Use none"
            found[("train", "engine", "offload"), f"{text}, or set resources.gpus."] = None
    return list(found)


def _search_problems(search: SearchConfig, cells: Sequence[Cell]) -> list[tuple[Place, str]]:
    """Return what of a space fits no cell, or not the field that it is for."""
    found: dict[tuple[Place, str], None] = {}
    unused = set(search.space)
    for cell in cells:
        space = space_of(cell.config, search)
        unused -= set(space)
        for path in space:
            if path.startswith(CARRIED_OUT) and path != "train.engine.precision":
                text = "decides how a training is carried out, no weights: nothing to search for"
                found[("search", "space", path), f"{text}. Set it in train."] = None
        for path, value in corners(space):
            # what it depends on must hold, or the field may not even exist
            needed = {
                key: wanted[0] if isinstance(wanted, list) else wanted
                for key, wanted in (space[path].when or {}).items()
            }
            try:
                lay_over(cell.config, needed | {path: value})
            except ValidationError as error:
                for _, text in problems_of(error, TrialConfig):
                    found[("search", "space", path), f"in {cell.key}: {text}"] = None
                break
            except ValueError as error:
                found[("search", "space", path), f"{error}."] = None
    for path in sorted(unused):
        found[("search", "space", path, "when"), "holds in no cell. Mend or drop it."] = None
    return list(found)


_BASE = ("task", "sampling", "model", "train")
_SPANNING = (*_BASE, "grid", "overrides")


def _line(place: Place, text: str, file: YamlFile, changed: Sequence[Place]) -> str:
    if any(place[: len(change)] == change for change in changed):
        return f"{format_place(place)} (--set): {text}"
    known = next((place[:n] for n in range(len(place), 0, -1) if place[:n] in file.lines), None)
    where = format_place(place) or "the file"
    return f"{where} (line {file.lines[known]}): {text}" if known else f"{where}: {text}"


def _changed(content: dict[str, Any], changes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    problems = []
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            problems.append(f"--set {change}: no '='. Write --set place=value.")
            continue
        try:
            content = set_place(content, parse_place(key.strip()), parse_scalar(value))
        except yaml.YAMLError:
            problems.append(f"--set {change}: {value!r} is not YAML. Quote the whole argument.")
        except ValueError as error:
            problems.append(f"--set {change}: {error}.")
    return content, problems
