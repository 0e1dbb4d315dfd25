"""Freed memory stays with the process that asks for it, and goes when it says so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from ldru_kernels import keep_freed_memory
if sys.argv[1] == "keeps":
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

# several times 256 MiB in pieces that are above every threshold of the allocator; the best counts,
# since pieces may lie differently until they have found their places
counts = []
for _ in range(6):
    before = faults()
    [torch.ones(2**24) for _ in range(4)]
    counts.append(faults() - before)
print(min(counts))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it speaks to glibc")
def test_a_second_step_finds_the_pages_of_the_first():
    def faults(how):
        command = [sys.executable, "-c", SCRIPT, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    num_pages = 4 * 2**26 // 4096
    assert faults("keeps") < num_pages / 20
    assert faults("gives back") > num_pages / 20


CRUMBS = """
import resource, sys
from pathlib import Path
import torch
from ldru_kernels import give_back_freed_memory, keep_freed_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

keep_freed_memory()
before = held()
# every second piece stays, so that the heap cannot shrink from its top
pieces = [torch.ones(2**20) for _ in range(64)]
pieces = pieces[1::2]
crumbled = held()
if sys.argv[1] == "gives back":
    assert give_back_freed_memory()
print((held() - before) / (crumbled - before))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it speaks to glibc")
def test_crumbs_between_what_is_held_are_given_back():
    def share_held(how):
        command = [sys.executable, "-c", CRUMBS, how]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert share_held("keeps") > 0.9
    assert share_held("gives back") < 0.6
