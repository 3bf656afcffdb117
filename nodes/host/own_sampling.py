"""Resolving the value 0 of size and guidance inputs to the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...siamese_core.errors import CheckpointError, UserError
from ...siamese_core.weights.model_file import ModelFile
from ...siamese_core.weights.recorded_sampling import (
    PAPER_GUIDANCE,
    PAPER_RESOLUTION,
    OwnSampling,
    own_sampling,
    recorded_side,
)
from ...siamese_core.weights.training_record import PROMPTS_KEY, recorded_prompts
from .host_models import OWN_SAMPLING
from .notices import show

_SHOWN_PROMPTS = 4
_PAPER = OwnSampling(PAPER_RESOLUTION, PAPER_GUIDANCE, recorded=False)


def tell_of_training(file: ModelFile, warnings: Sequence[str] = ()) -> None:
    """Show on the running node how the model in ``file`` was trained, as far as recorded.

    This replaces any earlier text on the node, so earlier ``warnings`` have to be passed again.
    """
    own = own_sampling(file.training, file.architecture)
    size = f"trained at {own.resolution} x {own.resolution} pixels" if own.recorded else "size not recorded"
    lines, warnings = [f"{size}, own cfg {own.guidance:g}"], [*warnings]
    try:
        recorded_side(file.training)
    except CheckpointError as error:
        warnings.append(str(error))
    try:
        shares = recorded_prompts(file.training) if PROMPTS_KEY in file.training else {}
    except CheckpointError as error:
        shares = {}
        warnings.append(str(error))
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"{share:.0%}: {prompt}" for prompt, share in ordered[:_SHOWN_PROMPTS]]
    if own.needs_image:
        warnings = [*warnings, f"samples with {hints_in_words(own)}: see the template mask_and_image_prior"]
    if len(shares) > _SHOWN_PROMPTS:
        lines.append(f"and {len(shares) - _SHOWN_PROMPTS} more prompts")
    show("\n".join(lines), warnings)


def hints_in_words(own: OwnSampling) -> str:
    """The hints, with strengths, of a baseline that needs images as hints, as a phrase for messages."""
    mask, image = own.hint_weights
    return (
        f"its mask at strength {mask:g} and its image at {image:g}"
        if mask
        else f"the image at strength {image:g}"
    )


def own_sampling_of(model: Any) -> OwnSampling:
    """A MODEL's sampling defaults; the paper's for models from other loaders."""
    found = model.get_attachment(OWN_SAMPLING)
    return _PAPER if found is None else found


def chosen_guidance(model: Any, cfg: float) -> float:
    """``cfg``, or the model's own guidance scale for 0. Raises UserError for values between 0 and 1."""
    if cfg == 0:
        return own_sampling_of(model).guidance
    if cfg < 1:
        raise UserError(f"'cfg' is {cfg:g}; give 0 for the model's own guidance scale, or 1 or more.")
    return cfg


def chosen_side(model: Any, side: int) -> int:
    """``side`` in pixels, or the model's own for 0."""
    return side or own_sampling_of(model).resolution


def size_warnings(model: Any, height: int, width: int) -> list[str]:
    """A warning if the image size in pixels differs from the recorded one that the model was trained at."""
    own = own_sampling_of(model)
    if not own.recorded or (height, width) == (own.resolution, own.resolution):
        return []
    # Kept short: the page shows only a few lines.
    return [
        f"{width} x {height} pixels, but the model was trained at {own.resolution} x {own.resolution}: set "
        "width and height to 0"
    ]


def resize_mode_warnings(model: Any, mode: str) -> list[str]:
    """A warning if masks are resized by another ``mode`` than the recorded one of the model's training."""
    own = own_sampling_of(model).resize_mode
    told = f"masks are resized by {mode}, and in training by {own}: set resize_mode to that"
    return [] if mode == own else [told]
