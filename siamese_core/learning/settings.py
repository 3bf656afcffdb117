"""Settings of a training run other than its data and objective: batches, optimiser, execution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..settings import COUNT, COUNT_OR_NONE, DECAY, RATE_OR_NONE, SHARE, WEIGHT, option
from .learning_rate import cosine_rate

Precision = Literal["no", "fp16", "bf16"]
"""Autocast dtype of a step; weights and optimiser state keep theirs."""


@dataclass(frozen=True)
class BatchSettings:
    """What each step trains on; the defaults are the paper's, per device."""

    batch_size: int = option(6, "pairs a step (the paper's global batch is 48 = 8 x 6)", COUNT)
    draws_per_pair: int = option(
        1,
        "timesteps and noises a step draws for each pair; its hints are computed once for all of them",
        COUNT,
    )
    timestep_sampling: Literal["independent", "stratified"] = option(
        "independent", "stratified: a step's timesteps lie evenly over 0..999; same expectation, less noise"
    )
    prompt_dropout: float = option(0.05, "share of samples trained on the empty prompt", SHARE)
    balance_prompts: bool = option(
        False, "draw every prompt equally often, so that rare kinds of images are learnt", added_later=True
    )


@dataclass(frozen=True)
class OptimiserSettings:
    """Settings of AdamW; the defaults are the paper's."""

    learning_rate: float = option(
        1e-5, "AdamW's rate, or its peak when it decays; 0 leaves the weights", RATE_OR_NONE
    )
    hint_learning_rate: float | None = option(
        None,
        "rate of the hint block, when another; its wide convolutions die at rates that suit small bases",
        RATE_OR_NONE,
    )
    rate_decay: Literal["none", "cosine"] = option(
        "none", "down to 0 along a half cosine; the paper has none"
    )
    warmup: int = option(0, "steps in which the rates rise to their value; the paper has none", COUNT_OR_NONE)
    weight_decay: float = option(1e-2, "AdamW's weight decay", WEIGHT)
    optimiser: Literal["adamw", "adamw8bit"] = option(
        "adamw", "adamw8bit keeps its state in 8 bits (needs the extra 'eightbit')"
    )
    ema_decay: float = option(
        0.0,
        "keep, sample from and export a moving average of the weights (0.999 is usual); 0 leaves it out",
        DECAY,
    )
    weight_precision: Literal["fp32", "bf16"] = option(
        "fp32",
        "bf16 holds weights and gradients in half the memory, stochastically rounded; "
        "needs mixed precision bf16",
        added_later=True,
    )

    def rate_factor(self, step: int, total_steps: int) -> float:
        """Factor on the learning rates at step k of N, in (0, 1]."""
        if self.rate_decay == "cosine":
            return cosine_rate(1.0, step, total_steps, self.warmup)
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0


@dataclass(frozen=True)
class ExecutionSettings:
    """How a step is computed; results differ only by rounding."""

    micro_batches: int = option(
        1, "parts in which a process works through its batch, one after the other: less memory", COUNT
    )
    gradient_checkpointing: bool = option(
        False, "repeat forward passes in the backward pass: a third slower, a third of the memory"
    )
