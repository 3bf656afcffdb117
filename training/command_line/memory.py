"""Turning out-of-memory errors into a message that names the flags to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from siamese_core.errors import UserError


class OutOfMemory(UserError):
    """The work did not fit into memory; the message says what to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is an out-of-memory error of Python, NumPy or PyTorch, on the CPU or a GPU."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    from accelerate.utils.memory import should_reduce_batch_size  # a slow import, needed only here

    return bool(should_reduce_batch_size(error)) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def memory_advised(advice: str) -> Iterator[None]:
    """Raise OutOfMemory with ``advice`` for an out-of-memory error in the block or decorated function."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory: {advice}") from error
