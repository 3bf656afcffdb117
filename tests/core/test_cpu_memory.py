"""What the C library does with freed memory, seen from outside in a process of its own. Linux with glibc."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is meant")

FAULTS = """
import resource, torch
from siamese_core.cpu_memory import keep_freed_memory, return_freed_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(20_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
faults(), print(faults())
keep_freed_memory()
faults(), print(faults())
kept = resident()
return_freed_memory()
print(kept - resident())
"""


def test_kept_memory_is_not_fetched_again_and_can_be_returned() -> None:
    command = [sys.executable, "-c", FAULTS]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    fetched_anew, kept, returned_mib = map(float, run.stdout.split())

    assert fetched_anew > 10_000  # pages
    assert kept < fetched_anew / 10
    assert returned_mib > 50
