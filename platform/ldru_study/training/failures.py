"""Why a trial failed, by cause: each cause asks for another answer."""

from __future__ import annotations

OUT_OF_MEMORY = "out_of_memory"
DIVERGED = "diverged"
WORKER_DIED = "worker_died"
NODE_LOST = "node_lost"
PREEMPTED = "preempted"
INTERRUPTED = "interrupted"
DAMAGED = "damaged"
TIMED_OUT = "timed_out"
# its rows could not be written: a full disk, or an object store that was away for too long
STORE = "store"
BUG = "bug"

# the CPU allocator and the operating system raise plain errors; only their words tell
_MEMORY_WORDS = (
    "can't allocate memory",
    "Cannot allocate memory",
    "out of memory",
    "std::bad_alloc",
    # oneDNN's, whatever it lacks; in a training that ran before it is memory
    "could not create a primitive",
)


class DivergedError(Exception):
    """Training reached a loss or gradient that is not a finite number."""


class NoMemoryError(MemoryError):
    """Not even one string at a time fits into memory; the message says what to do."""


class TimedOutError(Exception):
    """An attempt took longer than it may; what it did is kept."""


class WorkerLostError(Exception):
    """A process that trains with others is gone, or lacks memory: all begin again elsewhere.

    Args:
        cause: for the record, if nobody tries again.
        message: the same in words.
    """

    def __init__(self, cause: str, message: str) -> None:
        self.cause, self.message = cause, message
        # all arguments, so that it survives the way to another process
        super().__init__(cause, message)

    def __str__(self) -> str:
        return self.message


class DamagedError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another trial."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on a GPU or on the CPU."""
    # drivers need the causes above, and not the seconds that this takes
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _MEMORY_WORDS)


def cause_of(error: BaseException) -> str:
    """Return the cause under which a failed attempt is recorded."""
    if isinstance(error, DivergedError):
        return DIVERGED
    if isinstance(error, DamagedError):
        return DAMAGED
    if isinstance(error, TimedOutError):
        return TIMED_OUT
    return OUT_OF_MEMORY if is_out_of_memory(error) else BUG
