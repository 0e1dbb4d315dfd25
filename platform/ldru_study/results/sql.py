"""What a query may say: one SELECT, over tables alone; and what went wrong, in words that help."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb

from ldru_study.errors import StudyError, did_you_mean


class QueryError(StudyError):
    """A query that is refused, with its reason."""


# table functions that neither read files nor change anything
_TABLE_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "summary"),
        *("json_each", "json_tree", "pragma_table_info", "pragma_version"),
        *("duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_tables"),
        *("duckdb_types", "duckdb_views"),
    }
)
# an explanation that analyses also runs what it explains, whatever that is
_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?", re.IGNORECASE)


def tables_of(connection: duckdb.DuckDBPyConnection, query: str) -> frozenset[str]:
    """Return the names, in lower case, of everything that a query may read from.

    Args:
        connection: parses it; nothing is run.
        query: one SELECT, or EXPLAIN of one.

    Raises:
        QueryError: it is no single SELECT, or calls what is no table of the store.
        duckdb.Error: it is no SQL.
    """
    statements = connection.extract_statements(query)
    if len(statements) != 1:
        raise QueryError(f"query: found {len(statements)} statements. Give exactly one.")
    kind = statements[0].type
    explained = _EXPLAIN.match(query) if kind == duckdb.StatementType.EXPLAIN else None
    if kind != duckdb.StatementType.SELECT and explained is None:
        raise QueryError("query: only reads are allowed. Begin with 'select'.")
    text = query if explained is None else query[explained.end() :]
    found = connection.execute("select json_serialize_sql($1::text)", [text]).fetchall()
    tree = json.loads(found[0][0])
    if tree["error"]:
        raise QueryError("query: only reads are allowed. Begin with 'select'.")
    names = set()
    for node in _nodes(tree["statements"]):
        match node.get("type"):
            case "TABLE_FUNCTION":
                _check_function(node["function"]["function_name"])
            case "BASE_TABLE" | "SHOW_REF":
                names.add(node["table_name"].strip('"').lower())
    return frozenset(names)


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack += node.values()
        elif isinstance(node, list):
            stack += node


def _check_function(name: str) -> None:
    if name.lower() not in _TABLE_FUNCTIONS:
        allowed = ", ".join(sorted(_TABLE_FUNCTIONS))
        raise QueryError(
            f"query: '{name}' is no table of the store, and nothing else can be read. "
            f"Functions that make tables: {allowed}."
        )


_NO_COLUMN = re.compile(
    r'(?:Referenced column|does not have a column named) "(.+?)"|Column "(.+?)" does not exist'
)
_NO_TABLE = re.compile(r"Table with name (\S+) does not exist|Referenced table \"(.+?)\" not found")


def explain(message: str, columns: Mapping[str, Sequence[str]], views: Sequence[str]) -> str:
    """Say what is wrong with a query, what was probably meant and what there is.

    Args:
        message: what DuckDB says.
        columns: those of every view that the query names.
        views: the names of all views.
    """
    if found := _NO_TABLE.search(message):
        return _suggestion("table", found[1] or found[2], views, f"Tables: {', '.join(views)}.")
    if (found := _NO_COLUMN.search(message)) and columns:
        known = list(dict.fromkeys(name for names in columns.values() for name in names))
        listed = " ".join(f"Columns of {view}: {', '.join(columns[view])}." for view in columns)
        return _suggestion("column", found[1] or found[2], known, listed)
    return f"{message}\nTables: {', '.join(views)}; `describe TABLE` lists columns."


def _suggestion(what: str, name: str, known: Sequence[str], listed: str) -> str:
    parts = (f"no {what} is called '{name}'.", did_you_mean(name, known), listed)
    return " ".join(part for part in parts if part)
