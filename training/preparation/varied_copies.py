"""Copies of a pair in other orientations and brightnesses, for training a model on few pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

ORIENTATIONS = 8

_Level = TypeVar("_Level", bound=np.generic)

_WHITE = 250.0  # grey level that the brightest pixels may reach
_BRIGHTEST = 99.5  # percentile; the pixels above it may saturate


def varied_copies(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    count: int,
    brightness: tuple[float, float],
    seed: int,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield ``count`` copies of ``image`` (H, W, 3) and ``mask`` (H, W).

    Copy k is in orientation k modulo 8, and its image is multiplied by a random factor between those of
    ``brightness``, drawn uniformly on a logarithmic scale with ``seed`` and reduced where it would saturate
    the image. (A model trained on few pairs learns the brightness of each along with the shapes in its mask.
    From such copies it can only learn the shapes; brightness is left to its base, which knows more images.)
    """
    low, high = brightness
    limit = _WHITE / max(1.0, float(np.percentile(image, _BRIGHTEST)))
    high = max(low, min(high, limit))
    rng = np.random.default_rng(seed)
    for k in range(count):
        factor = math.exp(rng.uniform(math.log(low), math.log(high)))
        toned = np.clip(np.rint(image * factor), 0, 255).astype(np.uint8)
        yield turned(toned, k % ORIENTATIONS), turned(mask, k % ORIENTATIONS)


def turned(pixels: NDArray[_Level], orientation: int) -> NDArray[_Level]:
    """``pixels`` in one of eight orientations: quarter turns, also mirrored from 4 on."""
    rotated = np.rot90(pixels, orientation % 4)
    return np.ascontiguousarray(rotated[:, ::-1] if orientation >= 4 else rotated)
