"""Resizing a mask and its image so that they stay aligned pixel for pixel."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ResizeMode = Literal["stretch", "crop", "pad"]
Size = tuple[int, int]
"""(height, width) in pixels."""


def mask_to_uint8(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The (H, W) bool ``mask`` as uint8: 255 on the foreground, 0 elsewhere."""
    return mask.astype(np.uint8) * np.uint8(255)


def resize_mask(mask: NDArray[np.bool_], size: Size, mode: ResizeMode = "stretch") -> NDArray[np.bool_]:
    """Resize the (H, W) bool ``mask`` to ``size`` (height, width) with nearest neighbours.

    ``stretch`` ignores the aspect ratio; ``crop`` first crops the centre to the target's aspect ratio;
    ``pad`` fits the whole mask inside and fills the border with background. The result is aligned pixel for
    pixel with that of :func:`resize_image` for the same arguments.
    """
    placement = _place(mask.shape, size, mode)
    source = Image.fromarray(mask_to_uint8(mask)).crop(placement.crop)
    canvas = Image.new("L", (size[1], size[0]))
    canvas.paste(source.resize(placement.inner, Image.Resampling.NEAREST), placement.offset)
    return np.asarray(canvas) > 0


def resize_image(image: NDArray[np.uint8], size: Size, mode: ResizeMode = "stretch") -> NDArray[np.uint8]:
    """Resize the (H, W, 3) uint8 ``image`` to ``size`` (height, width); modes as in :func:`resize_mask`.

    An axis that shrinks is averaged over areas, one that grows is interpolated linearly. ``pad`` fills the
    border with black.
    """
    placement = _place(image.shape[:2], size, mode)
    inner = Image.fromarray(image).crop(placement.crop)
    width, height = placement.inner
    inner = inner.resize((width, inner.height), _image_filter(inner.width, width))
    inner = inner.resize((width, height), _image_filter(inner.height, height))
    canvas = Image.new("RGB", (size[1], size[0]))
    canvas.paste(inner, placement.offset)
    return np.array(canvas)


class _Placement(NamedTuple):
    """Where the ``crop`` box of the source goes on the canvas (``offset``) and at what size (``inner``).

    In Pillow's order, x first.
    """

    crop: tuple[int, int, int, int]
    inner: tuple[int, int]
    offset: tuple[int, int]


def _place(source: tuple[int, ...], target: Size, mode: ResizeMode) -> _Placement:
    """The placement shared by an image and its mask, in whole pixels so that both use the same grid."""
    source_height, source_width = source
    height, width = target
    if mode == "stretch":
        return _Placement((0, 0, source_width, source_height), (width, height), (0, 0))
    if mode == "crop":
        cut_width, cut_height = _fitted((width, height), (source_width, source_height))
        left, top = (source_width - cut_width) // 2, (source_height - cut_height) // 2
        return _Placement((left, top, left + cut_width, top + cut_height), (width, height), (0, 0))
    if mode == "pad":
        inner = _fitted((source_width, source_height), (width, height))
        offset = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        return _Placement((0, 0, source_width, source_height), inner, offset)
    raise ValueError(f"Unknown resize mode '{mode}'; use one of stretch, crop and pad.")


def _fitted(shape: tuple[int, int], bounds: tuple[int, int]) -> tuple[int, int]:
    """The largest whole-pixel (width, height) with the aspect ratio of ``shape`` inside ``bounds``."""
    scale = min(bounds[0] / shape[0], bounds[1] / shape[1])
    return (
        min(bounds[0], max(1, round(shape[0] * scale))),
        min(bounds[1], max(1, round(shape[1] * scale))),
    )


def _image_filter(source: int, target: int) -> Image.Resampling:
    return Image.Resampling.BOX if target < source else Image.Resampling.BILINEAR
