"""Which rows count: SQL over tables in memory, where Python would be too slow."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from ldru_study.results.schema import ROW_KEYS, ROW_TIMES


def select(query: str, rows: pa.Table, **more: pa.Table) -> pa.Table:
    """Run our own query over ``rows`` and ``more``, which are the names of the tables in it."""
    with duckdb.connect(":memory:") as connection:
        for name, table in {"rows": rows, **more}.items():
            connection.register(name, table)
        return connection.sql(query).to_arrow_table()


def column_list(names: Sequence[str]) -> str:
    """Return columns for a query, quoted: ``at`` is a word of SQL."""
    return ", ".join(f'"{name}"' for name in names)


def without_repeated(table: str, rows: pa.Table) -> pa.Table:
    """Return the rows of ``table`` without those that are there twice, in their order."""
    key = column_list(ROW_KEYS[table])
    if len(select(f"select distinct {key} from rows", rows)) == len(rows):
        return rows
    later = f"order by {column_list([ROW_TIMES[table]])} desc" if table in ROW_TIMES else ""
    kept = select(
        f"select place from rows qualify row_number() over (partition by {key} {later}) = 1 "
        "order by place",
        rows.append_column("place", pa.array(range(len(rows)), pa.int64())),
    )
    return rows.take(kept["place"])


def newest(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Keep, for every trial and ``key``, the row of the newest attempt: exactly once."""
    columns = column_list(("trial_id", *key))
    return select(f"from ({newest_sql('rows', key)}) order by {columns}", rows)


def newest_sql(table: str, key: Sequence[str]) -> str:
    """Return the query that keeps of ``table`` the row of the newest attempt per trial and key."""
    columns = column_list(("trial_id", *key))
    return (
        f"select * from {table} "
        f"qualify row_number() over (partition by {columns} order by attempt_id desc) = 1"
    )
