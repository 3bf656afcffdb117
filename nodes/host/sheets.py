"""Contact sheets of the latest pairs, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import ui
from numpy.typing import NDArray
from torch import Tensor

from ...siamese_core.contact_sheet import grid, outlined

SHOWN_PAIRS = 8
_COLUMNS = 4


def sheet_pixels(pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> NDArray[np.uint8]:
    """A sheet (H', W', 3) of images (H, W, 3) with the outlines of their masks (H, W).

    Needs at least one pair, and all of one size.
    """
    tiles = [outlined(image, mask) for image, mask in pairs]
    return grid([tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)])


def sheet_of(pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> Tensor:
    """:func:`sheet_pixels` as an IMAGE, or a black one for no pairs."""
    if not pairs:
        return torch.zeros(1, 64, 64, 3)
    return torch.from_numpy(sheet_pixels(pairs)).float()[None] / 255


def preview(sheet: Tensor, node: Any) -> dict[str, Any]:
    """The ``ui`` value with which ``node`` shows ``sheet`` on the page."""
    shown: dict[str, Any] = ui.PreviewImage(sheet, cls=node).as_dict()
    return shown
