"""The two sides of a comparison, picked from stores by name, and its result as text."""

from __future__ import annotations

from collections.abc import Callable

from ldru_study.analysis.collect import collect
from ldru_study.analysis.compare import Comparison, Paired
from ldru_study.analysis.counts import CellCurves
from ldru_study.errors import NotFoundError, StudyError, unknown_name
from ldru_study.results.store import Store

COLUMNS = ("task", "pairs", "A - B", "95 %", "p", "p (Holm)")


def pick_model(store: Store, side: str, study_of: Callable[[str], str]) -> list[CellCurves]:
    """Return the cells of ``STUDY:MODEL``, or of ``STUDY`` when it has a single model.

    Args:
        store: where the study is.
        side: as given by the user.
        study_of: turns the path of a study file into the study's name.

    Raises:
        NotFoundError: the store holds no such study, or the study no such model.
        StudyError: the study has several models and none is named.
    """
    cells = pick_cells(store, side, study_of)
    models = _models(cells)
    if len(models) > 1:
        known = ", ".join(models)
        example = f"{side}:{models[0]}"
        raise StudyError(f"{side}: the study has several models: {known}. Write '{example}'.")
    return cells


def pick_cells(store: Store, side: str, study_of: Callable[[str], str]) -> list[CellCurves]:
    """Return the cells of ``STUDY:MODEL``, or all of ``STUDY``; see `pick_model`.

    Raises:
        NotFoundError: the store holds no such study, or the study no such model.
    """
    study, _, model = side.partition(":")
    cells = list(collect(store, study_of(study)).cells)
    if not model:
        return cells
    if model not in (models := _models(cells)):
        raise NotFoundError(f"{side}: {unknown_name('model of the study', model, models)}")
    return [cell for cell in cells if cell.model == model]


def _models(cells: list[CellCurves]) -> list[str]:
    return list(dict.fromkeys(cell.model for cell in cells))


def comparison_rows(found: Comparison) -> list[list[str]]:
    """Return one row per task, and one for all when there are several."""
    rows = [_row(one.task or "", one) for one in found.tasks]
    return [*rows, _row("all tasks", found.overall)] if len(rows) > 1 else rows


def _row(name: str, one: Paired) -> list[str]:
    interval = "-"
    if one.lower is not None and one.upper is not None:
        interval = f"{one.lower:+.3f} to {one.upper:+.3f}"
    mark = "" if one.is_exact else "~"
    holm = "" if one.p_holm is None else f"{mark}{one.p_holm:.3g}"
    return [
        name,
        str(one.num_pairs),
        f"{one.effect:+.3f}",
        interval,
        f"{mark}{one.p_value:.3g}",
        holm,
    ]
