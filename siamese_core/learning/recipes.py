"""Training settings that belong together, by name: the paper's, and those for a small base."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ..architecture import Architecture, is_small
from ..method.objective import ObjectiveSettings
from .settings import BatchSettings, OptimiserSettings

Recipe = Literal["paper", "small base"]

PAPER_RATE, SMALL_BASE_RATE, TRAINED_RATE = 1e-5, 6e-4, 1e-4
"""Learning rates for Stable Diffusion, for a small base, and for a small model that is trained further."""
_HINT_RATE_SHARE = 0.2
_FAR = 5.0  # times the learning rate that suits a base


def recipe_notes(
    recipe: Recipe, learning_rate: float, architecture: Architecture, *, is_trained: bool
) -> list[str]:
    """What suits the base better, where the recipe or the learning rate is for another kind of base.

    ``is_trained``: training continues from a trained model; a small one may have either recipe.
    """
    fitting: tuple[Recipe, ...]
    if not is_small(architecture):
        fitting, rate = ("paper",), PAPER_RATE
    elif is_trained:
        fitting, rate = ("paper", "small base"), TRAINED_RATE
    else:
        fitting, rate = ("small base",), SMALL_BASE_RATE
    if recipe not in fitting:
        return [f"recipe '{fitting[0]}' with learning_rate {rate:g} suits this base better"]
    if not rate / _FAR <= learning_rate <= rate * _FAR:
        return [f"a learning_rate near {rate:g} suits this base better"]
    return []


def with_recipe(
    recipe: Recipe, batches: BatchSettings, optimiser: OptimiserSettings
) -> tuple[ObjectiveSettings, BatchSettings, OptimiserSettings]:
    """The settings of ``recipe``, with the batch size, learning rate and averaging of the ones given.

    ``"paper"`` has the defaults of these settings, which are the paper's. ``"small base"`` suits bases of
    ``training.make_base`` (64 channels wide, 128 px); the commands have it as
    ``training/recipes/small_base.toml``.
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
