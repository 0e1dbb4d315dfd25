"""Read-only SQL over a store: DuckDB on tables in memory, shut off from everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from ldru_study.errors import StudyError, did_you_mean
from ldru_study.results.facts import Facts, read_facts
from ldru_study.results.rows import newest_sql
from ldru_study.results.schema import EVALUATIONS, QUESTION
from ldru_study.results.store import DamagedFileError, Store
from ldru_study.results.table import Damage
from ldru_study.spec.plan import Question

VIEWS = ("attempts", "evaluations", "metrics", "trials")


class QueryError(StudyError):
    """A query that DuckDB refuses, with its reason."""


class Database:
    """A store as SQL tables.

    ``trials`` has one row per study and trial (with ``model`` and ``train`` as structs, so that
    ``model.width`` and ``train.learning_rate`` work), ``evaluations`` one per study, trial and
    test length, ``metrics`` one per trial and measured step, ``attempts`` one per start and end.
    The trials of a search have their number in ``suggestion``, and no evaluations: no model is
    judged by them. ``chosen_by`` says whether a search chose a trial's settings, and whether on
    lengths that judge (``oracle``).

    ``studies`` maps the name of every study to its resolved form, ``damage`` names what was left
    out.

    Args:
        store: what is read; the database holds its rows in memory and never writes.
    """

    def __init__(self, store: Store) -> None:
        self.facts = facts = read_facts(store)
        metrics, damage = store.read("metrics")
        self.studies, more = _studies(store)
        suggestions, most = store.read("suggestions")
        self.damage: tuple[Damage, ...] = (*facts.damage, *damage, *more, *most)
        trials, asked = _trials(self.studies, facts, suggestions)
        self._connection = duckdb.connect(":memory:")
        tables = {
            "trials": trials,
            "attempts": facts.attempts.sort_by([("attempt_id", "ascending")]),
            "_asked": asked,
            "_answers": facts.answers,
            "_metrics": metrics,
        }
        for name, table in tables.items():
            self._connection.register(name, table)
        # what no query asks for is never computed
        for name, view in (("evaluations", _EVALUATIONS), ("metrics", _METRICS)):
            self._connection.execute(f"create view {name} as {view}")
        self._connection.execute("set enable_external_access = false")
        self._connection.execute("set python_enable_replacements = false")
        self._connection.execute("set lock_configuration = true")

    def sql(self, query: str) -> pa.Table:
        """Run one read-only query.

        Raises:
            QueryError: DuckDB refuses it, or it is not a single SELECT.
        """
        try:
            statements = self._connection.extract_statements(query)
            if len(statements) != 1:
                raise QueryError(f"query: found {len(statements)} statements. Give exactly one.")
            if statements[0].type not in _READ_ONLY:
                raise QueryError("query: only reads are allowed. Begin with 'select'.")
            return self._connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(f"query: {self._explain(str(error))}") from None

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of our own query; ``$name`` in it stands for a parameter."""
        result: pa.Table = self._connection.sql(query, params=parameters).to_arrow_table()
        found: list[dict[str, Any]] = result.to_pylist()
        return found

    def interrupt(self) -> None:
        """Stop a query that runs in another thread."""
        self._connection.interrupt()

    def _explain(self, message: str) -> str:
        if "does not exist" in message and "Table with name" in message:
            name = message.split("Table with name ")[1].split(" ")[0]
            hint = did_you_mean(name, VIEWS)
            parts = (f"no table is called '{name}'.", hint, f"Tables: {', '.join(VIEWS)}.")
            return " ".join(part for part in parts if part)
        return f"{message}\nTables: {', '.join(VIEWS)}; `describe TABLE` lists columns."


_READ_ONLY = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


_ROW = ("study", "cell", "task", "model_label", "chosen_by", "seed", "trial_id")
_COUNTS = [name for name in EVALUATIONS.names if name not in ("trial_id", "attempt_id")]
# the rows that some study asks for, with the study's and the trial's names
_EVALUATIONS = f"""
    select {", ".join(_ROW)}, {", ".join(_COUNTS)},
        num_correct / num_total as accuracy, attempt_id
    from ({newest_sql("_answers", QUESTION)})
    join (from trials where suggestion is null) using (trial_id)
    join _asked using (study, cell, {", ".join(QUESTION)})
    order by study, cell, seed, length
"""
_METRICS = f"from ({newest_sql('_metrics', ('step',))}) order by trial_id, step"


def _studies(store: Store) -> tuple[dict[str, dict[str, Any]], list[Damage]]:
    """Return the resolved form of every study, and the damaged ones."""
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
) -> tuple[pa.Table, pa.Table]:
    """Return one row per study and trial, and one row per question that a cell asks."""
    configs: list[dict[str, Any]] = []
    asked: list[tuple[Any, ...]] = []
    trials: list[tuple[Any, ...]] = []
    suggested = _suggested(suggestions)

    def add(
        trial_id: str, seed: int, questions: frozenset[Question], suggestion: int | None
    ) -> None:
        state, cause = facts.state_of(trial_id, questions)
        num_attempts = len(facts.started.get(trial_id, ()))
        trials.append((len(configs), trial_id, seed, state, cause, num_attempts, suggestion))

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
            asked += [(study, cell["cell"], *question) for question in cell["questions"]]
            for seed, trial_id in zip(resolved["seeds"], cell["trial_ids"], strict=False):
                add(trial_id, seed, questions, None)
            configs.append(names | cell["config"])
    about = pa.Table.from_pylist(configs) if configs else _NO_CELLS.empty_table()
    found = _table(trials, _TRIALS)
    for name, column in zip(about.column_names, about.take(found["number"]), strict=True):
        if name not in found.column_names:
            # a column of nothing but None has no type of its own
            typed = column.cast(_TEXT) if pa.types.is_null(column.type) else column
            found = found.append_column(name, typed)
    return found.select(_TRIAL_COLUMNS), _table(asked, _ASKED)


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
_ASKED = pa.schema([("study", _TEXT), ("cell", _TEXT), *((name, _COUNT) for name in QUESTION)])
_TRIALS = pa.schema(
    [
        ("number", _COUNT),
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
_TRIAL_COLUMNS = (
    *("study", "cell", "trial_id", "task", "sampling", "model_label", "model", "train"),
    *("seed", "state", "cause", "num_attempts", "suggestion", "chosen_by"),
)


def to_records(table: pa.Table) -> list[dict[str, Any]]:
    """Return a result as JSON-ready rows; times as ISO 8601 text."""
    rows: list[dict[str, Any]] = json.loads(json.dumps(table.to_pylist(), default=str))
    return rows
