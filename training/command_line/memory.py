"""Running out of memory: told in a sentence with the flags that need less."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from siamese_core.errors import UserError


class OutOfMemory(UserError):
    """The work did not fit into memory; the message says what takes less."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is Python's, NumPy's or PyTorch's way to say that memory is short, CPU or GPU."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    from accelerate.utils.memory import should_reduce_batch_size  # takes seconds, and is needed only here

    return bool(should_reduce_batch_size(error)) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def memory_advised(advice: str) -> Iterator[None]:
    """Turn running out of memory within the block, or the decorated function, into OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory: {advice}") from error
