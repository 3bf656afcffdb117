"""Noise, light and small drawings the phantoms are made of, in coordinates that do not know the size.

Every random number is drawn on a lattice or a canvas of fixed size and only then resampled to the image,
so one seed gives one scene at any resolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point: TypeAlias = tuple[float, float]
Field: TypeAlias = NDArray[np.floating[Any]]

# Lines and blobs are drawn here, then resampled: that is their antialiasing.
_CANVAS = 256
# Blood absorbs green and blue first, so shade turns mucosa deep red before it turns it black.
_SHADE_EXPONENTS = np.array([0.85, 1.25, 1.3], np.float32)
_GLINT = np.array([1.0, 0.98, 0.96], np.float32)


class Blob(NamedTuple):
    """A small ellipse on the frame [-1, 1] x [-1, 1]; `angle` in radians turns its long axis from +x."""

    x: float
    y: float
    length: float
    width: float
    angle: float


def resample(values: Field, size: int) -> Field:
    """Stretch a square lattice over the frame, bicubically. Returns (size, size) float32."""
    stretched = Image.fromarray(values.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(stretched)


def smooth_noise(rng: np.random.Generator, cells: int, size: int) -> Field:
    """Return (size, size) noise of about unit variance whose bumps are 1/`cells` of the frame wide."""
    return resample(rng.standard_normal((cells, cells), dtype=np.float32) * 1.3, size)


def relief_noise(rng: np.random.Generator, cells: int, size: int, light: Point) -> Field:
    """Return (size, size) noise shaded as bumps of 1/`cells` of the frame, lit from direction `light`."""
    heights = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    slope_x = heights[:-1, :-1] - heights[:-1, 1:]
    slope_y = heights[:-1, :-1] - heights[1:, :-1]
    return resample(-(light[0] * slope_x + light[1] * slope_y), size)


def vessel_tree(rng: np.random.Generator, size: int, trunks: int) -> Field:
    """Draw branching, tapering, wandering lines. Returns (size, size) coverage in [0, 1]."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(canvas)
    starts = rng.uniform(0, _CANVAS, (trunks, 1, 2))
    headings = rng.uniform(0, 2 * np.pi, trunks)
    for steps, width, tone in ((12, 3, 255), (10, 2, 230), (8, 1, 230), (6, 1, 130)):
        headings = headings[:, None] + np.cumsum(rng.normal(0, 0.32, (len(headings), steps)), axis=1)
        moves = 7.0 * np.stack([np.cos(headings), np.sin(headings)], axis=-1)
        paths = np.concatenate([starts, starts + np.cumsum(moves, axis=1)], axis=1)
        for path in paths.reshape(len(paths), -1).tolist():
            draw.line(path, fill=tone, width=width)
        # Each branch forks at its tip and halfway, to opposite sides.
        forks = rng.uniform(0.35, 0.9, len(headings))
        starts = np.concatenate([paths[:, -1:], paths[:, steps // 2 : steps // 2 + 1]])
        headings = np.concatenate([headings[:, -1] + forks, headings[:, steps // 2] - forks])
    return _coverage(canvas, size)


def blobs(shapes: Iterable[Blob], size: int) -> Field:
    """Draw filled ellipses. Returns (size, size) coverage in [0, 1]."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        draw.polygon(_ellipse(shape), fill=255)
    return _coverage(canvas, size)


def add_glints(image: Field, glints: Field) -> Field:
    """Lay wet highlights of coverage `glints` (H, W) over `image` (H, W, 3)."""
    opacity = np.clip(1.35 * glints, 0, 1)[..., None]
    return image * (1 - opacity) + _GLINT * opacity


def shaded(colour: Field, light: Field) -> Field:
    """Colours (3,) or (H, W, 3) under `light` (H, W), where 1 is full light."""
    return colour * np.exp(np.log(np.maximum(light, 0.02))[..., None] * _SHADE_EXPONENTS)


def smoothstep(start: float, stop: float, value: Field) -> Field:
    """Rise smoothly from 0 at `start` to 1 at `stop`; `start` may be the greater."""
    t = np.clip((value - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def lesion_surface(rng: np.random.Generator, dx: Field, dy: Field, light: Point) -> Field:
    """Brightness factor, about 1, of a lesion centred where dx = dy = 0: a pit pattern, or granules."""
    size = dx.shape[0]
    mottle = 1 + 0.05 * smooth_noise(rng, 12, size)
    if rng.random() < 0.5:
        return mottle * (1 + 0.06 * relief_noise(rng, 24, size, light))
    pitch = rng.uniform(0.11, 0.15)
    bend_x, bend_y = 0.03 * smooth_noise(rng, 10, size), 0.03 * smooth_noise(rng, 10, size)
    u, v = (dx + bend_x) * (np.pi / pitch), (dy + bend_y) * (np.pi / pitch)
    pits = smoothstep(0.2, 0.9, np.abs(np.sin(u + v) * np.sin(u - v)))
    return mottle * (1.03 - 0.15 * pits)


def _ellipse(shape: Blob) -> Sequence[Point]:
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    along, across = shape.length * np.cos(turn), shape.width * np.sin(turn)
    x = shape.x + along * np.cos(shape.angle) - across * np.sin(shape.angle)
    y = shape.y + along * np.sin(shape.angle) + across * np.cos(shape.angle)
    to_canvas = _CANVAS / 2
    return list(zip(((x + 1) * to_canvas).tolist(), ((y + 1) * to_canvas).tolist(), strict=True))


def _coverage(canvas: Image.Image, size: int) -> Field:
    shrunk = canvas.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(shrunk, dtype=np.float32) / np.float32(255)
