"""The words of errors that tell a lack of memory from a mistake."""

from __future__ import annotations

import pytest
import torch

from ldru_study.training.failures import (
    DamagedError,
    DivergedError,
    NoMemoryError,
    TimedOutError,
    cause_of,
)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (NoMemoryError("memory ran out for one string"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory"),
        (RuntimeError("std::bad_alloc"), "out_of_memory"),
        (RuntimeError("could not create a primitive"), "out_of_memory"),
        (RuntimeError("size mismatch"), "bug"),
        (ValueError("out of memory"), "bug"),
        (KeyError("oops"), "bug"),
        (TimedOutError("step 3 of 4"), "timed_out"),
        (DivergedError("step 3"), "diverged"),
        (DamagedError("it is damaged"), "damaged"),
    ],
)
def test_every_failure_has_its_cause(error, cause):
    assert cause_of(error) == cause


def test_memory_that_really_runs_out_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert cause_of(caught.value) == "out_of_memory"
