"""Read-only SQL over a store: DuckDB on tables in memory, shut off from everything else."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ldru_study.results.facts import Facts, read_facts
from ldru_study.results.rows import number_trials, number_values, only_newest
from ldru_study.results.schema import EVALUATIONS, QUESTION
from ldru_study.results.sql import QueryError, explain, tables_of
from ldru_study.results.store import DamagedFileError, Store
from ldru_study.results.table import Damage
from ldru_study.spec.model_size import size_of
from ldru_study.spec.plan import Question

Derived = Callable[["Database"], pa.Table]
_Found = TypeVar("_Found")


class Database:
    """A store as SQL tables.

    ``trials`` has one row per study and trial (with ``model`` and ``train`` as structs, so that
    ``model.width`` and ``train.learning_rate`` work; ``num_parameters`` and ``flops_per_token`` are
    null where this version does not know the model, see `ModelSize`), ``evaluations`` one per
    study, trial and test length, in no order, ``metrics`` one per trial and measured step,
    ``attempts`` one per start and end, ``suggestions`` one per setting that a search tried,
    ``refinements`` one per length that `refine` asked for. The trials of a search have their number
    in ``suggestion``, and no evaluations: no model is judged by them. ``chosen_by`` says whether a
    search chose a trial's settings, and whether on lengths that judge (``oracle``).

    ``studies`` maps the name of every study to its resolved form, ``damage`` names what was left
    out.

    Args:
        store: what is read; the database holds its rows in memory and never writes.
        studies: the studies that are in it, with their trials; files that hold nothing of theirs
            are not read. None: all of the store.
        derived: further tables by name, each computed when a query first names it.

    Raises:
        NotFoundError: a study that was named is not there.
        StoreError: the store cannot be read, or a study that was named is damaged.
    """

    def __init__(
        self,
        store: Store,
        studies: Sequence[str] | None = None,
        derived: Mapping[str, Derived] | None = None,
    ) -> None:
        self.studies, damage = _studies(store, studies)
        searches = None if studies is None else _search_ids(self.studies)
        suggestions, more = store.read("suggestions", searches)
        wanted = None if studies is None else _trial_ids(self.studies, suggestions)
        self.facts = facts = read_facts(store, wanted)
        self._tables = {"suggestions": suggestions}
        self.damage: tuple[Damage, ...] = (*facts.damage, *damage, *more)
        for table in ("metrics", "refinements"):
            self._tables[table], more = store.read(table, wanted)
            self.damage += tuple(more)
        self._trials, self._configs, self._asked = _trials(self.studies, facts, suggestions)
        self._derived = dict(derived or {})
        # what no query asks for is never computed
        self._makers: dict[str, Callable[[], None]] = {
            "trials": self._make_trials,
            "evaluations": self._make_evaluations,
            "metrics": self._make_metrics,
            "attempts": lambda: self._add("attempts", _sorted(facts.attempts, "attempt_id")),
            **{name: self._adder(name) for name in ("suggestions", "refinements")},
            **{name: self._deriver(name) for name in self._derived},
        }
        self.views = tuple(sorted(self._makers))
        # a query that does not fit into memory ends; without this it would write beside itself
        self._connection = duckdb.connect(":memory:", config=_SHUT_OFF)
        for setting, value in _LOCKED:
            self._connection.execute(f"set {setting} = {value}")

    def sql(self, query: str) -> pa.Table:
        """Run one read-only query; Ctrl-C ends it.

        Raises:
            QueryError: DuckDB refuses it, or it is not a single SELECT over tables of the store.
        """
        names: frozenset[str] = frozenset()
        try:
            names = tables_of(self._connection, query)
            self._make(names)
            return self._interruptible(lambda: self._connection.sql(query).to_arrow_table())
        except duckdb.Error as error:
            columns = {name: self._columns(name) for name in sorted(names) if name in self.views}
            message = explain(str(error), columns, self.views)
            raise QueryError(f"query: {message}") from None

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of our own query; ``$name`` in it stands for a parameter."""
        self._make(tables_of(self._connection, query))
        result: pa.Table = self._connection.sql(query, params=parameters).to_arrow_table()
        found: list[dict[str, Any]] = result.to_pylist()
        return found

    def interrupt(self) -> None:
        """Stop a query that runs in another thread."""
        self._connection.interrupt()

    def _interruptible(self, work: Callable[[], _Found]) -> _Found:
        # Ctrl-C is heard in this thread alone, and only while it waits
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            try:
                return future.result()
            except KeyboardInterrupt:
                self.interrupt()
                raise

    def _make(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            if make := self._makers.get(name):
                make()
                self._makers[name] = _nothing

    def _columns(self, view: str) -> list[str]:
        return list(self._connection.sql(f"from {view} limit 0").columns)

    def _add(self, name: str, rows: pa.Table) -> None:
        self._connection.register(name, rows)

    def _adder(self, name: str) -> Callable[[], None]:
        return lambda: self._add(name, self._tables[name])

    def _deriver(self, name: str) -> Callable[[], None]:
        return lambda: self._add(name, self._derived[name](self))

    def _make_trials(self) -> None:
        sizes = [size_of(config) for config in self._configs]
        found = self._trials
        for name in _SIZES:
            of_config = pa.array([size and getattr(size, name) for size in sizes], _COUNT)
            found = found.append_column(name, of_config.take(found["number"]))
        self._add("trials", found.select(_TRIAL_COLUMNS))

    def _make_metrics(self) -> None:
        rows = only_newest(self._tables["metrics"], ("step",))
        self._add("metrics", _sorted(rows, "trial_id", "step"))

    def _make_evaluations(self) -> None:
        """Join the rows that count with the trials and questions of every study, by numbers.

        Every cell (and, for what `refine` asks, every trial) has as many keys as there are
        questions, so that "is this asked?" is one look-up of one number.
        """
        rows = self.facts.current
        trial, trial_ids = number_trials(rows)
        question, number_of = _number_questions(rows)
        size = len(number_of)
        asked = [cell * size + number_of[q] for cell, q in self._asked if q in number_of]
        trials = self._trials
        places = pc.index_in(trials["trial_id"], trial_ids)
        judged = trials.select(_ROW).append_column("_trial", places)
        for name, numbers in (("_cell", trials["_cell"]), ("_row", pa.array(range(len(trials))))):
            judged = judged.append_column(name, pc.multiply(numbers, size).cast(pa.int64()))
        judged = judged.filter(pc.is_null(trials["suggestion"]))
        refined = self._refined(size, number_of)
        tables = {
            "_answers": rows.drop_columns(["trial_id"])
            .append_column("_trial", trial)
            .append_column("_question", question),
            "_judged": judged,
            "_asked": pa.table({"key": pa.array(asked, pa.int64())}),
            "_refined": pa.table({"key": pa.array(refined, pa.int64())}),
        }
        for name, table in tables.items():
            self._add(name, table)
        is_refined = " or _row + _question in (from _refined)" if refined else ""
        self._connection.execute(f"create view evaluations as {_EVALUATIONS}{is_refined}")

    def _refined(self, size: int, number_of: Mapping[Question, int]) -> list[int]:
        names = zip(
            *(self._trials[name].to_pylist() for name in ("study", "trial_id")), strict=True
        )
        rows = {name: number for number, name in enumerate(names)}
        found = []
        for row in self._tables["refinements"].to_pylist():
            place = rows.get((row["study"], row["trial_id"]))
            question = number_of.get(Question(*(row[name] for name in QUESTION)))
            if place is not None and question is not None:
                found.append(place * size + question)
        return found


# a query has neither files nor extensions nor a say in either
_SHUT_OFF: dict[str, str | bool | int | float | list[str]] = {
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}
_LOCKED = (
    ("enable_external_access", "false"),
    ("python_enable_replacements", "false"),
    # DuckDB would draw it on stdout, in front of JSON
    ("enable_progress_bar", "false"),
    ("lock_configuration", "true"),
)

_ROW = ("study", "cell", "task", "model_label", "chosen_by", "seed", "trial_id")
_COUNTS = [name for name in EVALUATIONS.names if name not in ("trial_id", "attempt_id")]
# the rows that some study asks for, with the study's and the trial's names
_EVALUATIONS = f"""
    select {", ".join(_ROW)}, {", ".join(_COUNTS)},
        num_correct / num_total as accuracy, attempt_id
    from _answers join _judged using (_trial)
    where _cell + _question in (from _asked)
"""


def _nothing() -> None:
    """Make nothing: it is there."""


def _sorted(rows: pa.Table, *columns: str) -> pa.Table:
    return rows.sort_by([(column, "ascending") for column in columns])


def _number_questions(rows: pa.Table) -> tuple[pa.ChunkedArray, dict[Question, int]]:
    """Return the number of each row's question, int64, and the numbers of those that may be."""
    key = pa.chunked_array([np.zeros(len(rows), dtype=np.int64)])
    questions: list[tuple[int, ...]] = [()]
    for name in QUESTION:
        numbers, values = number_values(rows[name])
        key = pc.add(pc.multiply(key, len(values)), numbers)
        questions = [(*one, value) for one in questions for value in values.to_pylist()]
    return key, {Question(*one): number for number, one in enumerate(questions)}


def _search_ids(studies: Mapping[str, Mapping[str, Any]]) -> set[str]:
    cells = [cell for resolved in studies.values() for cell in resolved["cells"]]
    return {cell["search"]["search_id"] for cell in cells if cell.get("search")}


def _trial_ids(studies: Mapping[str, Mapping[str, Any]], suggestions: pa.Table) -> set[str]:
    """Return every trial that some of ``studies`` names, those of its searches included."""
    found = {row["trial_id"] for rows in _suggested(suggestions).values() for row in rows}
    return found.union(
        *(cell["trial_ids"] for resolved in studies.values() for cell in resolved["cells"])
    )


def _studies(
    store: Store, names: Sequence[str] | None
) -> tuple[dict[str, dict[str, Any]], list[Damage]]:
    """Return the resolved form of every study, and the damaged ones."""
    if names is not None:
        return {name: store.study(name) for name in names}, []
    found: dict[str, dict[str, Any]] = {}
    damage: list[Damage] = []
    for name in store.studies():
        try:
            found[name] = store.study(name)
        except DamagedFileError as error:
            damage.append(error.damage)
    return found, damage


def _trials(
    studies: Mapping[str, Mapping[str, Any]], facts: Facts, suggestions: pa.Table
) -> tuple[pa.Table, list[dict[str, Any]], list[tuple[int, Question]]]:
    """Return one row per study and trial, their configurations, and the questions that cells ask.

    Cells are numbered over all studies; a trial has its cell's number in ``_cell``, and that of its
    configuration in ``number``.
    """
    configs: list[dict[str, Any]] = []
    asked: list[tuple[int, Question]] = []
    trials: list[tuple[Any, ...]] = []
    suggested = _suggested(suggestions)
    num_cells = 0

    def add(
        trial_id: str, seed: int, questions: frozenset[Question], suggestion: int | None
    ) -> None:
        state, cause = facts.state_of(trial_id, questions)
        num_attempts = len(facts.started.get(trial_id, ()))
        about = (len(configs), num_cells, trial_id, seed)
        trials.append((*about, state, cause, num_attempts, suggestion))

    for study, resolved in studies.items():
        for cell in resolved["cells"]:
            search = cell.get("search")
            names = {"study": study, "cell": cell["cell"], "model_label": cell["axes"]["model"]}
            names |= {"chosen_by": search and ("oracle" if search["is_oracle"] else "search")}
            for row in suggested.get(search["search_id"], ()) if search else ():
                config = json.loads(row["config"])
                add(row["trial_id"], config["seed"], _questions(search), row["number"])
                configs.append(names | config)
            questions = _questions(cell)
            asked += [(num_cells, question) for question in questions]
            for seed, trial_id in zip(resolved["seeds"], cell["trial_ids"], strict=False):
                add(trial_id, seed, questions, None)
            configs.append(names | cell["config"])
            num_cells += 1
    about = pa.Table.from_pylist(configs) if configs else _NO_CELLS.empty_table()
    found = _table(trials, _TRIALS)
    for name, column in zip(about.column_names, about.take(found["number"]), strict=True):
        if name not in found.column_names:
            # a column of nothing but None has no type of its own
            typed = column.cast(_TEXT) if pa.types.is_null(column.type) else column
            found = found.append_column(name, typed)
    return found, configs, asked


def _suggested(suggestions: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Return the suggestions of every search that are trials, in order."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    columns = suggestions.select(["search_id", "number", "trial_id", "config"])
    for row in columns.to_pylist():
        if row["config"] is not None:
            found.setdefault(row["search_id"], {})[row["number"]] = row
    return {key: [rows[number] for number in sorted(rows)] for key, rows in found.items()}


def _questions(of: Mapping[str, Any]) -> frozenset[Question]:
    return frozenset(Question(*question) for question in of["questions"])


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )


_TEXT, _COUNT = pa.string(), pa.int64()
_TRIALS = pa.schema(
    [
        ("number", _COUNT),
        ("_cell", _COUNT),
        ("trial_id", _TEXT),
        ("seed", _COUNT),
        ("state", _TEXT),
        ("cause", _TEXT),
        ("num_attempts", _COUNT),
        ("suggestion", _COUNT),
    ]
)
_NO_CELLS = pa.schema(
    [(name, _TEXT) for name in ("study", "cell", "model_label", "chosen_by", "task", "sampling")]
    + [("model", pa.struct([("kind", _TEXT)])), ("train", pa.struct([("max_length", _COUNT)]))]
)
_SIZES = ("num_parameters", "flops_per_token")
_TRIAL_COLUMNS = (
    *("study", "cell", "trial_id", "task", "sampling", "model_label", "model", "train"),
    *_SIZES,
    *("seed", "state", "cause", "num_attempts", "suggestion", "chosen_by"),
)


def to_records(table: pa.Table) -> list[dict[str, Any]]:
    """Return a result as JSON-ready rows; times as ISO 8601 text, what is no number as null."""
    names = table.column_names
    columns = [[_plain(value) for value in column.to_pylist()] for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    """Return a value of Arrow as one of JSON."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case None | bool() | int() | str():
            return value
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
    return str(value)


def to_flat(table: pa.Table) -> pa.Table:
    """Return a result whose lists and structs are JSON text, for formats that have neither."""
    for number, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            values = [
                None if v is None else json.dumps(_plain(v)) for v in table[number].to_pylist()
            ]
            table = table.set_column(number, field.name, pa.array(values, pa.string()))
    return table
