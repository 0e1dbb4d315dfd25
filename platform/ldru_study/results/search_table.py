"""What every search of a study has tried, as rows for people: settings, objectives, the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldru_study.errors import NotFoundError, OtherVersionError
from ldru_study.results.facts import read_facts
from ldru_study.results.searches import holdings_for, suggested_trials
from ldru_study.results.store import Store
from ldru_study.spec.plan import PlannedSearch, StudyPlan, plan_study
from ldru_study.spec.resolved import renamed_cells
from ldru_study.spec.study import StudySpec, parse_study
from ldru_study.spec.suggestions import pareto_front


@dataclass(frozen=True)
class SearchRow:
    """One setting that a search tried.

    ``values`` are its objectives, None where the trial did not end well; ``on_front`` when no
    other is at least as good in every objective; ``is_winner`` when the cell's seeds run with it.
    """

    cell: str
    number: int
    state: str
    params: Mapping[str, Any]
    values: Sequence[float] | None
    on_front: bool
    is_winner: bool


def stored_study(store: Store, name: str) -> StudySpec:
    """Return a study as it was last submitted.

    Raises:
        NotFoundError: the store holds no such study.
        SpecError: this version cannot read it any more.
    """
    changes = store.study(name)["changes"]
    return parse_study(store.spec_text(name), name, changes, is_stored=True)


def refuse_renamed(store: Store, name: str, plan: StudyPlan) -> None:
    """Refuse a stored study whose trials this version does not find again.

    Raises:
        OtherVersionError: names the cells.
    """
    cells = renamed_cells(store.study(name), plan)
    if cells:
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        raise OtherVersionError(
            f"{name}: {', '.join(cells[:3])}{more}: submitted by another version, which named "
            "trials otherwise or drew the task's strings otherwise. What they answered is kept "
            "and judged as it was. Go on with that version, or train them anew with submit."
        )


def read_searches(store: Store, name: str) -> tuple[StudySpec, tuple[PlannedSearch, ...]]:
    """Return a study and its searches, with every result that is committed.

    Raises:
        NotFoundError: the store holds no such study, or it searches nothing.
        StoreError: the store cannot be read.
        OtherVersionError: see `refuse_renamed`.
    """
    spec = stored_study(store, name)
    if spec.file.search is None:
        raise NotFoundError(f"{name}: has no search. Add 'search:' to its file.")
    facts = read_facts(store, suggested_trials(store, spec))
    held = holdings_for(store, facts, spec)
    plan = plan_study(spec, held)
    refuse_renamed(store, name, plan)
    searches = (planned.search for planned in plan.cells)
    return spec, tuple(search for search in searches if search is not None)


def rows_of(searches: Sequence[PlannedSearch]) -> list[SearchRow]:
    """Return every suggestion, cell by cell, in the order they were made."""
    found = []
    for search in searches:
        done = [one for one in search.suggestions if one.values is not None]
        fronts = pareto_front([one.values or () for one in done])
        on_front = {one.number for one, is_on in zip(done, fronts, strict=True) if is_on}
        winner = search.winner
        found += [
            SearchRow(
                search.cell.key,
                one.number,
                one.state,
                one.params,
                one.values,
                one.number in on_front,
                winner is not None and one.number == winner.number,
            )
            for one in search.suggestions
        ]
    return found
