"""Which rows count: SQL over tables in memory, where Python would be too slow."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    """Keep, for every trial and ``key``, the row of the newest attempt: exactly once, sorted."""
    columns = column_list(("trial_id", *key))
    return select(f"from rows order by {columns}", only_newest(rows, key))


def only_newest(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Keep the rows that `newest` keeps, in their order.

    An attempt has every ``key`` at most once, so that only the trials with several attempts are
    looked at row by row.
    """
    trial, _ = number_trials(rows)
    numbered = rows.select(["attempt_id", *key]).append_column("trial", trial)
    columns = column_list(("trial", *key))
    several = select(
        "select trial from rows group by trial having min(attempt_id) <> max(attempt_id)", numbered
    )
    if not len(several):
        return rows
    place = pa.array(np.arange(len(rows)))
    outdated = select(
        f"select place from rows semi join several using (trial) "
        f"qualify row_number() over (partition by {columns} order by attempt_id desc) > 1",
        numbered.append_column("place", place),
        several=several,
    )
    kept = np.ones(len(rows), dtype=bool)
    kept[outdated["place"].to_numpy()] = False
    return rows.filter(pa.array(kept))


def number_trials(rows: pa.Table) -> tuple[pa.ChunkedArray, pa.Array]:
    """Return the number of each row's trial, int32, and the trial ids in the order of numbers.

    A number is compared and grouped several times as fast as an id.
    """
    return number_values(rows["trial_id"])


def number_values(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.Array]:
    """Return the number of each value, int32, and the distinct values in the order of numbers."""
    encoded = column.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return pa.chunked_array([], pa.int32()), pa.array([], column.type)
    return pa.chunked_array([chunk.indices for chunk in encoded.chunks]), encoded.chunk(
        0
    ).dictionary


def rows_of_trials(rows: pa.Table, trial_ids: Collection[str]) -> pa.Table:
    """Return the rows of some trials, in their order."""
    return rows_of("trial_id", rows, trial_ids)


def rows_of(column: str, rows: pa.Table, ids: Collection[str]) -> pa.Table:
    """Return the rows that have one of ``ids`` in ``column``, in their order."""
    return rows.filter(pc.is_in(rows[column], pa.array(list(ids), pa.string())))
