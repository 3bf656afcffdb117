"""Cutting images that are larger than a model into tiles at their own scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from siamese_core.errors import UserError


class TileError(UserError):
    """An image that no tile of the asked side fits into; the message says how large it is."""


def tiles(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield the place in words, image (side, side, 3) and mask (side, side) of every tile.

    Tiles lie side by side; where ``side`` does not divide the height or width of ``image`` (H, W, 3) the last
    ones end at the edge and overlap their neighbours, so that all of the image is in some tile. Raises
    TileError for an image smaller than a tile.
    """
    height, width = mask.shape
    if min(height, width) < side:
        raise TileError(f"{width} x {height} px, too small for --crop {side}; lower it, or remove the image")
    for top in _starts(height, side):
        for left in _starts(width, side):
            place = slice(top, top + side), slice(left, left + side)
            yield f"y{top}_x{left}", image[place], mask[place]


def _starts(length: int, side: int) -> list[int]:
    starts = list(range(0, length - side + 1, side))
    return starts if starts[-1] + side == length else [*starts, length - side]
