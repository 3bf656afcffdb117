"""Contact sheets: grids of images, and mask outlines drawn over images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OUTLINE = (0, 255, 128)


def grid(rows: Sequence[Sequence[NDArray[np.uint8]]], gap: int = 2) -> NDArray[np.uint8]:
    """Arrange images (H, W, 3) or masks (H, W), uint8 and of equal size, in rows on white: (H', W', 3) uint8.

    ``gap`` is the space between them in pixels. Raises ValueError when there is no image.
    """
    tiles = [
        [tile if tile.ndim == 3 else np.repeat(tile[..., None], 3, axis=2) for tile in row] for row in rows
    ]
    if not any(tiles):
        raise ValueError("a contact sheet needs at least one image")
    height, width = next(row[0].shape[:2] for row in tiles if row)
    columns = max(len(row) for row in tiles)
    sheet = np.full(
        (len(tiles) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8
    )
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            sheet[top : top + height, left : left + width] = tile
    return sheet


def outlined(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A copy of ``image`` (H, W, 3) with the inner boundary of ``mask`` (H, W) painted in :data:`OUTLINE`."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    result = image.copy()
    result[mask & ~inside] = OUTLINE
    return result
