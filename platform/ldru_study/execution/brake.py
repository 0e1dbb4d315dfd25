"""Why a run ends before all is done: asked to, out of budget, or at the first failure."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from typing import Literal

Reason = Literal["stopped", "budget", "failed", "interrupted"]


@dataclass
class Brake:
    """Pulled once, by whoever finds a reason first.

    ``mode`` is None while the run goes on, ``drain`` when running trials may finish and no other
    begins, ``now`` when running trials are interrupted, to be continued from their checkpoints.
    """

    mode: Literal["drain", "now"] | None = None
    reason: Reason | None = None
    message: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def pull(self, mode: Literal["drain", "now"], reason: Reason, message: str) -> bool:
        """Brake; False when that changes nothing. A drain can become a stop at once."""
        with self._lock:
            if self.mode == "now" or self.mode == mode:
                return False
            self.mode = mode
            self.reason, self.message = reason, message
        if mode == "now":
            # Tune ends on this as it does on Ctrl-C: workers are stopped, `fit` returns
            os.kill(os.getpid(), signal.SIGINT)
        return True

    def pull_quietly(self, reason: Reason, message: str) -> None:
        """Note that the run has ended already, for this reason unless there was one before."""
        with self._lock:
            if self.mode is None:
                self.mode, self.reason, self.message = "now", reason, message
