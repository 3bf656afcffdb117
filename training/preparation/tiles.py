"""Cutting images that are larger than a model's resolution into tiles, without rescaling."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from siamese_core.errors import UserError

_TILE = re.compile(r"(.+)_y\d+_x\d+")


class TileError(UserError):
    """An image is smaller than a tile; the message says how large it is."""


def tiles(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield the position as text, the image (side, side, 3) and the mask (side, side) of every tile.

    Tiles are adjacent. If ``side`` does not divide the height or width of ``image`` (H, W, 3), the last tiles
    end at the edge and overlap their neighbours, so that the tiles cover the whole image. Raises TileError
    for an image smaller than a tile.
    """
    height, width = mask.shape
    if min(height, width) < side:
        raise TileError(f"{width} x {height} px, too small for --crop {side}; lower it, or remove the image")
    for top in _starts(height, side):
        for left in _starts(width, side):
            place = slice(top, top + side), slice(left, left + side)
            yield f"y{top}_x{left}", image[place], mask[place]


def image_of_tile(stem: str) -> str | None:
    """The stem of the image that ``stem`` is a tile of; None if it is not named like one."""
    match = _TILE.fullmatch(stem)
    return match and match[1]


def _starts(length: int, side: int) -> list[int]:
    starts = list(range(0, length - side + 1, side))
    return starts if starts[-1] + side == length else [*starts, length - side]
