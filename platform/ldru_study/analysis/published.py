"""Our figures beside published ones: means over the same lengths, and what else differs.

The figures and where they are from stand in ``published.yaml`` beside this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, reduce
from importlib.resources import files
from typing import Any

import numpy as np

from ldru_study.analysis.counts import CellCurves
from ldru_study.spec.paths import get_place, parse_place
from ldru_study.spec.yaml_file import parse_yaml
from ldru_study.tasks.samplers import sampler_of

COLUMNS = ("task", "model", "ours", "seeds", "over lengths", "published", "source", "differs")


@dataclass(frozen=True)
class Figure:
    """A published accuracy.

    Args:
        model: fields that a cell's model must have.
        accuracy: a mean over test lengths, in 0..1; a lower bound if ``is_bound``.
        is_bound: whether only a bound was published.
        title: of the source.
        lengths: the shortest and the longest test length of the mean.
        settings: dotted path of a trial's field -> what is known of it.
        unlike: why it cannot be set beside a mean over lengths; '' if it can.
    """

    model: Mapping[str, Any]
    accuracy: float
    is_bound: bool
    title: str
    lengths: tuple[int, int]
    settings: Mapping[str, Any]
    unlike: str


@dataclass(frozen=True)
class Compared:
    """A cell beside its figure; accuracies in 0..1, lengths in tokens.

    Args:
        mean: over the seeds, of each seed's mean accuracy over the lengths.
        lowest: the lowest seed's.
        highest: the highest seed's.
        shortest: the shortest of the cell's test lengths in the published range.
        longest: the longest of them.
        num_lengths: how many there are, at which every seed was tested.
        num_published: how many lengths of the range the cell's sampling has.
        published: the figure, a lower bound if ``is_bound``.
        differs: what else is not as published, one text each.
    """

    task: str
    model: str
    cell: str
    mean: float
    lowest: float
    highest: float
    num_seeds: int
    shortest: int
    longest: int
    num_lengths: int
    num_published: int
    published: float
    is_bound: bool
    source: str
    differs: tuple[str, ...]


@cache
def published_figures() -> Mapping[str, tuple[Figure, ...]]:
    """Return the figures by task, in the order of the file."""
    text = files("ldru_study.analysis").joinpath("published.yaml").read_text(encoding="utf-8")
    content = parse_yaml(text, "published.yaml").content
    found: dict[str, tuple[Figure, ...]] = {}
    for raw in content["figures"]:
        source = content["sources"][raw["source"]]
        first, _, last = source["lengths"].partition("..")
        figure = Figure(
            model=raw["model"],
            accuracy=raw.get("accuracy", raw.get("at_least")) / 100,
            is_bound="at_least" in raw,
            title=source["title"],
            lengths=(int(first), int(last)),
            settings=source["settings"] | raw.get("settings", {}),
            unlike=raw.get("unlike", ""),
        )
        for task in raw["tasks"]:
            found[task] = (*found.get(task, ()), figure)
    return found


def beside_published(cells: Iterable[CellCurves]) -> tuple[list[Compared], dict[str, str]]:
    """Return each cell beside its published figure, and why the other cells have none.

    Args:
        cells: of one study, with their configurations.

    Returns:
        The comparisons in the order of the cells, and cell -> reason.
    """
    found: list[Compared] = []
    left_out: dict[str, str] = {}
    for cell in cells:
        try:
            found.append(_compared(cell))
        except LookupError as error:
            left_out[cell.key] = str(error.args[0])
    return found, left_out


def _compared(cell: CellCurves) -> Compared:
    figure = _figure_of(cell)
    first, last = figure.lengths
    if not cell.curves:
        raise LookupError("no seed has been tested yet")
    shared = reduce(np.intersect1d, [curve.lengths for curve in cell.curves])
    lengths = shared[(first <= shared) & (shared <= last)]
    if not lengths.size:
        raise LookupError(
            f"no length from {first} to {last}, over which the published figure is a mean, "
            "was tested at every seed"
        )
    means = [float(c.accuracy[np.isin(c.lengths, lengths)].mean()) for c in cell.curves]
    sampler = sampler_of(cell.config["task"], cell.config["sampling"])
    return Compared(
        task=cell.task,
        model=cell.label,
        cell=cell.key,
        mean=float(np.mean(means)),
        lowest=min(means),
        highest=max(means),
        num_seeds=len(means),
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        num_lengths=len(lengths),
        num_published=len(sampler.covered_lengths(first, last)),
        published=figure.accuracy,
        is_bound=figure.is_bound,
        source=figure.title,
        differs=_differences(cell, figure),
    )


def _figure_of(cell: CellCurves) -> Figure:
    """Return the figure of a cell; LookupError says why there is none."""
    of_task = published_figures().get(str(cell.config["task"]), ())
    if not of_task:
        raise LookupError("no figure of this task is on record")
    model = cell.config["model"]
    fitting = [f for f in of_task if all(model.get(k) == v for k, v in f.model.items())]
    if not fitting:
        raise LookupError("no figure of this model on this task is on record")
    figure = fitting[0]
    if figure.unlike:
        raise LookupError(f"the published figure is no mean over lengths: {figure.unlike}")
    ours, theirs = cell.config["train"]["max_length"], figure.settings["train.max_length"]
    if ours != theirs:
        raise LookupError(f"trained up to length {ours}, the published figure up to {theirs}")
    return figure


def _differences(cell: CellCurves, figure: Figure) -> tuple[str, ...]:
    found = []
    for path, theirs in figure.settings.items():
        ours = get_place(cell.config, parse_place(path))
        if ours != theirs:
            found.append(f"{path} {ours}, not {theirs}")
    if cell.failed:
        found.append(f"seeds that failed: {len(cell.failed)}")
    return tuple(found)


def published_rows(found: Sequence[Compared]) -> list[list[str]]:
    """Return the rows of a table with `COLUMNS`."""
    return [
        [
            one.task,
            one.model,
            f"{_percent(one.mean)} % ({_percent(one.lowest)}..{_percent(one.highest)})",
            str(one.num_seeds),
            _lengths(one),
            f"{'>= ' if one.is_bound else ''}{100 * one.published:g} %",
            one.source,
            "; ".join(one.differs),
        ]
        for one in found
    ]


def published_json(one: Compared) -> dict[str, Any]:
    """Return a comparison as plain data."""
    return asdict(one)


def _percent(accuracy: float) -> str:
    # no rounding up to a perfect score
    return f"{np.floor(1e4 * accuracy) / 100:g}"


def _lengths(one: Compared) -> str:
    span = f"{one.shortest}..{one.longest}"
    if one.num_lengths == one.num_published:
        return f"{span}, all {one.num_lengths}"
    return f"{span}, {one.num_lengths} of {one.num_published}"
