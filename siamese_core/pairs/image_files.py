"""Reading the image of a pair: upright, in 8 bits, and with what its folder takes for white."""

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

    Grey of more than 8 bits is scaled from 0..:func:`folder_white` to 0..255, and transparency is composited
    on black. Raises PairError for what is no readable image, within the size limits of masks.
    """
    with as_pair_errors():
        image = decode_image(path, "image")
        pixels = _eight_bit_grey(image) if image.has_deep_grey else image.pixels
        if pixels.mode in ("LA", "PA", "RGBA") or "transparency" in pixels.info:
            coloured = pixels.convert("RGBA")
            pixels = Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured)
        return np.array(pixels.convert("RGB"))


def folder_white(folder: Path) -> int:
    """The value that counts as white in images of more than 8 bits of grey directly in ``folder``.

    255 when all their values fit 8 bits, else 2^n - 1 of the n bits that the highest value of them all needs:
    never of a single image, whose darkness would be lost. Images that cannot be read do not count.
    """
    with _one_at_a_time:
        return _folder_white(folder.resolve(), folder.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _folder_white(folder: Path, changed: int) -> int:
    """``changed`` is the folder's time: new files need another look."""
    highest = 0
    for path in list_images(folder):
        with contextlib.suppress(MaskError):
            if image_header(path, "image").is_deep_grey:
                highest = max(highest, int(deep_grey_values(decode_image(path, "image")).max()))
    return white_value(highest)


class ImageSurvey:
    """Gathers facts about the images of a dataset: which were turned, and which have more than 8 bits."""

    def __init__(self) -> None:
        self._count = 0
        self._turned: list[Path] = []
        self._deep: dict[Path, list[Path]] = {}

    def add(self, path: Path) -> ImageHeader:
        """Take note of the image file ``path``, and return its header. Raises PairError for no image."""
        with as_pair_errors():
            header = image_header(path, "image")
        self._count += 1
        if header.orientation != 1:
            self._turned.append(path)
        if header.is_deep_grey:
            self._deep.setdefault(path.parent, []).append(path)
        return header

    def notes(self) -> list[str]:
        """What the user should know of the images, a line per matter. Raises PairError as read_image does."""
        turned = [self._turned_told(self._turned, "; masks have to be drawn on the upright image")]
        return [line for line in (*turned, *self._scaled_told()) if line]

    def changes(self) -> list[str]:
        """In which ways images are read otherwise than by the first versions, which turned TIFF alone."""
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
