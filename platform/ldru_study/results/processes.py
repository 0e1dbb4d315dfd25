"""Whether a process of this host still lives."""

from __future__ import annotations

import psutil


def is_running(pid: int) -> bool:
    """Whether a process of this host exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
