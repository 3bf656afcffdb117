"""How a process on a CPU handles the memory of its tensors."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Have the memory that tensors free kept for the next ones, from now on in this process.

    glibc returns blocks above 32 MiB to the system and fetches new ones page by page, each of which the
    system has to fill with zeros: up to a tenth of the time of a batch. In return the process never
    shrinks below the most it needed. Does nothing where the C library is another.
    """
    if _has_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Return what has been freed to the system, from between the blocks in use too. With glibc only."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
