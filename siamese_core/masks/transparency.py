"""Masks with an alpha channel, in which either the colours or the transparency may be the mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import advice
from .foreground_rule import ForegroundRule
from .image_decoding import DecodedImage
from .mask_reading import MaskReading, UnclearMask

Opacity = NDArray[np.uint8]


def alpha_channel(image: DecodedImage) -> Opacity | None:
    """The (H, W) opacity 0..255 of ``image``; None without transparency or if it is constant."""
    pixels = image.pixels
    if "A" not in pixels.mode and "a" not in pixels.mode and "transparency" not in pixels.info:
        return None
    alpha = np.asarray(pixels.convert("RGBA").getchannel("A"))
    return None if alpha.min() == alpha.max() else alpha


def opaque_pixels(alpha: Opacity | None, rule: ForegroundRule) -> MaskReading:
    """Pixels whose ``alpha`` exceeds the threshold as foreground. Raises UnclearMask for None."""
    if alpha is None:
        raise UnclearMask(
            f"has no transparency that differs from pixel to pixel; {advice.NOT_BY_TRANSPARENCY}"
        )
    return MaskReading(alpha > rule.threshold)


def values_beside_alpha(by_value: MaskReading | None) -> MaskReading:
    """``by_value``, the reading of a file's colours, unless the shape seems to be in its transparency.

    Raises UnclearMask if the colours are ambiguous (None), all foreground or all background.
    """
    if by_value is None or by_value.mask.all() or not by_value.mask.any():
        raise UnclearMask(
            "seems to have its shape in its transparency (alpha channel), not in its colours; "
            f"{advice.BY_TRANSPARENCY}"
        )
    return by_value
