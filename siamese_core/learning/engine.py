"""What training needs of its launcher: a device, and communication between processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Engine(Protocol):
    """One process of data-parallel training: it holds all weights and computes its share of each batch."""

    device: torch.device
    process: int
    processes: int

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace ``tensors``, all on one device, in place by their means over all processes.

        A collective call: every process makes it once a step, however many backward passes its samples
        needed, so that the processes cannot deadlock.
        """
        ...

    def highest(self, number: int) -> int:
        """The maximum of ``number`` over all processes, without a GPU synchronisation."""
        ...

    def wait_for_all(self) -> None:
        """A barrier: return when every process has reached it."""
        ...


class SingleProcess:
    """The engine of a run in a single process."""

    process = 0
    processes = 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def average(self, tensors: Sequence[Tensor]) -> None:
        pass

    def highest(self, number: int) -> int:
        return number

    def wait_for_all(self) -> None:
        pass


def is_main(engine: Engine) -> bool:
    """Whether this is the process that writes files and prints messages."""
    return engine.process == 0
