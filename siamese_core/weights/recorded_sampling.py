"""Default image size, guidance scale and hint weights of a model, from its training record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..architecture import LATENT_STRIDE, Architecture, is_small
from ..errors import CheckpointError
from ..masks.resizing import ResizeMode
from ..method.objective import ObjectiveSettings

PAPER_RESOLUTION = 384
PAPER_GUIDANCE = 9.0
_SMALL_GUIDANCE = 3.0  # small models oversaturate at higher scales
_LARGEST_SIDE, _SIDE_STEP = 4096, 8 * LATENT_STRIDE
_LARGEST_GUIDANCE = 30.0


@dataclass(frozen=True)
class OwnSampling:
    """A model's image side in pixels and guidance scale; ``recorded``: the side comes from its file.

    ``hint_weights``: weights of the mask's and the image's control, (1, 0) except for the paper's baselines.
    ``resize_mode``: how pairs were resized in training.
    """

    resolution: int
    guidance: float
    recorded: bool
    hint_weights: tuple[float, float] = (1.0, 0.0)
    resize_mode: ResizeMode = "stretch"

    @property
    def needs_image(self) -> bool:
        """Whether the model needs images as hints, not masks alone."""
        return self.hint_weights[1] > 0


def own_sampling(training: Mapping[str, Any], architecture: Architecture) -> OwnSampling:
    """Sampling defaults from a model's ``training`` record, with the paper's values for anything missing.

    The default guidance scale of narrow (small) models is 3. Records come from untrusted files: impossible
    values count as missing.
    """
    try:
        side = recorded_side(training)
    except CheckpointError:
        side = None
    guidance = usual_guidance(architecture)
    for key in ("sample_guidance", "guidance"):
        value: Any = training.get(key)
        if type(value) in (int, float) and 1 <= value <= _LARGEST_GUIDANCE:
            guidance = float(value)
    hint_weights = recorded_hint_weights(training)
    mode = recorded_resize_mode(training)
    return OwnSampling(side or PAPER_RESOLUTION, guidance, side is not None, hint_weights, mode)


def recorded_resize_mode(record: Mapping[str, Any]) -> ResizeMode:
    """How the record of a training or a dataset says that masks are resized: "stretch" if it does not."""
    modes: tuple[ResizeMode, ...] = get_args(ResizeMode)
    return next((mode for mode in modes if mode == record.get("resize_mode")), "stretch")


def usual_guidance(architecture: Architecture) -> float:
    """The default guidance scale for a model of this size: the paper's 9, or 3 if narrower than SD 1.5."""
    return _SMALL_GUIDANCE if is_small(architecture) else PAPER_GUIDANCE


def recorded_hint_weights(training: Mapping[str, Any]) -> tuple[float, float]:
    """Weights of the mask's and the image's control in sampling: (1, 0) except for the paper's baselines."""
    weight: Any = training.get("mask_weight")
    fits = type(weight) in (int, float) and 0 <= weight < math.inf
    branches: Any = training.get("branches")
    return ObjectiveSettings(branches=branches, mask_weight=float(weight) if fits else 1.0).hint_weights


def recorded_side(training: Mapping[str, Any]) -> int | None:
    """The image side in pixels that a model was trained at; None when it is not recorded.

    Raises CheckpointError when the recorded value is not a multiple of 64 in 64..4096.
    """
    side: Any = training.get("resolution")
    if side is None:
        return None
    if type(side) is not int or not 0 < side <= _LARGEST_SIDE or side % _SIDE_STEP:
        raise CheckpointError(
            f"its record gives the resolution {str(side)[:40]}, which is no positive multiple of "
            f"{_SIDE_STEP} up to {_LARGEST_SIDE}; give one yourself"
        )
    return side
