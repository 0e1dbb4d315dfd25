"""Why a run ends before all is done: asked to, out of budget, or at the first failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ldru_study.errors import StoreError

Reason = Literal["stopped", "budget", "failed", "interrupted"]


@dataclass
class Brake:
    """Pulled once, by whoever finds a reason first, in any thread; the run looks at it often.

    ``mode`` is None while the run goes on, ``drain`` when running trials may finish and no other
    begins, ``now`` when running trials are interrupted, to be continued from their checkpoints.
    ``error`` is what is to be raised once all has stopped.
    """

    mode: Literal["drain", "now"] | None = None
    reason: Reason | None = None
    message: str = ""
    error: StoreError | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def pull(self, mode: Literal["drain", "now"], reason: Reason, message: str) -> bool:
        """Brake; False when that changes nothing. A drain can become a stop at once."""
        with self._lock:
            if self.mode == "now" or self.mode == mode:
                return False
            self.mode = mode
            self.reason, self.message = reason, message
        return True

    @contextmanager
    def on_store_error(self) -> Iterator[None]:
        """Brake when the store fails in this block, and keep the error.

        Tune, which calls us, would make a traceback of it.
        """
        try:
            yield
        except StoreError as error:
            self.error = self.error or error
            self.pull("now", "failed", str(error))
