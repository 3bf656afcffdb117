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

    batch_size: int = option(6, "pairs per step (the paper's global batch is 48 = 8 x 6)", COUNT)
    draws_per_pair: int = option(
        1,
        "timesteps and noise samples drawn per pair and step; the hints are computed once for all of them",
        COUNT,
    )
    timestep_sampling: Literal["independent", "stratified"] = option(
        "independent",
        "stratified spreads a step's timesteps evenly over 0..999: same expectation, less noise",
    )
    prompt_dropout: float = option(0.05, "share of samples trained on the empty prompt", SHARE)
    balance_prompts: bool = option(
        False,
        "draw every prompt equally often, so that rare kinds of images are learnt too",
        added_later=True,
    )


@dataclass(frozen=True)
class OptimiserSettings:
    """Settings of AdamW; the defaults are the paper's."""

    learning_rate: float = option(
        1e-5,
        "AdamW's learning rate, or its peak when it decays; 0 leaves the weights unchanged",
        RATE_OR_NONE,
    )
    hint_learning_rate: float | None = option(
        None,
        "learning rate of the hint block, if different; its wide convolutions die at rates that suit small "
        "bases",
        RATE_OR_NONE,
    )
    decoder_learning_rate: float | None = option(
        None,
        "learning rate of the decoder, if different; 0 leaves it as in the base, which may know more images "
        "than the pairs show (but rounded with weight precision bf16)",
        RATE_OR_NONE,
        added_later=True,
    )
    rate_decay: Literal["none", "cosine"] = option(
        "none", "cosine decays the rate to 0 along a half cosine; the paper uses none"
    )
    warmup: int = option(
        0, "steps of linear warm-up of the learning rates; the paper uses none", COUNT_OR_NONE
    )
    weight_decay: float = option(1e-2, "AdamW's weight decay", WEIGHT)
    optimiser: Literal["adamw", "adamw8bit"] = option(
        "adamw", "adamw8bit keeps the optimiser state in 8 bits (needs the extra 'eightbit')"
    )
    ema_decay: float = option(
        0.0,
        "keep, sample from and export a moving average of the weights (0.999 is usual); 0 turns it off",
        DECAY,
    )
    weight_precision: Literal["fp32", "bf16"] = option(
        "fp32",
        "bf16 stores weights and gradients in half the memory, with stochastic rounding; needs "
        "mixed precision bf16. The encoder, which is not trained, is rounded too: an adapter belongs to the "
        "base as bf16",
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
        1,
        "parts in which a process computes its batch, one after another; more parts need less memory",
        COUNT,
    )
    gradient_checkpointing: bool = option(
        False, "recompute activations in the backward pass: a third slower, with less memory"
    )
