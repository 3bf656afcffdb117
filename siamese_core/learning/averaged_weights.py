"""An exponential moving average of trained weights (EMA)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class AveragedWeights:
    """The moving average of ``parameters``, which start it.

    Averages are float32, whatever the parameters are. That of few updates forgets the start sooner: after n
    of them its decay is at most n / (9 + n), or with ``warmup_power`` 1 - n ** -power. Numbers and
    ``state_dict`` are those of diffusers' ``EMAModel``.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float, warmup_power: float | None = None) -> None:
        self.parameters = list(parameters)
        # In bfloat16 a small share of a difference would be rounded away.
        self.averages = [parameter.detach().to(torch.float32, copy=True) for parameter in self.parameters]
        self.decay = decay
        self.warmup_power = warmup_power
        self.updates = 0

    def current_decay(self) -> float:
        """The share of the old average in the latest update."""
        before = self.updates - 1
        if before <= 0:
            return 0.0
        if self.warmup_power is None:
            return min((1 + before) / (10 + before), self.decay)
        return min(1 - float(1 + before) ** -self.warmup_power, self.decay)

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are now into the average."""
        self.updates += 1
        share = 1 - self.current_decay()
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.sub_(share * (average - parameter))

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            parameter.copy_(average)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the parameters are their averages; the others wait on the CPU."""
        kept = [parameter.detach().to("cpu", copy=True) for parameter in self.parameters]
        self.copy_to_parameters()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, kept, strict=True):
                    parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {
            "decay": self.decay,
            "min_decay": 0.0,
            "optimization_step": self.updates,
            "update_after_step": 0,
            "use_ema_warmup": self.warmup_power is not None,
            "inv_gamma": 1.0,
            "power": 2 / 3 if self.warmup_power is None else self.warmup_power,
            "shadow_params": self.averages,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the averages of ``state``; how fast they decay is not read, a run's settings say it.

        Raises ValueError when they are not averages of such parameters; nothing is changed then.
        """
        found = state["shadow_params"]
        if [average.shape for average in found] != [average.shape for average in self.averages]:
            raise ValueError("the averaged weights have other shapes than the trained ones")
        for average, value in zip(self.averages, found, strict=True):
            average.copy_(value)
        self.updates = int(state["optimization_step"])
