"""What a run shows of itself while it trains: images sampled for the same few masks, again and again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..contact_sheet import grid, outlined
from .training_set import TrainingSet


def preview_pairs(data: TrainingSet, count: int) -> list[int]:
    """Indices of at most ``count`` pairs, evenly spaced."""
    chosen: list[int] = np.unique(np.linspace(0, len(data) - 1, count).round().astype(int)).tolist()
    return chosen


def preview_sheet(data: TrainingSet, chosen: Sequence[int], images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Four rows: masks, real images, ``images`` (B, H, W, 3) sampled for them, and those with outlines."""
    masks = data.masks[list(chosen)].numpy()
    real = data.images[list(chosen)].permute(0, 2, 3, 1).numpy()
    over = [outlined(image, mask) for image, mask in zip(images, masks, strict=True)]
    return grid([[mask.astype(np.uint8) * 255 for mask in masks], list(real), list(images), over])
