"""What a driver does beside Tune: say that it lives, keep its log, hear requests, watch budgets."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType

from ldru_study.errors import StoreError
from ldru_study.execution.brake import Brake
from ldru_study.results.drivers import DriverRecord, forget, renew, requested_stop
from ldru_study.results.logs import StudyLog
from ldru_study.results.store import Store

_TICK_S = 1.0
_RENEW_S = 5.0


class Driver(AbstractContextManager["Driver"]):
    """Looks after a run in a thread of its own until the block ends.

    Args:
        store: where the study lives.
        record: what this driver says of itself.
        brake: pulled when somebody asks the study to stop, or a budget is spent.
        is_spent: says why the budget is spent, or None; asked every second.

    Set ``say`` to how whoever watches is told what this thread does.
    """

    def __init__(
        self,
        store: Store,
        record: DriverRecord,
        brake: Brake,
        is_spent: Callable[[], str | None],
    ) -> None:
        self.store, self.record, self.brake, self.is_spent = store, record, brake, is_spent
        self.log = StudyLog(store, record.study, record.submission_id)
        # how to tell whoever watches; replaced once somebody does
        self.say: Callable[[str], None] = lambda text: None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="driver", daemon=True)

    def __enter__(self) -> Driver:
        """Begin.

        Raises:
            StoreError: the store cannot be written.
        """
        renew(self.store, self.record)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the rest of the log and leave no sign of life."""
        if error is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.log.write("".join(traceback.format_exception(error)) + "\n")
        self._over.set()
        self._thread.join()
        with suppress(StoreError):
            self.log.flush_lines()
        forget(self.store, self.record.submission_id)

    def _run(self) -> None:
        last_renewal = time.monotonic()
        while not self._over.wait(_TICK_S):
            # a store that is away for a while stops nobody: what is missing is made up for
            with suppress(StoreError):
                self.log.flush_lines()
            with suppress(StoreError):
                self._hear()
            spent = self.is_spent()
            if spent and self.brake.pull("now", "budget", spent):
                self.say(f"Stopped: {spent}.")
            if time.monotonic() - last_renewal >= _RENEW_S:
                with suppress(StoreError):
                    renew(self.store, self.record)
                    last_renewal = time.monotonic()

    def _hear(self) -> None:
        mode = requested_stop(self.store, self.record.submission_id)
        if mode is None:
            return
        how = "running trials finish first" if mode == "drain" else "running trials are interrupted"
        if self.brake.pull(mode, "stopped", f"it was asked to stop; {how}"):
            self.say(f"Asked to stop; {how}.")
