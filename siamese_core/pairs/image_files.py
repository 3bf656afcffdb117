"""Reading the image of a pair: upright, in 8 bits, scaled by its folder's white value."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
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
_MOST_KEPT = 256


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
        return _surveyed(folder.resolve()).white


@dataclass(frozen=True)
class _Folder:
    """What was found in a folder: its modification time, size and time of each image, and white."""

    changed: int
    images: dict[str, tuple[int, int]]
    white: int


_folders: dict[Path, _Folder] = {}
"""Folders by path, since finding a folder's white means reading all of its images."""


def _white_of(image: Path) -> int:
    """:func:`folder_white` for ``image``, whose folder is surveyed anew if it or this image has changed."""
    with _one_at_a_time:
        folder = image.parent.resolve()
        known = _folders.get(folder)
        if (
            known
            and known.changed == folder.stat().st_mtime_ns
            and known.images.get(image.name) == _stamp(image)
        ):
            return known.white
        return _surveyed(folder).white


def _surveyed(folder: Path) -> _Folder:
    changed, paths = folder.stat().st_mtime_ns, list_images(folder)
    images = {path.name: _stamp(path) for path in paths}
    known = _folders.get(folder)
    if known is None or known.images != images:
        highest = 0
        for path in paths:
            with contextlib.suppress(MaskError):
                if image_header(path, "image").is_deep_grey:
                    highest = max(highest, int(deep_grey_values(decode_image(path, "image")).max()))
        if len(_folders) >= _MOST_KEPT:
            _folders.clear()
        known = _folders[folder] = _Folder(changed, images, white_value(highest))
    elif known.changed != changed:
        known = _folders[folder] = _Folder(changed, images, known.white)
    return known


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


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
        whites = self.whites()
        return [line for line in (*turned, *self._scaled_told(whites), unlike_whites(whites)) if line]

    def changes(self) -> list[str]:
        """Phrases on images that the first versions, which rotated TIFF only, read differently."""
        others = [path for path in self._turned if path.suffix.lower() not in (".tif", ".tiff")]
        return [line for line in (self._turned_told(others), *self._scaled_told(self.whites())) if line]

    def _turned_told(self, turned: list[Path], more: str = "") -> str:
        if not turned:
            return ""
        told = f"{len(turned)} of {self._count} images turned upright by their EXIF orientation"
        return f"{told} (first: {turned[0].name}){more}"

    def whites(self) -> dict[Path, int]:
        """White in each folder with images of more than 8 bits. Raises PairError like :func:`read_image`."""
        with as_pair_errors():
            return {folder: folder_white(folder) for folder in self._deep}

    def _scaled_told(self, whites: Mapping[Path, int]) -> list[str]:
        return [
            f"{len(self._deep[folder])} of {self._count} images have up to {white.bit_length()} bits (first: "
            f"{self._deep[folder][0].name}): {white} is white in all of '{folder.name}'"
            for folder, white in whites.items()
            if white not in (255, 65535)
        ]


def unlike_whites(whites: Mapping[Path, int]) -> str:
    """A note on folders with different ``whites``, or "" if there is one white at most."""
    if len({*whites.values()}) < 2:
        return ""
    told = ", ".join(f"{white} in '{folder}'" for folder, white in whites.items())
    return (
        f"white is {told}: the same value becomes brighter where white is lower; if the folders belong "
        "together, scale their images to 8 bits alike before"
    )


def _eight_bit_grey(image: DecodedImage) -> Image.Image:
    values = deep_grey_values(image)
    white = _white_of(image.path)
    return Image.fromarray(scaled_to_8_bits(values, white))
