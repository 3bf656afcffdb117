"""Telling masks, label maps and photographs apart by their grey levels and colours.

A class of a label map fills areas with one value ("flat" levels). The soft edge of a mask and a photograph
have many values, too, but hardly any pixel equals all of its neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# At least this share of a flat level's pixels equal their four neighbours: in a 3 x 3 object it is 1/9.
_SETTLED_SHARE = 0.1
_FEWEST_PIXELS = 9
# With more levels than this, those close to the lowest and the highest count as noise, as left by JPEG.
_FEW_LEVELS = 16
_NOISE_SHARE = 1 / 12
# An image with more levels than this, and a larger share of pixels at intermediate levels, was not drawn.
_PHOTO_LEVELS = 32
_PHOTO_SHARE = 0.25
_PHOTO_COLOURS = 256
_LOSSY_TOLERANCE = 12
_LOSSY_REACH = 40
_LOSSY_SHARE = 0.005
_MOST_SAMPLES = 50_000


def levels_of(values: NDArray[np.integer]) -> NDArray[np.integer]:
    """The distinct ``values`` (any shape, 0..65535) in ascending order; much faster than np.unique."""
    return np.flatnonzero(np.bincount(values.ravel()))


def flat_levels(values: NDArray[np.integer]) -> NDArray[np.integer]:
    """The levels of the (H, W) ``values`` that fill areas, in ascending order; all if there are at most two.

    The lowest and the highest always count as flat; the question is whether those between are a soft edge or
    classes.
    """
    levels = levels_of(values)
    if len(levels) <= 2:
        return levels
    counts = np.bincount(values.ravel())[levels]
    settled = np.bincount(values[1:-1, 1:-1][_settled(values)], minlength=levels[-1] + 1)[levels]
    flat = (settled >= _SETTLED_SHARE * counts) & (counts >= _FEWEST_PIXELS)
    if len(levels) > _FEW_LEVELS:
        lowest, span = int(levels[0]), int(levels[-1]) - int(levels[0])
        flat &= (levels > lowest + _NOISE_SHARE * span) & (levels < lowest + (1 - _NOISE_SHARE) * span)
    flat[[0, -1]] = True
    return levels[flat]


def flat_colours(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colours (N, 3) that fill areas in the (H, W, 3) ``pixels``; all if there are at most four."""
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, places = np.unique(packed, return_inverse=True)
    places = places.reshape(packed.shape)
    counts = np.bincount(places.ravel(), minlength=len(colours))
    settled = np.bincount(places[1:-1, 1:-1][_settled(places)], minlength=len(colours))
    flat = (settled >= _SETTLED_SHARE * counts) & (counts >= _FEWEST_PIXELS)
    if len(colours) <= 4:
        flat[:] = True
    found = colours[flat]
    return np.stack([found >> 16, found >> 8 & 255, found & 255], axis=-1).astype(np.uint8)


def clustered_colours(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The counterpart of :func:`flat_colours` for (H, W, C) ``pixels`` of a JPEG: (N, C) cluster means."""
    signed = pixels.astype(np.int16)
    calm = np.ones((pixels.shape[0] - 2, pixels.shape[1] - 2), bool)
    for shifted in (signed[:-2, 1:-1], signed[2:, 1:-1], signed[1:-1, :-2], signed[1:-1, 2:]):
        calm &= (np.abs(shifted - signed[1:-1, 1:-1]) <= _LOSSY_TOLERANCE).all(axis=-1)
    rest = signed[1:-1, 1:-1][calm]
    rest = rest[:: len(rest) // _MOST_SAMPLES + 1]
    fewest = max(1.0, _LOSSY_SHARE * len(rest))
    found = []
    while len(rest) >= fewest:
        centre = _most_frequent(rest)
        near = (np.abs(rest - centre) <= _LOSSY_REACH).all(axis=-1)
        if near.sum() >= fewest:
            found.append(rest[near].mean(axis=0))
        rest = rest[~near]
    return np.array(found).reshape(-1, pixels.shape[-1]).round().astype(np.uint8)


def looks_like_photograph(values: NDArray[np.integer], is_lossy: bool) -> bool:
    """Whether the brightness ``values`` (H, W) have more intermediate levels than a drawing with soft edges.

    At least half of the pixels that are not black must be at intermediate levels, so that small shapes with
    soft edges do not count.
    """
    highest = int(values.max())
    lowest_counted = highest / 16 if is_lossy else 0
    amid = (values > lowest_counted) & (values < highest * 15 / 16)
    share = float(amid.mean())
    if share < _PHOTO_SHARE or share < 0.5 * float((values > lowest_counted).mean()):
        return False
    return len(levels_of(values[amid])) >= _PHOTO_LEVELS and (is_lossy or _texture(values) >= 0.5)


def looks_like_colour_photograph(pixels: NDArray[np.uint8]) -> bool:
    """Whether (H, W, 3) ``pixels`` of a lossless file have hundreds of colours, mostly outside flat areas."""
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    return len(np.unique(packed)) > _PHOTO_COLOURS and _texture(packed) >= 0.5


def _settled(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which inner pixels of (H, W) ``values`` equal their four neighbours: (H - 2, W - 2) bool."""
    inner = values[1:-1, 1:-1]
    return (
        (inner == values[:-2, 1:-1])
        & (inner == values[2:, 1:-1])
        & (inner == values[1:-1, :-2])
        & (inner == values[1:-1, 2:])
    )


def _texture(values: NDArray[np.integer]) -> float:
    """The share of pixels that differ from a neighbour, among the inner ones that are not black."""
    inner = values[1:-1, 1:-1]
    shown = inner > 0
    return float((shown & ~_settled(values)).sum() / max(1, shown.sum()))


def _most_frequent(colours: NDArray[np.int16]) -> NDArray[np.int16]:
    found, counts = np.unique(colours, axis=0, return_counts=True)
    return np.asarray(found[counts.argmax()])
