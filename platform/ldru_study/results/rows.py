"""Which rows count: SQL over tables in memory, where Python would be too slow."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa


def select(query: str, rows: pa.Table) -> pa.Table:
    """Run our own query over ``rows``, which is the name of the table in it."""
    with duckdb.connect(":memory:") as connection:
        connection.register("rows", rows)
        return connection.sql(query).to_arrow_table()


def newest(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Keep, for every trial and ``key``, the row of the newest attempt: exactly once."""
    columns = ", ".join(("trial_id", *key))
    return select(f"from ({newest_sql('rows', key)}) order by {columns}", rows)


def newest_sql(table: str, key: Sequence[str]) -> str:
    """Return the query that keeps of ``table`` the row of the newest attempt per trial and key."""
    columns = ", ".join(("trial_id", *key))
    return (
        f"select * from {table} "
        f"qualify row_number() over (partition by {columns} order by attempt_id desc) = 1"
    )
