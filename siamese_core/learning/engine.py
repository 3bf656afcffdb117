"""What training needs of whoever runs it: a device, and what several processes agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Engine(Protocol):
    """One process of a training run; each holds all weights and works through its own share of a batch."""

    device: torch.device
    process: int
    processes: int

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace ``tensors``, of one device, by their means over all processes.

        Every process calls this once a step however many backward passes its samples needed, so that none
        waits for one that another does not make.
        """
        ...

    def highest(self, number: int) -> int:
        """The highest of the numbers that the processes call this with; no synchronisation with a GPU."""
        ...

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        ...


class SingleProcess:
    """The engine of a run that nothing shares."""

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
    """Whether this is the process that writes files and speaks."""
    return engine.process == 0
