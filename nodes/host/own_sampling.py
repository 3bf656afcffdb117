"""What 0 means where a node asks for a size or a guidance scale: the model's own."""

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
    """Write on the running node how the model of ``file`` was trained, as far as it is recorded.

    ``warnings`` stand before that: what a node wrote earlier, this takes the place of.
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
    """The hints of a model that masks alone are none for, with the strength of each."""
    mask, image = own.hint_weights
    return (
        f"its mask at strength {mask:g} and its image at {image:g}"
        if mask
        else f"the image at strength {image:g}"
    )


def own_sampling_of(model: Any) -> OwnSampling:
    """How a MODEL wants to be sampled; the paper's way when its file is none of this project's."""
    found = model.get_attachment(OWN_SAMPLING)
    return _PAPER if found is None else found


def chosen_guidance(model: Any, cfg: float) -> float:
    """The guidance scale ``cfg``, the model's own for 0. Raises UserError for what lies between 0 and 1."""
    if cfg == 0:
        return own_sampling_of(model).guidance
    if cfg < 1:
        raise UserError(f"'cfg' is {cfg:g}; give 0 for the model's own guidance scale, or 1 or more.")
    return cfg


def chosen_side(model: Any, side: int) -> int:
    """The width or height ``side`` in pixels, the model's own for 0."""
    return side or own_sampling_of(model).resolution


def size_warnings(model: Any, height: int, width: int) -> list[str]:
    """What is to be said when images of this size are none that the model was trained for."""
    own = own_sampling_of(model)
    if not own.recorded or (height, width) == (own.resolution, own.resolution):
        return []
    # Short, as the page shows a few lines only.
    return [
        f"{width} x {height} pixels, but the model was trained at {own.resolution} x {own.resolution}: set "
        "width and height to 0"
    ]
