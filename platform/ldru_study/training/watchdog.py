"""Notice a call that hangs, where nobody else in the process can."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# an attempt that is late may be saving, or in a long step, and end by itself
_GRACE_S, _GRACE_SHARE = 60.0, 0.1


@contextmanager
def watched(timeout_s: float | None, on_hang: Callable[[str], None]) -> Iterator[None]:
    """Call ``on_hang`` when the block takes much longer than ``timeout_s``.

    That is by more than a minute and more than a tenth. It is noticed as long as the call that
    hangs has released Python's global lock, as those of torch, sockets and files do.

    Args:
        timeout_s: when the block should have ended by itself; None watches nothing.
        on_hang: called in another thread with the stack of the one that hangs. Neither an
            exception nor a signal reaches that one: what is left is to end the process.
    """
    if timeout_s is None:
        yield
        return
    over, ident = threading.Event(), threading.get_ident()
    patience = timeout_s + max(_GRACE_S, _GRACE_SHARE * timeout_s)

    def watch() -> None:
        if not over.wait(patience):
            on_hang("".join(traceback.format_stack(sys._current_frames()[ident])))

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
