"""Tuning glibc's memory allocator for tensors on the CPU."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def keep_freed_memory() -> None:
    """Make this process keep freed tensor memory for reuse. Does nothing without glibc.

    By default glibc returns blocks above 32 MiB to the system and fetches new ones page by page, each of
    which the system has to zero; that can take a tenth of a batch's time. The price is that the process stays
    at its peak memory.
    """
    if _has_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Return all freed memory to the system, also between blocks in use. Does nothing without glibc."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
