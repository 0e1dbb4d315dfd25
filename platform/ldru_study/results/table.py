"""A table of the store: Parquet files in a folder, read as one, while others add and merge them."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ldru_study.errors import StoreError
from ldru_study.results.files import FileEntry, FileRoot, NoAccessError
from ldru_study.results.rows import rows_of, without_repeated
from ldru_study.results.schema import (
    OWNERS,
    SCHEMA_VERSION,
    TABLES,
    owner_of,
    version_of,
    versioned,
)

# a file that holds the rows of others begins so
MERGED = "merged-"

# files read at once before their rows are put together
_BATCH = 4096
# so small that Arrow's own threads cost more than they save
_SMALL_BYTES = 1 << 20
_MOST_CHUNKS = 64
_NUMBER = "file_number"


@dataclass(frozen=True)
class Damage:
    """A file of the store that cannot be used, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def encode(table: str, rows: pa.Table) -> bytes:
    """Return rows of ``table`` as a Parquet file that says its schema version."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.cast(versioned(TABLES[table])), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode(table: str, name: str, data: bytes) -> pa.Table | Damage:
    """Return the rows of the file ``name``, or what is wrong with it.

    Columns count by their names: those that an older version did not write read as null, those
    that this version does not know are left out.
    """
    found = open_file(name, data)
    if isinstance(found, Damage):
        return found
    try:
        columns = [
            found.column(field.name).cast(field.type)
            if field.name in found.column_names
            else pa.nulls(len(found), field.type)
            for field in TABLES[table]
        ]
    except pa.ArrowException as error:
        return _damaged(name, error)
    return pa.Table.from_arrays(columns, schema=TABLES[table])


def open_file(name: str, data: bytes) -> pa.Table | Damage:
    """Return the content of the file ``name`` with the columns that it has, or its damage."""
    if not name.endswith(".parquet"):
        return Damage(name, "is no Parquet file of this store. Move it elsewhere.")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        found = file.read(use_threads=len(data) > _SMALL_BYTES)
    except (pa.ArrowException, OSError) as error:
        return _damaged(name, error)
    version = version_of(found.schema)
    if version is None:
        return Damage(name, "was not written by ldru-study. Move it elsewhere.")
    if version > SCHEMA_VERSION:
        return Damage(name, f"has schema version {version}, newer than {SCHEMA_VERSION}. Upgrade.")
    return found


def read_owners(table: str, stream: pa.NativeFile) -> frozenset[str] | None:
    """Return whose rows a file holds, from as little of it as that takes.

    None when it was not written by this version of ldru-study or one before.

    Raises:
        pyarrow.ArrowException: it is damaged.
        OSError: it is damaged or cannot be read.
    """
    owner = OWNERS[table]
    file = pq.ParquetFile(stream, read_dictionary=[owner])
    version = version_of(file.schema_arrow)
    if version is None or version > SCHEMA_VERSION or owner not in file.schema_arrow.names:
        return None
    (column,) = file.read([owner], use_threads=False).columns
    return frozenset(one for chunk in column.chunks for one in chunk.dictionary.to_pylist())


def _damaged(name: str, error: Exception) -> Damage:
    first_line = str(error).splitlines()[0]
    return Damage(name, f"is damaged ({first_line}). Delete it; `submit` fills the gap.")


class TableReader:
    """Reads one table, and afterwards only what is new; safe to share among threads.

    A row is seen exactly once at any time, also while files are merged: whoever merges writes the
    new file before deleting the old ones. So a row may be in two files, and then counts once; and
    a listing, which is no snapshot, may miss a new file and find the old ones gone. That shows by
    a merged file that the next listing has and this one lacks, and then all is listed again.

    Args:
        files: the store.
        table: a name in `TABLES`.
        owners: whose rows are read, see `OWNERS`; None: everyone's. A file that holds nothing of
            theirs by its name or by the ids in it is not read further.
    """

    def __init__(self, files: FileRoot, table: str, owners: Collection[str] | None = None) -> None:
        self.files, self.table = files, table
        self.owners = None if owners is None else frozenset(owners)
        self._lock = threading.Lock()
        # every file that was read has a number, which each of its rows carries
        self._numbers: dict[FileEntry, int] = {}
        self._num_read = 0
        self._damage: dict[FileEntry, Damage] = {}
        self._result = TABLES[table].empty_table()
        self._rows = self._result.append_column(_NUMBER, pa.array([], pa.int64()))

    def read(self) -> tuple[pa.Table, list[Damage]]:
        """Return every row once, and the files that had to be left out.

        Raises:
            StoreError: the store cannot be listed or reached.
        """
        with self._lock:
            known = self._num_read
            # a damaged file is looked at again: what was wrong may have been mended
            self._damage = {}
            entries = self._settle()
            if self._forget(entries) or self._num_read > known:
                rows = self._rows.drop_columns([_NUMBER])
                # rows are repeated by merging alone
                is_merged = any(_is_merged(entry) for entry in entries)
                self._result = without_repeated(self.table, rows) if is_merged else rows
            return self._result, [self._damage[e] for e in entries if e in self._damage]

    def read_of(self, owners: Collection[str]) -> tuple[pa.Table, list[Damage]]:
        """Return the rows of some owners, once each, and the files that may hold more of them.

        Raises:
            StoreError: the store cannot be listed or reached.
        """
        if not self._num_read:
            return TableReader(self.files, self.table, owners).read()
        # what was read before needs only what is new
        rows, damage = self.read()
        wanted = frozenset(owners)
        return rows_of(OWNERS[self.table], rows, wanted), [
            one for one in damage if owner_of(self.table, one.name) in {None, *wanted}
        ]

    def _list(self) -> list[FileEntry]:
        entries = self.files.list(self.table)
        if self.owners is None:
            return entries
        wanted = {None, *self.owners}
        return [entry for entry in entries if owner_of(self.table, entry.name) in wanted]

    def _settle(self) -> list[FileEntry]:
        """Read what is new until a listing is whole, and return that listing."""
        while True:
            entries = self._list()
            new = [e for e in entries if e not in self._numbers and e not in self._damage]
            was_whole = True
            for first in range(0, len(new), _BATCH):
                was_whole &= self._take_in(new[first : first + _BATCH])
            if was_whole:
                merged = {entry.name for entry in self._list() if _is_merged(entry)}
                if merged <= {entry.name for entry in entries}:
                    return entries

    def _take_in(self, entries: Sequence[FileEntry]) -> bool:
        """Read files; False when one of them has gone."""
        with ThreadPoolExecutor(self.files.num_readers) as pool:
            found = list(pool.map(self._read_file, entries))
        tables: list[pa.Table] = []
        for entry, content in zip(entries, found, strict=True):
            if isinstance(content, Damage):
                self._damage[entry] = content
            elif content is not None:
                self._numbers[entry] = self._num_read + len(tables)
                tables.append(content)
        if tables:
            numbers = np.arange(self._num_read, self._num_read + len(tables))
            numbers = numbers.repeat([len(table) for table in tables])
            rows = pa.concat_tables(tables).combine_chunks()
            rows = rows.append_column(_NUMBER, pa.array(numbers, pa.int64()))
            self._rows = pa.concat_tables([self._rows, rows])
            self._num_read += len(tables)
            if self._rows.column(_NUMBER).num_chunks > _MOST_CHUNKS:
                self._rows = self._rows.combine_chunks()
        return all(content is not None for content in found)

    def _read_file(self, entry: FileEntry) -> pa.Table | Damage | None:
        try:
            if self._holds_nothing(entry):
                return TABLES[self.table].empty_table()
            found = decode(self.table, entry.name, self.files.read(entry.name))
            if self.owners is None or isinstance(found, Damage):
                return found
            return rows_of(OWNERS[self.table], found, self.owners)
        except FileNotFoundError:
            return None
        except NoAccessError:
            raise
        except StoreError as error:
            prefix = f"{self.files.uri}/{entry.name}: "
            return Damage(entry.name, f"{str(error).removeprefix(prefix)} Make it readable.")

    def _holds_nothing(self, entry: FileEntry) -> bool:
        """Whether the ids in a large file show that no row of it is wanted."""
        if self.owners is None or entry.size <= _SMALL_BYTES:
            return False
        try:
            with self.files.open(entry.name) as stream:
                found = read_owners(self.table, stream)
        except (pa.ArrowException, OSError):
            # what is wrong with it shows when it is read as a whole
            return False
        return found is not None and found.isdisjoint(self.owners)

    def _forget(self, entries: Collection[FileEntry]) -> bool:
        """Drop the rows of files that are no more; True if there were any."""
        gone = self._numbers.keys() - set(entries)
        if not gone:
            return False
        numbers = pa.array([self._numbers.pop(entry) for entry in gone], pa.int64())
        self._rows = self._rows.filter(pc.invert(pc.is_in(self._rows[_NUMBER], numbers)))
        return True


def _is_merged(entry: FileEntry) -> bool:
    return entry.name.rpartition("/")[2].startswith(MERGED)
