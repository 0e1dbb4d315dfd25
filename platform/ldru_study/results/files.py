"""A folder of write-once files, local or on an object store, where nothing is seen half-written."""

from __future__ import annotations

import os
import secrets
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from ldru_study.errors import StoreError

_HIDDEN = "."


@dataclass(frozen=True)
class FileEntry:
    """A file as a listing shows it: another entry of the same name is another file.

    ``name`` is relative to the root, ``size`` in bytes, ``modified_ns`` since 1970.
    """

    name: str
    size: int
    modified_ns: int


class FileRoot:
    """A root folder on any pyarrow filesystem; names are relative and use '/'.

    Args:
        uri: a local path or a URI that pyarrow knows, such as ``s3://bucket/folder``.

    Raises:
        StoreError: the URI cannot be opened.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri if "://" in uri else str(Path(uri).expanduser().resolve())
        try:
            self._fs, self._root = pafs.FileSystem.from_uri(self._as_uri())
        except (ValueError, OSError) as error:
            raise StoreError(f"store '{uri}': cannot be opened: {error}") from error
        self._local = isinstance(self._fs, pafs.LocalFileSystem)

    def _as_uri(self) -> str:
        return self.uri if "://" in self.uri else "file://" + urllib.parse.quote(self.uri)

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file; readers see all of it or nothing, also when killed in the middle.

        Raises:
            StoreError: it cannot be written (full disk, no permission); nothing is left behind
                under ``name``.
        """
        path = f"{self._root}/{name}"
        try:
            if self._local:
                _write_local(path, data)
            else:
                # one PUT: the object appears when the stream closes
                with self._fs.open_output_stream(path) as stream:
                    stream.write(data)
        except OSError as error:
            raise StoreError(
                f"{self.uri}/{name}: cannot be written: {error.strerror or error}. "
                "Make room or get permission, then run the same command again."
            ) from error

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is none of that name.
            StoreError: it is there but cannot be read.
        """
        try:
            with self._fs.open_input_file(f"{self._root}/{name}") as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.uri}/{name}: cannot be read: {error}") from error

    def list(self, folder: str, *, recursive: bool = False) -> list[FileEntry]:
        """Return the files in ``folder``, sorted by name, without unfinished ones.

        Raises:
            StoreError: the folder is there but cannot be listed.
        """
        path = f"{self._root}/{folder}"
        try:
            found = list((self._list_local if self._local else self._list)(path, recursive))
        except OSError as error:
            raise StoreError(f"{self.uri}/{folder}: cannot be listed: {error}") from error
        skip = len(self._root) + 1
        return sorted(
            (FileEntry(path[skip:], size, modified_ns) for path, size, modified_ns in found),
            key=lambda entry: entry.name,
        )

    def _list(self, path: str, recursive: bool) -> Iterator[tuple[str, int, int]]:
        selector = pafs.FileSelector(path, allow_not_found=True, recursive=recursive)
        for info in self._fs.get_file_info(selector):
            if info.type == pafs.FileType.File and not info.base_name.startswith(_HIDDEN):
                yield info.path, info.size or 0, info.mtime_ns or 0

    def _list_local(self, path: str, recursive: bool) -> Iterator[tuple[str, int, int]]:
        # three times as fast as pyarrow, which counts with a folder for every trial
        folders = [path]
        while folders:
            folder = folders.pop()
            # a folder, and a file below, may come and go while others work
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    if recursive and entry.is_dir():
                        folders.append(f"{folder}/{entry.name}")
                    elif not entry.name.startswith(_HIDDEN) and entry.is_file():
                        with suppress(FileNotFoundError):
                            status = entry.stat()
                            yield f"{folder}/{entry.name}", status.st_size, status.st_mtime_ns

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return bool(self._fs.get_file_info(f"{self._root}/{name}").type == pafs.FileType.File)

    def delete(self, name: str) -> None:
        """Delete a file; a file that is already gone is no error."""
        with suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._root}/{name}")


def _write_local(path: str, data: bytes) -> None:
    folder, _, name = path.rpartition("/")
    os.makedirs(folder, exist_ok=True)
    unfinished = f"{folder}/{_HIDDEN}{name}.{secrets.token_hex(4)}.tmp"
    try:
        with open(unfinished, "wb") as stream:
            stream.write(data)
            stream.flush()
            # the rename must not reach the disk before the data does
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    except OSError:
        Path(unfinished).unlink(missing_ok=True)
        raise
