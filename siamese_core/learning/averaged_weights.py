"""An exponential moving average of trained weights (EMA)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class AveragedWeights:
    """The moving average of ``parameters``, initialised from them and kept in float32 whatever their dtype.

    The decay warms up: update n > 1 uses at most n / (9 + n), or 1 - n ** -``warmup_power`` if that is given,
    and the first one 0. Values and ``state_dict`` match diffusers' ``EMAModel``.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float, warmup_power: float | None = None) -> None:
        self.parameters = list(parameters)
        # float32, because in bfloat16 small updates of the average would be rounded away.
        self.averages = [parameter.detach().to(torch.float32, copy=True) for parameter in self.parameters]
        self.decay = decay
        self.warmup_power = warmup_power
        self.updates = 0

    def current_decay(self) -> float:
        """The decay of the latest update: the share of the old average in the new one."""
        before = self.updates - 1
        if before <= 0:
            return 0.0
        if self.warmup_power is None:
            return min((1 + before) / (10 + before), self.decay)
        return min(1 - float(1 + before) ** -self.warmup_power, self.decay)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current parameters."""
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
        """Within the block the parameters hold the averages; their own values are kept on the CPU."""
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
        """Continue from the averages and update count of ``state``, keeping this object's decay settings.

        Raises ValueError, before anything is changed, when the shapes differ from the parameters'.
        """
        found = state["shadow_params"]
        if [average.shape for average in found] != [average.shape for average in self.averages]:
            raise ValueError("the averaged weights have other shapes than the trained ones")
        for average, value in zip(self.averages, found, strict=True):
            average.copy_(value)
        self.updates = int(state["optimization_step"])
