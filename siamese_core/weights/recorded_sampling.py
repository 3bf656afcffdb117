"""At which size and guidance scale and with which hints a model is sampled: by its record, else its kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..architecture import LATENT_STRIDE, SD15, Architecture
from ..errors import CheckpointError
from ..method.objective import ObjectiveSettings

PAPER_RESOLUTION = 384
PAPER_GUIDANCE = 9.0
_SMALL_GUIDANCE = 3.0  # small bases burn in at more
_LARGEST_SIDE, _SIDE_STEP = 4096, 8 * LATENT_STRIDE
_LARGEST_GUIDANCE = 30.0


@dataclass(frozen=True)
class OwnSampling:
    """The side in pixels and the guidance scale of a model; ``recorded``: its file tells the side.

    ``hint_weights``: strengths of the controls of mask and image, (1, 0) but for the paper's baselines.
    """

    resolution: int
    guidance: float
    recorded: bool
    hint_weights: tuple[float, float] = (1.0, 0.0)

    @property
    def needs_image(self) -> bool:
        """Whether masks alone are no hint for it."""
        return self.hint_weights[1] > 0


def own_sampling(training: Mapping[str, Any], architecture: Architecture) -> OwnSampling:
    """How the model of a file with the record ``training`` is sampled; the paper's where it tells nothing.

    A record comes from anyone's file: a number that cannot be is as good as none.
    """
    try:
        side = recorded_side(training)
    except CheckpointError:
        side = None
    is_small = architecture.unet.widths[0] < SD15.unet.widths[0]
    guidance = _SMALL_GUIDANCE if is_small else PAPER_GUIDANCE
    for key in ("sample_guidance", "guidance"):
        value: Any = training.get(key)
        if type(value) in (int, float) and 1 <= value <= _LARGEST_GUIDANCE:
            guidance = float(value)
    hint_weights = recorded_hint_weights(training)
    return OwnSampling(side or PAPER_RESOLUTION, guidance, side is not None, hint_weights)


def recorded_hint_weights(training: Mapping[str, Any]) -> tuple[float, float]:
    """Weights of the controls of mask and image that a model is sampled with: (1, 0) but for baselines."""
    weight: Any = training.get("mask_weight")
    fits = type(weight) in (int, float) and 0 <= weight < math.inf
    branches: Any = training.get("branches")
    return ObjectiveSettings(branches=branches, mask_weight=float(weight) if fits else 1.0).hint_weights


def recorded_side(training: Mapping[str, Any]) -> int | None:
    """The image side in pixels that a model was trained at; None where its record does not tell.

    Raises CheckpointError for a record that is no side a model can be trained at.
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
