"""Masks of plain shapes to be transformed, and settings that do nothing or everything."""

from __future__ import annotations

import numpy as np

from siamese_core.masks.random_transforms import (
    Mask,
    TransformSettings,
)

SHAPE = (72, 96)
STILL = TransformSettings(
    scale=(1, 1), translate=0, rotate=0, flip="none", area=(0, 1), inside=False, attempts=1
)
"""Leaves every mask as it is."""
EVERYTHING = TransformSettings(shear=15, elastic=0.08, morph=2)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], shape: tuple[int, int] = SHAPE) -> Mask:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def rectangle(top: int, left: int, height: int, width: int, shape: tuple[int, int] = SHAPE) -> Mask:
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


BLOB = ellipse((32, 50), (12, 16)) | ellipse((42, 40), (8, 8))
"""One object with neither symmetry nor contact with the frame."""
BAR = rectangle(33, 28, 6, 40)
DOTS = np.zeros(SHAPE, bool)
DOTS[4:70:6, 4:94:6] = DOTS[5:70:6, 4:94:6] = True
THIN = rectangle(36, 10, 1, 76)


def differing(masks: list[Mask]) -> int:
    return len({mask.tobytes() for mask in masks})
