"""Training settings that belong together, by name: the paper's, and those for a small base."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ..method.objective import ObjectiveSettings
from .settings import BatchSettings, OptimiserSettings

Recipe = Literal["paper", "small base"]

SMALL_BASE_RATE = 6e-4
"""The learning rate that goes with the recipe for a small base; the paper's is for 3000 steps from SD 1.5."""
_HINT_RATE_SHARE = 0.2


def with_recipe(
    recipe: Recipe, batches: BatchSettings, optimiser: OptimiserSettings
) -> tuple[ObjectiveSettings, BatchSettings, OptimiserSettings]:
    """The settings of ``recipe``, with the batch size, learning rate and averaging of the ones given.

    ``"paper"`` is Sec. 4.1 of the paper. ``"small base"`` suits bases of ``training.make_base`` (64 channels
    wide, 128 px) and is what ``training/recipes/small_base.toml`` gives to the commands.
    """
    if recipe == "paper":
        return ObjectiveSettings(), batches, optimiser
    return (
        ObjectiveSettings(snr_exponent=0.5),
        replace(batches, draws_per_pair=4, timestep_sampling="stratified"),
        replace(
            optimiser,
            hint_learning_rate=_HINT_RATE_SHARE * optimiser.learning_rate,
            rate_decay="cosine",
            warmup=10,
        ),
    )
