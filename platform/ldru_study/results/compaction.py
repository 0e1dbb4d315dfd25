"""Merge the many small files of the store's tables into few large ones, beside everything else.

One new file with all rows of some small ones is written, then those are deleted. Killed in
between, rows are in two files, which readers count once and the next compaction mends. Two
compactions at a time may write the same rows twice, which is the same case. Files that this
version cannot read whole are left as they are.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from ldru_study.results.files import FileEntry
from ldru_study.results.rows import column_list, select, without_repeated
from ldru_study.results.schema import ROW_KEYS, ROW_TIMES, TABLES
from ldru_study.results.store import Store
from ldru_study.results.table import MERGED, Damage, decode, encode, open_file

# a younger file is left alone: a reader's listing must not see a row move twice, and the end of
# an attempt may still be corrected
MIN_AGE_S = 600.0
# a file of this size is large enough
LARGE_BYTES = 8 << 20
# rows are merged until they take this much memory; on disk that is a few times less
MOST_BYTES = 256 << 20
# read at once
_BATCH_FILES = 512
_BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class Limits:
    """What is merged: files older than ``min_age_s`` and smaller than ``large_bytes``.

    ``most_bytes`` is what the rows of one new file may take in memory.
    """

    min_age_s: float = MIN_AGE_S
    large_bytes: int = LARGE_BYTES
    most_bytes: int = MOST_BYTES


@dataclass
class Compaction:
    """What was done to one table.

    ``num_files`` were there before, ``num_merged`` of them were replaced by ``written``, which
    hold ``num_rows``; ``num_young`` were too new, and ``left_out`` could not be read whole.
    """

    table: str
    num_files: int = 0
    num_young: int = 0
    num_merged: int = 0
    num_rows: int = 0
    written: list[str] = field(default_factory=list)
    left_out: list[Damage] = field(default_factory=list)


def compact(store: Store, limits: Limits = Limits()) -> list[Compaction]:
    """Merge the small files of every table; done twice, the second finds nothing to do.

    Raises:
        StoreError: the store cannot be read or written; what was merged until then stays merged.
    """
    return [_TableCompactor(store, table, limits).run() for table in TABLES]


class _TableCompactor:
    def __init__(self, store: Store, table: str, limits: Limits) -> None:
        self.files, self.table, self.limits = store.files, table, limits
        self.done = Compaction(table)

    def run(self) -> Compaction:
        entries = self.files.list(self.table)
        small = [entry for entry in entries if entry.size < self.limits.large_bytes]
        newest = (time.time() - self.limits.min_age_s) * 1e9
        old = [entry for entry in small if entry.modified_ns <= newest]
        self.done.num_files = len(entries)
        self.done.num_young = len(small) - len(old)
        if len(old) > 1:
            large = [entry for entry in entries if entry.size >= self.limits.large_bytes]
            self._merge(old, self._keys(large))
        return self.done

    def _keys(self, entries: Sequence[FileEntry]) -> pa.Table:
        """Return what names the rows in large files, which stay there."""
        key = _identity(self.table)
        found = [rows.select(key) for _, rows in self._read(entries)]
        return pa.concat_tables([TABLES[self.table].empty_table().select(key), *found])

    def _merge(self, entries: Sequence[FileEntry], elsewhere: pa.Table) -> None:
        sources: list[FileEntry] = []
        tables: list[pa.Table] = []
        num_bytes = 0
        for entry, rows in self._read(entries):
            sources.append(entry)
            tables.append(rows)
            num_bytes += rows.nbytes
            if num_bytes >= self.limits.most_bytes:
                self._replace(sources, tables, elsewhere)
                sources, tables, num_bytes = [], [], 0
        self._replace(sources, tables, elsewhere)

    def _read(self, entries: Sequence[FileEntry]) -> Iterator[tuple[FileEntry, pa.Table]]:
        with ThreadPoolExecutor(self.files.num_readers) as pool:
            for batch in _batches(entries):
                for entry, rows in zip(batch, pool.map(self._read_file, batch), strict=True):
                    if isinstance(rows, Damage):
                        self.done.left_out.append(rows)
                    elif rows is not None:
                        yield entry, rows

    def _read_file(self, entry: FileEntry) -> pa.Table | Damage | None:
        try:
            data = self.files.read(entry.name)
        except FileNotFoundError:
            # another compaction was faster
            return None
        found = open_file(entry.name, data)
        if isinstance(found, Damage):
            return found
        if unknown := set(found.column_names) - set(TABLES[self.table].names):
            reason = f"has columns of a later version ({', '.join(sorted(unknown))}). Upgrade."
            return Damage(entry.name, reason)
        return decode(self.table, entry.name, data)

    def _replace(
        self, sources: Sequence[FileEntry], tables: Sequence[pa.Table], elsewhere: pa.Table
    ) -> None:
        if len(sources) < 2:
            return
        rows = without_repeated(self.table, pa.concat_tables(tables).combine_chunks())
        rows = _without(rows, elsewhere, _identity(self.table))
        if len(rows):
            # the same sources give the same name: two compactions at a time write one file
            origin = hashlib.sha256(repr(sources).encode()).hexdigest()[:32]
            name = f"{self.table}/{MERGED}{origin}.parquet"
            self.files.write(name, encode(self.table, rows))
            self.done.written.append(name)
            self.done.num_rows += len(rows)
        # a file that was written anew since it was read holds what nobody has read
        now = set(self.files.list(self.table))
        with ThreadPoolExecutor(self.files.num_readers) as pool:
            list(pool.map(self.files.delete, [entry.name for entry in sources if entry in now]))
        self.done.num_merged += len(sources)


def _batches(entries: Sequence[FileEntry]) -> Iterator[list[FileEntry]]:
    batch: list[FileEntry] = []
    num_bytes = 0
    for entry in entries:
        batch.append(entry)
        num_bytes += entry.size
        if len(batch) == _BATCH_FILES or num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def _identity(table: str) -> list[str]:
    # with its time: a later row of the same key corrects the earlier one
    return [*ROW_KEYS[table], *([ROW_TIMES[table]] if table in ROW_TIMES else [])]


def _without(rows: pa.Table, other: pa.Table, key: Sequence[str]) -> pa.Table:
    if not len(other):
        return rows
    numbered = rows.append_column("place", pa.array(range(len(rows)), pa.int64()))
    query = f"select place from rows anti join other using ({column_list(key)}) order by place"
    return rows.take(select(query, numbered, other=other)["place"])
