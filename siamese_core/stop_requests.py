"""Stopping a long run cleanly on signals from a user or a job scheduler."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Interrupted(Exception):
    """The run was asked to stop; ``step`` steps are done and saved."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number} after {step} steps")
        self.step = step
        self.signal_number = signal_number


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the numbers of SIGINT and SIGTERM in a list; a second signal of a kind has its usual effect."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handler(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in map(int, (signal.SIGINT, signal.SIGTERM)):
        with contextlib.suppress(ValueError):  # raised outside the main thread; handlers stay unchanged
            previous[number] = signal.signal(number, handler)
    try:
        yield received
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
