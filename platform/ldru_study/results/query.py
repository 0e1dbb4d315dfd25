"""Read-only SQL over a store: DuckDB on tables in memory, shut off from everything else."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pyarrow as pa

from ldru_study.errors import StudyError, did_you_mean
from ldru_study.results.facts import Facts, newest, read_facts
from ldru_study.results.schema import EVALUATIONS
from ldru_study.results.store import Damage, Store
from ldru_study.spec.plan import Question

VIEWS = ("attempts", "evaluations", "metrics", "trials")


class QueryError(StudyError):
    """A query that DuckDB refuses, with its reason."""


class Database:
    """A store as SQL tables.

    ``trials`` has one row per study and trial (with ``model`` and ``train`` as structs, so that
    ``model.width`` and ``train.learning_rate`` work), ``evaluations`` one per study, trial and
    test length, ``metrics`` one per trial and measured step, ``attempts`` one per start and end.

    Args:
        store: what is read; the database holds a copy in memory and never writes.
    """

    def __init__(self, store: Store) -> None:
        self.facts = facts = read_facts(store)
        metrics, damage = store.read("metrics")
        self.damage: tuple[Damage, ...] = (*facts.damage, *damage)
        self._connection = duckdb.connect(":memory:")
        trials, asked = _trials(store, facts)
        tables = {
            "trials": trials,
            "attempts": facts.attempts.sort_by([("attempt_id", "ascending")]),
            "metrics": newest(metrics, ("step",)),
            "evaluations": self._evaluations(facts.evaluations, trials, asked),
        }
        for name, table in tables.items():
            # copied in, so that nothing needs to be reachable from outside once it is shut off
            self._connection.register("incoming", table)
            self._connection.execute(f"create table {name} as select * from incoming")
            self._connection.unregister("incoming")
        self._connection.execute("set enable_external_access = false")
        self._connection.execute("set python_enable_replacements = false")
        self._connection.execute("set lock_configuration = true")

    def _evaluations(self, rows: pa.Table, trials: pa.Table, asked: pa.Table) -> pa.Table:
        """Return the rows that some study asks for, with the study's and the trial's names."""
        joined = self._connection.from_arrow(asked).join(
            self._connection.from_arrow(rows), "trial_id, length, num_total, eval_seed"
        )
        joined = joined.join(
            self._connection.from_arrow(
                trials.select(["study", "trial_id", "cell", "task", "model_label", "seed"])
            ),
            "study, trial_id",
        )
        columns = [name for name in EVALUATIONS.names if name not in ("trial_id", "attempt_id")]
        ordered = joined.project(
            "study, cell, task, model_label, seed, trial_id, "
            + ", ".join(columns)
            + ", num_correct / num_total as accuracy, attempt_id"
        )
        return ordered.order("study, cell, seed, length").to_arrow_table()

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


def _trials(store: Store, facts: Facts) -> tuple[pa.Table, pa.Table]:
    """Return one row per study and trial, and one row per question that a study asks."""
    rows: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    for study in store.studies():
        for trial in store.study(study)["trials"]:
            questions = [Question(*question) for question in trial["questions"]]
            state, cause = facts.state_of(trial["trial_id"], questions)
            config = trial["config"]
            rows.append(
                {
                    "study": study,
                    "cell": trial["cell"],
                    "trial_id": trial["trial_id"],
                    "task": config["task"],
                    "sampling": config["sampling"],
                    "model_label": trial["model_label"],
                    "model": config["model"],
                    "train": config["train"],
                    "seed": config["seed"],
                    "state": state,
                    "cause": cause,
                    "num_attempts": len(facts.started.get(trial["trial_id"], ())),
                }
            )
            asked += [
                {"study": study, "trial_id": trial["trial_id"]}
                | dict(zip(("length", "num_total", "eval_seed"), question, strict=True))
                for question in trial["questions"]
            ]
    return _table(rows, _NO_TRIALS), _table(asked, _NO_QUESTIONS)


_TEXT = pa.string()
_NO_QUESTIONS = pa.schema(
    [("study", _TEXT), ("trial_id", _TEXT)]
    + [(name, pa.int64()) for name in ("length", "num_total", "eval_seed")]
)
_NO_TRIALS = pa.schema(
    [(name, _TEXT) for name in ("study", "cell", "trial_id", "task", "sampling", "model_label")]
    + [("model", pa.struct([("kind", _TEXT)])), ("train", pa.struct([("max_length", pa.int64())]))]
    + [("seed", pa.int64()), ("state", _TEXT), ("cause", _TEXT), ("num_attempts", pa.int64())]
)


def _table(rows: list[dict[str, Any]], empty: pa.Schema) -> pa.Table:
    if not rows:
        return empty.empty_table()
    found = pa.Table.from_pylist(rows)
    # a column of nothing but None has no type of its own
    for number, column in enumerate(found.schema):
        if pa.types.is_null(column.type):
            found = found.set_column(number, column.name, pa.nulls(len(found), _TEXT))
    return found


def to_records(table: pa.Table) -> list[dict[str, Any]]:
    """Return a result as JSON-ready rows; times as ISO 8601 text."""
    rows: list[dict[str, Any]] = json.loads(json.dumps(table.to_pylist(), default=str))
    return rows
