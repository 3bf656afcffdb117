"""A note for the user on training settings that are meant for another kind of base."""

from __future__ import annotations

from siamese_core.architecture import Architecture, is_small
from siamese_core.learning.recipes import recipe_notes
from siamese_core.masks.folder_contents import Tell


def tell_misfit(
    learning_rate: float, resolution: int, architecture: Architecture, is_trained: bool, tell: Tell
) -> None:
    """Report a learning rate far from the base's usual one, and a size that a small base is not made for.

    Stable Diffusion is trained at sizes other than its own (the paper: 384 px). ``is_trained``: training
    continues from a trained model.
    """
    small = is_small(architecture)
    advice = "; --config small_base has settings for small bases" if small and not is_trained else ""
    for text in recipe_notes(
        "small base" if small else "paper", learning_rate, architecture, is_trained=is_trained
    ):
        tell(f"{text}{advice}")
    if small and resolution != (own := architecture.resolution):
        tell(f"this base is for images of {own} px, not {resolution}: give --resolution {own}")
