"""Masks with an alpha channel: values beside a transparency that may be the mask itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import advice
from .foreground_rule import ForegroundRule
from .image_decoding import DecodedImage
from .mask_reading import MaskReading, UnclearMask

Opacity = NDArray[np.uint8]


def alpha_channel(image: DecodedImage) -> Opacity | None:
    """The (H, W) opacity 0..255 of an image in which it varies, None of one that is alike everywhere."""
    pixels = image.pixels
    if "A" not in pixels.mode and "a" not in pixels.mode and "transparency" not in pixels.info:
        return None
    alpha = np.asarray(pixels.convert("RGBA").getchannel("A"))
    return None if alpha.min() == alpha.max() else alpha


def opaque_pixels(alpha: Opacity | None, rule: ForegroundRule) -> MaskReading:
    """Those whose ``alpha`` exceeds the threshold. Raises UnclearMask where there is none that varies."""
    if alpha is None:
        raise UnclearMask(
            f"has no transparency that differs from pixel to pixel; {advice.NOT_BY_TRANSPARENCY}"
        )
    return MaskReading(alpha > rule.threshold)


def values_beside_alpha(by_value: MaskReading | None) -> MaskReading:
    """``by_value``, the reading of a file's colours, unless the shape seems to be in its transparency.

    Raises UnclearMask where the colours tell nothing (None) or are alike everywhere.
    """
    if by_value is None or by_value.mask.all() or not by_value.mask.any():
        raise UnclearMask(
            "seems to have its shape in its transparency (alpha channel), not in its colours; "
            f"{advice.BY_TRANSPARENCY}"
        )
    return by_value
