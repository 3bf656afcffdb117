"""Copies of a pair in other orientations and brightnesses, for training a model on few pairs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Value = TypeVar("_Value", bound=np.generic)

_WHITE = 250.0  # grey level that the brightest pixels may reach
_BRIGHT_PERCENTILE = 99.5  # the pixels above it may saturate


def varied_copies(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    count: int,
    brightness: tuple[float, float],
    seed: int,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield ``count`` copies of ``image`` (H, W, 3) and ``mask`` (H, W).

    Copies are in the eight orientations of a square by turns, or, if the image is not square, in the four
    that keep its shape. Each image is multiplied by a random factor, drawn with ``seed`` and uniformly on a
    logarithmic scale from the range ``brightness``, which is cut off where the image would saturate. (A model
    trained on few pairs learns the brightness of each along with the shapes in its mask. From such copies it
    can only learn the shapes; brightness is left to its base, which knows more images.)
    """
    # A factor of 1 adds no saturation, however bright the image is.
    limit = max(1.0, _WHITE / max(1.0, float(np.percentile(image, _BRIGHT_PERCENTILE))))
    low, high = (min(factor, limit) for factor in brightness)
    orientations = range(8) if mask.shape[0] == mask.shape[1] else range(0, 8, 2)
    rng = np.random.default_rng(seed)
    for number in range(count):
        factor = math.exp(rng.uniform(math.log(low), math.log(high)))
        toned = np.clip(np.rint(image * factor), 0, 255).astype(np.uint8)
        orientation = orientations[number % len(orientations)]
        yield turned(toned, orientation), turned(mask, orientation)


def copy_stem(stem: str, number: int) -> str:
    """The stem of a pair's copy."""
    return f"{stem}_copy{number}"


def original_of(stem: str) -> str | None:
    """The stem of the pair that ``stem`` is a copy of; None if it is not named like a copy."""
    match = re.fullmatch(r"(.+)_copy\d+", stem)
    return match and match[1]


def turned(pixels: NDArray[_Value], orientation: int) -> NDArray[_Value]:
    """``pixels`` in one of eight orientations: quarter turns, also mirrored from 4 on."""
    rotated = np.rot90(pixels, orientation % 4)
    return np.ascontiguousarray(rotated[:, ::-1] if orientation >= 4 else rotated)
