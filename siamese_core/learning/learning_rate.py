"""Learning rate schedule."""

from __future__ import annotations

import math
from typing import Any


def cosine_rate(peak: float, step: int, steps: int, warmup: int = 0) -> float:
    """Learning rate of ``step`` (from 0) in a run of ``steps`` steps.

    It rises linearly to ``peak`` over ``warmup`` steps and then follows a half cosine down to 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
