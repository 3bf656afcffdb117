"""Reading the image of a pair: upright, in 8 bits, scaled by its folder's white value."""

from __future__ import annotations

import contextlib
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..masks.image_decoding import (
    DecodedImage,
    ImageHeader,
    MaskError,
    decode_image,
    deep_grey_values,
    image_header,
    scaled_to_8_bits,
    white_value,
)
from ..masks.mask_files import list_images
from .pair import as_pair_errors

_one_at_a_time = threading.Lock()


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read the image file ``path`` as (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    Grey of more than 8 bits is scaled from 0..:func:`folder_white` to 0..255; transparency is composited on
    black. Raises PairError for an unreadable image or one outside the size limits of ``decode_image``.
    """
    with as_pair_errors():
        image = decode_image(path, "image")
        pixels = _eight_bit_grey(image) if image.has_deep_grey else image.pixels
        if pixels.mode in ("LA", "PA", "RGBA") or "transparency" in pixels.info:
            coloured = pixels.convert("RGBA")
            pixels = Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured)
        return np.array(pixels.convert("RGB"))


def folder_white(folder: Path) -> int:
    """The value that counts as white in grey images of more than 8 bits directly in ``folder``.

    It is 255 if all their values fit 8 bits, else 2^n - 1 for the n bits that the highest value needs. It is
    shared by the whole folder because scaling each image by itself would brighten dark ones. Unreadable
    images are ignored.
    """
    with _one_at_a_time:
        return _folder_white(folder.resolve(), folder.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _folder_white(folder: Path, changed: int) -> int:
    """``changed``, the folder's modification time, is part of the cache key."""
    highest = 0
    for path in list_images(folder):
        with contextlib.suppress(MaskError):
            if image_header(path, "image").is_deep_grey:
                highest = max(highest, int(deep_grey_values(decode_image(path, "image")).max()))
    return white_value(highest)


class ImageSurvey:
    """Collects facts about the images of a dataset: which were rotated, and which have more than 8 bits."""

    def __init__(self) -> None:
        self._count = 0
        self._turned: list[Path] = []
        self._deep: dict[Path, list[Path]] = {}

    def add(self, path: Path) -> ImageHeader:
        """Include the image file ``path`` and return its header. Raises PairError for an unreadable image."""
        with as_pair_errors():
            header = image_header(path, "image")
        self._count += 1
        if header.orientation != 1:
            self._turned.append(path)
        if header.is_deep_grey:
            self._deep.setdefault(path.parent, []).append(path)
        return header

    def notes(self) -> list[str]:
        """Notes for the user, one line per observation. Raises PairError like :func:`read_image`."""
        turned = [self._turned_told(self._turned, "; masks have to be drawn on the upright image")]
        return [line for line in (*turned, *self._scaled_told()) if line]

    def changes(self) -> list[str]:
        """Phrases on images that the first versions, which rotated TIFF only, read differently."""
        others = [path for path in self._turned if path.suffix.lower() not in (".tif", ".tiff")]
        return [line for line in (self._turned_told(others), *self._scaled_told()) if line]

    def _turned_told(self, turned: list[Path], more: str = "") -> str:
        if not turned:
            return ""
        told = f"{len(turned)} of {self._count} images turned upright by their EXIF orientation"
        return f"{told} (first: {turned[0].name}){more}"

    def _scaled_told(self) -> list[str]:
        with as_pair_errors():
            whites = {folder: folder_white(folder) for folder in self._deep}
        return [
            f"{len(self._deep[folder])} of {self._count} images have up to {white.bit_length()} bits (first: "
            f"{self._deep[folder][0].name}): {white} is white in all of '{folder.name}'"
            for folder, white in whites.items()
            if white not in (255, 65535)
        ]


def _eight_bit_grey(image: DecodedImage) -> Image.Image:
    values = deep_grey_values(image)
    white = folder_white(image.path.parent)
    return Image.fromarray(scaled_to_8_bits(values, white))
