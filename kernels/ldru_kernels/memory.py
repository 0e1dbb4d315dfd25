"""Memory of a process that takes many steps alike."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next step.

    A step on a CPU takes and frees the same megabytes as the one before. glibc gives them back to
    the kernel in between, or not, by thresholds that follow the history of the process, and then
    the next step faults every page in again: up to a quarter of its time. From now on they stay.
    Where steps differ in their sizes the pieces crumble, and the process grows by up to a
    megabyte a step: see `give_back_freed_memory`. It concerns the whole process, and so no op
    does it unasked.

    Returns:
        Whether this C library can be told so; glibc can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST) and mallopt(_M_MMAP_MAX, 0))


def give_back_freed_memory() -> bool:
    """Give back, once, the freed memory of this process.

    Now and then, in place of the thresholds that `keep_freed_memory` has lifted: 5 to 10 ms, and
    the next step faults its pages in again.

    Returns:
        Whether this C library can do so; glibc can.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return False
    trim(0)
    return True
