"""The store: the only truth about what was asked, tried, trained and counted.

Parquet files are written once, each under a name of its own; a reader keeps, for every trial and
question, the row of the newest committed attempt. Nothing else is needed for exactly-once results.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ldru_study.errors import NotFoundError, StoreError, did_you_mean
from ldru_study.results.files import FileRoot
from ldru_study.results.schema import TABLES
from ldru_study.results.table import Damage, TableReader, decode, encode


class DamagedFileError(StoreError):
    """A file that was asked for by name and cannot be used.

    Args:
        uri: the store.
        damage: the file and what is wrong with it.
    """

    def __init__(self, uri: str, damage: Damage) -> None:
        self.damage = damage
        super().__init__(f"{uri}/{damage}")


class Store:
    """One store, local or on an object store; see the module for its rules.

    Args:
        uri: a folder or any URI that pyarrow knows.
    """

    def __init__(self, uri: str) -> None:
        self.files = FileRoot(uri)
        self._tables = {table: TableReader(self.files, table) for table in TABLES}

    @property
    def uri(self) -> str:
        """The store's absolute address, good on every worker that sees it."""
        return self.files.uri

    def commit(self, table: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows to one new file of ``table``; all of them become visible at once.

        Args:
            table: ``attempts``, ``evaluations`` or ``metrics``.
            name: the file's name without ending; carries trial and attempt.
            rows: mappings with exactly the columns of the table; None for unknown values.

        Raises:
            StoreError: the file cannot be written.
        """
        content = pa.Table.from_pylist(list(rows), schema=TABLES[table])
        self.files.write(f"{table}/{name}.parquet", encode(table, content))

    def read(
        self, table: str, owners: Collection[str] | None = None
    ) -> tuple[pa.Table, list[Damage]]:
        """Return the rows of ``table``, each once, and the files that had to be left out.

        What was read before and has not changed since is not read again.

        Args:
            table: a name in `TABLES`.
            owners: trial ids, of ``suggestions`` search ids: only their rows count, and only files
                that may hold some are read, or named when they had to be left out. None: all.

        Raises:
            StoreError: the store cannot be listed or reached.
        """
        reader = self._tables[table]
        return reader.read() if owners is None else reader.read_of(owners)

    def read_one(self, table: str, name: str) -> pa.Table | None:
        """Return the rows of one file, by the name it was committed under.

        None without it: it was never written, or its rows are in a larger file by now.

        Raises:
            StoreError: it is there and cannot be read.
        """
        name = f"{table}/{name}.parquet"
        try:
            found = decode(table, name, self.files.read(name))
        except FileNotFoundError:
            return None
        if isinstance(found, Damage):
            raise DamagedFileError(self.uri, found)
        return found

    # what was asked

    def save_study(self, study: str, files: Mapping[str, bytes]) -> None:
        """Write a study's ``spec.yaml``, ``resolved.json`` and ``provenance.json``."""
        for name, data in files.items():
            self.files.write(f"studies/{study}/{name}", data)

    def studies(self) -> list[str]:
        """Return the names of all studies, sorted."""
        entries = self.files.list("studies", recursive=True)
        return sorted(
            entry.name.split("/")[1] for entry in entries if entry.name.endswith("/resolved.json")
        )

    def study(self, name: str) -> dict[str, Any]:
        """Return a study's resolved form.

        Raises:
            NotFoundError: the store holds no such study; the message suggests one.
            DamagedFileError: its file is damaged or has the form of another version.
        """
        content = self._study_json(name, "resolved.json")
        if "cells" not in content:
            reason = "has no 'cells': another version wrote it. Submit the study again."
            raise DamagedFileError(self.uri, Damage(f"studies/{name}/resolved.json", reason))
        return content

    def provenance(self, name: str) -> dict[str, Any]:
        """Return what is known of a study's submissions; see `study` for what is raised."""
        return self._study_json(name, "provenance.json")

    def spec_text(self, name: str) -> str:
        """Return the YAML text of a study as it was given; see `study` for what is raised."""
        return self._study_file(name, "spec.yaml").decode()

    def _study_json(self, study: str, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._study_file(study, name))
        except ValueError as error:
            reason = f"is damaged ({error}). Submit the study again."
            raise DamagedFileError(self.uri, Damage(f"studies/{study}/{name}", reason)) from error
        return content

    def _study_file(self, study: str, name: str) -> bytes:
        try:
            return self.files.read(f"studies/{study}/{name}")
        except FileNotFoundError:
            known = self.studies()
            held = f"It holds: {', '.join(known)}." if known else "It holds none yet."
            raise NotFoundError(
                f"store {self.uri}: no study is called '{study}'. "
                + " ".join(part for part in (did_you_mean(study, known), held) if part)
            ) from None


def new_attempt_id() -> str:
    """Return an id that sorts by time and that no other attempt has."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"
