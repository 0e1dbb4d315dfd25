"""Work on strings in parts that fit into memory: halved as often as it runs out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from ldru_study.training.batches import Batch
from ldru_study.training.failures import NoMemoryError, is_out_of_memory

_Result = TypeVar("_Result")
_MIB = 2**20


def in_parts(
    work: Callable[[Batch], _Result], strings: Batch, size: int
) -> tuple[list[_Result], int]:
    """Do ``work`` on all strings, in order, at most ``size`` at a time.

    When memory runs out the size is halved and the same strings are tried again.

    Returns:
        What ``work`` returned for each part, and the size that fitted.

    Raises:
        NoMemoryError: memory runs out even for a single string.
    """
    results: list[_Result] = []
    start, num_strings = 0, len(strings.labels)
    while start < num_strings:
        part = strings.part(start, start + size)
        try:
            result = work(part)
        except (RuntimeError, MemoryError) as error:
            size = halved(size, error, part)
        else:
            results.append(result)
            start += len(part.labels)
            continue
        release()
    return results, size


def halved(size: int, error: RuntimeError | MemoryError, strings: Batch) -> int:
    """Return how many of ``strings`` to try at once after ``size`` of them ended in ``error``.

    Raises:
        NoMemoryError: ``size`` was one string already.
        RuntimeError: ``error`` itself, which has nothing to do with memory.
    """
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise NoMemoryError(
            f"memory ran out for one string, in a batch of {strings.tokens.shape[1]} tokens "
            f"({str(error).partition(chr(10))[0]}). Make the strings shorter or the model "
            "smaller, raise `resources` so that fewer trials share the device, or take a larger "
            "one."
        ) from error
    return -(-size // 2)


def release() -> None:
    """Give a GPU's freed memory back, so that smaller pieces of it can be joined.

    To be called when the error is handled: until then its traceback holds what did not fit.
    """
    # does nothing where no GPU is used
    torch.cuda.empty_cache()


def peak_mib(device: torch.device) -> float:
    """Return the most memory in MiB that this process has held, or its tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    status = Path("/proc/self/status")
    if status.exists():
        # not getrusage: there a child begins with its parent's peak
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    import resource

    # kilobytes on other systems but macOS, which counts bytes
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
