"""At which size and guidance scale a model is sampled: what its file records, else what its kind wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..architecture import LATENT_STRIDE, SD15, Architecture

PAPER_RESOLUTION = 384
PAPER_GUIDANCE = 9.0
_SMALL_GUIDANCE = 3.0  # small bases burn in at more
_LARGEST_SIDE = 4096
_LARGEST_GUIDANCE = 30.0


@dataclass(frozen=True)
class OwnSampling:
    """The side in pixels and the guidance scale of a model; ``recorded``: its file tells the side."""

    resolution: int
    guidance: float
    recorded: bool


def own_sampling(training: Mapping[str, Any], architecture: Architecture) -> OwnSampling:
    """How the model of a file with the record ``training`` is sampled; the paper's where it tells nothing.

    A record comes from anyone's file: a number that cannot be is as good as none.
    """
    side: Any = training.get("resolution")
    recorded = type(side) is int and 0 < side <= _LARGEST_SIDE and side % (8 * LATENT_STRIDE) == 0
    is_small = architecture.unet.widths[0] < SD15.unet.widths[0]
    guidance = _SMALL_GUIDANCE if is_small else PAPER_GUIDANCE
    for key in ("sample_guidance", "guidance"):
        value: Any = training.get(key)
        if type(value) in (int, float) and 1 <= value <= _LARGEST_GUIDANCE:
            guidance = float(value)
    return OwnSampling(side if recorded else PAPER_RESOLUTION, guidance, recorded)
