"""The log of a submission, kept in the store: readable from anywhere, also when the head is gone.

An object store cannot append, so a log is a row of write-once segments.
"""

from __future__ import annotations

import datetime
import io
import threading
from collections.abc import Iterator

from ldru_study.errors import StoreError
from ldru_study.results.store import Store

_FOLDER = "logs"
# lines that the store could not take are kept up to this many characters
_MOST_KEPT = 4_000_000


class StudyLog(io.TextIOBase):
    """A text stream whose lines get a time stamp and go to the store when `flush_lines` is called.

    Args:
        store: where the log is kept.
        study: whose log it is.
        submission_id: which of its submissions; ids sort by time.
    """

    def __init__(self, store: Store, study: str, submission_id: str) -> None:
        self.store = store
        self._prefix = f"{_FOLDER}/{study}/{submission_id}"
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._open = ""
        self._num_segments = 0

    def writable(self) -> bool:
        """Whether text can be written: always."""
        return True

    def write(self, text: str) -> int:
        """Take in text; only whole lines are kept."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._lock:
            *lines, self._open = (self._open + text).split("\n")
            self._lines += [f"{now} {line.rstrip()}\n" for line in lines if line.strip()]
        return len(text)

    def flush_lines(self) -> None:
        """Write what came since the last call as one segment; on failure it is kept for the next.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            data = "".join(lines)[-_MOST_KEPT:].encode()
            self.store.files.write(f"{self._prefix}-{self._num_segments:06d}.log", data)
            self._num_segments += 1
        except StoreError:
            with self._lock:
                self._lines = lines + self._lines
            raise


class LogReader:
    """Reads the log of a study from its first line, and then what is new.

    Args:
        store: where the log is kept.
        study: whose log it is.
        submission_id: one of its submissions; None for all.
    """

    def __init__(self, store: Store, study: str, submission_id: str | None = None) -> None:
        self.store, self.study, self.submission_id = store, study, submission_id
        self._seen: set[str] = set()

    def new_lines(self) -> Iterator[str]:
        """Yield the lines that came since the last call, without line ends.

        Raises:
            StoreError: the store cannot be read.
        """
        first = f"{_FOLDER}/{self.study}/{self.submission_id or ''}"
        for entry in self.store.files.list(f"{_FOLDER}/{self.study}"):
            if entry.name.startswith(first) and entry.name not in self._seen:
                text = self.store.files.read(entry.name).decode(errors="replace")
                self._seen.add(entry.name)
                yield from text.splitlines()

    def has_seen(self, submission_id: str) -> bool:
        """Whether lines of a submission were among those that came so far."""
        return any(
            name.startswith(f"{_FOLDER}/{self.study}/{submission_id}") for name in self._seen
        )
