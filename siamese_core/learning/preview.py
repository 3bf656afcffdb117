"""Previews during training: images sampled for the same few masks each time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..contact_sheet import grid, outlined
from .training_set import TrainingSet


def preview_pairs(data: TrainingSet, count: int) -> list[int]:
    """Indices of at most ``count`` pairs, evenly spaced over ``data``."""
    chosen: list[int] = np.unique(np.linspace(0, len(data) - 1, count).round().astype(int)).tolist()
    return chosen


def preview_sheet(data: TrainingSet, chosen: Sequence[int], images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A contact sheet of four rows: masks, real images, sampled images, sampled images with mask outlines.

    ``images`` (B, H, W, 3) uint8 are the samples for the pairs ``chosen``.
    """
    masks = data.masks[list(chosen)].numpy()
    real = data.images[list(chosen)].permute(0, 2, 3, 1).numpy()
    over = [outlined(image, mask) for image, mask in zip(images, masks, strict=True)]
    return grid([[mask.astype(np.uint8) * 255 for mask in masks], list(real), list(images), over])
