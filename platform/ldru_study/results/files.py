"""A folder of write-once files, local or on an object store, where nothing is seen half-written."""

from __future__ import annotations

import logging
import os
import random
import secrets
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from ldru_study.errors import StoreError

# an object store that does not answer for this long is given up
PATIENCE_S = 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
# what no second try would change, in the words of pyarrow's errors
_REFUSED = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY", "INVALID_CLIENT_TOKEN", "INVALID_TOKEN"),
    *("SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN", "UNRECOGNIZED_CLIENT", "ACCESS_KEY_ID"),
    *("MISSING_AUTHENTICATION_TOKEN", "HTTP status 400", "HTTP status 401"),
    *("HTTP status 301", "HTTP status 403"),
)
_NO_BUCKET = ("NO_SUCH_BUCKET", "NoSuchBucket")
_HIDDEN = "."
_SECRET_WORDS = ("secret", "password", "token", "key", "credential", "sas", "sig")

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class NoAccessError(StoreError):
    """An object store that is away, refuses access or lacks the bucket: no file is to blame."""


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

    Credentials, region and endpoint of an object store come from the environment, as its own
    tools read them. What may pass, such as a server that is away, is tried again for a while.

    Args:
        uri: a local path or a URI that pyarrow knows, such as ``s3://bucket/folder``.
        patience_s: how long an object store is given to answer.

    Raises:
        StoreError: the URI cannot be opened, or holds a secret.
    """

    def __init__(self, uri: str, *, patience_s: float = PATIENCE_S) -> None:
        _refuse_secrets(uri)
        self.uri = uri if "://" in uri else str(Path(uri).expanduser().resolve())
        self.patience_s = patience_s
        self._local = self.uri.startswith("/") or self.uri.startswith("file:")
        self._bucket_was_seen = False
        try:
            # to open an S3 URI may mean to ask where its bucket lies
            self._fs, self._root = self._persist("opened", "", lambda: _open(self._as_uri()))
        except ValueError as error:
            raise StoreError(f"store '{uri}': cannot be opened: {error}") from error

    @property
    def num_readers(self) -> int:
        """How many files are best read at once: far away, waiting takes longer than reading."""
        return 8 if self._local else 32

    def _as_uri(self) -> str:
        return self.uri if "://" in self.uri else "file://" + urllib.parse.quote(self.uri)

    def write(self, name: str, data: bytes, *, patience_s: float | None = None) -> None:
        """Write a whole file; readers see all of it or nothing, also when killed in the middle.

        Args:
            name: its name; a file that has it already is replaced.
            data: its content.
            patience_s: how long an object store is given, if not as long as usual.

        Raises:
            StoreError: it cannot be written (full disk, no permission); nothing is left behind
                under ``name``.
        """
        path = f"{self._root}/{name}"
        if self._local:
            self._persist("written", name, lambda: _write_local(path, data))
        else:
            self._persist("written", name, lambda: self._put(path, data), patience_s)

    def _put(self, path: str, data: bytes) -> None:
        def put() -> None:
            with self._fs.open_output_stream(path) as stream:
                stream.write(data)

        # a stream that is left by an exception completes what it has: no Ctrl-C may come between
        # open and close. signals reach the main thread only, and a process ends after its threads
        with ThreadPoolExecutor(1) as thread:
            thread.submit(put).result()

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is none of that name.
            StoreError: it is there but cannot be read.
        """

        def read() -> bytes:
            with self._fs.open_input_file(f"{self._root}/{name}") as stream:
                data: bytes = stream.read()
                return data

        try:
            return self._persist("read", name, read)
        except FileNotFoundError:
            self._look_for_bucket()
            raise

    def open(self, name: str) -> pa.NativeFile:
        """Open a file to read parts of it; nothing is tried twice.

        Raises:
            OSError: it cannot be opened, or a later read fails.
        """
        return self._fs.open_input_file(f"{self._root}/{name}")

    def list(self, folder: str, *, recursive: bool = False) -> list[FileEntry]:
        """Return the files in ``folder``, sorted by name, without unfinished ones.

        Raises:
            StoreError: the folder is there but cannot be listed.
        """
        path = f"{self._root}/{folder}"
        list_folder = self._list_local if self._local else self._list_remote
        found = self._persist("listed", folder, lambda: list(list_folder(path, recursive)))
        if not found:
            self._look_for_bucket()
        skip = len(self._root) + 1
        return sorted(
            (FileEntry(path[skip:], size, modified_ns) for path, size, modified_ns in found),
            key=lambda entry: entry.name,
        )

    def _list_remote(self, path: str, recursive: bool) -> Iterator[tuple[str, int, int]]:
        selector = pafs.FileSelector(path, allow_not_found=True, recursive=recursive)
        for info in self._fs.get_file_info(selector):
            if info.type == pafs.FileType.File and not info.base_name.startswith(_HIDDEN):
                yield info.path, info.size or 0, info.mtime_ns or 0

    def _list_local(self, path: str, recursive: bool) -> Iterator[tuple[str, int, int]]:
        # pyarrow fails when a folder is made while it looks for it
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
        """Whether there is a file of that name.

        Raises:
            StoreError: that cannot be told.
        """
        path = f"{self._root}/{name}"
        info = self._persist("looked for", name, lambda: self._fs.get_file_info(path))
        return bool(info.type == pafs.FileType.File)

    def delete(self, name: str, *, patience_s: float | None = None) -> None:
        """Delete a file; a file that is already gone is no error.

        Raises:
            StoreError: it is there and cannot be deleted.
        """
        path = f"{self._root}/{name}"
        with suppress(FileNotFoundError):
            self._persist("deleted", name, lambda: self._fs.delete_file(path), patience_s)

    def _persist(
        self, done: str, name: str, work: Callable[[], _Result], patience_s: float | None = None
    ) -> _Result:
        """Do ``work`` until it succeeds, or fails in a way that will not pass, or takes too long.

        Raises:
            FileNotFoundError: as it comes.
            StoreError: every other failure.
        """
        patience = self.patience_s if patience_s is None else patience_s
        begun, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            try:
                return work()
            except OSError as error:
                if isinstance(error, FileNotFoundError) and done in ("read", "deleted"):
                    raise
                final = self._final_error(done, name, error)
                if final is not None:
                    raise final from error
                waited = time.monotonic() - begun
                if waited + pause > patience:
                    where = f"{self.uri}/{name}" if name else self.uri
                    raise NoAccessError(
                        f"{where}: cannot be {done}: no answer in {waited:.0f} s "
                        f"({_first_line(error)}). Check the network and the endpoint, then run "
                        "the same command again."
                    ) from error
                if pause == _FIRST_PAUSE_S and patience:
                    _log.warning("%s: %s. Trying again.", self.uri, _first_line(error))
            # not all at once when the server is back
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _final_error(self, done: str, name: str, error: OSError) -> StoreError | None:
        where = f"{self.uri}/{name}" if name else self.uri
        if self._local:
            reason = error.strerror or error
            if done != "written":
                return StoreError(f"{where}: cannot be {done}: {reason}.")
            return StoreError(
                f"{where}: cannot be written: {reason}. "
                "Make room or get permission, then run the same command again."
            )
        text = str(error)
        if any(word in text for word in _NO_BUCKET):
            return self._no_bucket()
        if isinstance(error, PermissionError) or any(word in text for word in _REFUSED):
            return NoAccessError(
                f"{where}: cannot be {done}: access is refused ({_first_line(error)}). Check the "
                "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
                "AWS_SESSION_TOKEN), what they may do there, and AWS_REGION."
            )
        return None

    def _look_for_bucket(self) -> None:
        """Tell an empty store from a bucket that is not there.

        Raises:
            NoAccessError: it is not there.
        """
        if self._bucket_was_seen or not isinstance(self._fs, pafs.S3FileSystem):
            return
        bucket = self._root.partition("/")[0]
        info = self._persist("looked for", "", lambda: self._fs.get_file_info(bucket))
        if info.type == pafs.FileType.NotFound:
            raise self._no_bucket()
        self._bucket_was_seen = True

    def _no_bucket(self) -> NoAccessError:
        bucket = self._root.partition("/")[0]
        return NoAccessError(
            f"store {self.uri}: there is no bucket '{bucket}'. Create it, or correct --store."
        )


def _open(uri: str) -> tuple[pafs.FileSystem, str]:
    found, root = pafs.FileSystem.from_uri(uri)
    if not isinstance(found, pafs.S3FileSystem):
        return found, root
    # a URI cannot say all, and pyarrow reads the endpoint from the environment for URIs only
    options = dict(urllib.parse.parse_qsl(uri.partition("?")[2]))
    if unknown := options.keys() - set(_S3_OPTIONS):
        raise ValueError(
            f"{', '.join(sorted(unknown))}: not known here. Known: {', '.join(_S3_OPTIONS)}."
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in options:
        scheme, _, place = endpoint.rpartition("://")
        options |= {"scheme": scheme or "https", "endpoint_override": place.rstrip("/")}
    return pafs.S3FileSystem(
        **(options | {"region": found.region}),
        # a small file in one request instead of three
        allow_delayed_open=True,
        # pyarrow's own patience is minutes when nobody answers, and cannot be cut short
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=2),
    ), root


_S3_OPTIONS = ("endpoint_override", "region", "scheme", "tls_ca_file_path")


def _refuse_secrets(uri: str) -> None:
    scheme, _, rest = uri.partition("://")
    if not rest or scheme == "file":
        return
    address, _, query = rest.partition("?")
    place = address.partition("/")[0]
    # in the address of a bucket, unlike in that of a container, nothing stands before an '@'
    names_user = ":" in place.rpartition("@")[0] or (scheme == "s3" and "@" in address)
    parameters = [name.lower() for name, _ in urllib.parse.parse_qsl(query)]
    if names_user or any(word in name for name in parameters for word in _SECRET_WORDS):
        raise StoreError(
            f"store {scheme}://...: the address holds credentials, and addresses are recorded. "
            "Take them out; they are read from the environment (AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN)."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
    finally:
        Path(unfinished).unlink(missing_ok=True)
