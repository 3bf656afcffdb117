"""Random transforms of masks: scaling, translation, rotation, shear, mirroring, bending and morphology.

Coordinates are in pixels of the mask, so that rotations preserve shapes in frames of any aspect ratio.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, counted
from ..seeds import stream_seed
from ..settings import SHARE, Range, option
from .connected_components import component_runs

Mask = NDArray[np.bool_]
Field = NDArray[np.floating[Any]]

FLIPS = ("none", "horizontal", "vertical", "both")
BEYOND = ("background", "mirrored")

# Control points of the elastic displacement along the shorter side. A cubic B-spline displacement below 0.48
# of their spacing never folds, so 0.12 of the side is the most that keeps every object in one piece.
_CELLS = 4
_MOST_ELASTIC = 0.12
# Slightly below one half, so that edges interpolated to exactly one half do not depend on rounding.
_HALF = 0.5 - 1e-6


class TransformError(UserError):
    """No transform met the constraints within the allowed attempts; the message says which ones failed."""


@dataclass(frozen=True)
class TransformSettings:
    """Ranges of the random transforms, and constraints on each resulting mask.

    By default shapes are moved, scaled, rotated and mirrored, but not bent. Raises UserError for a value out
    of range.
    """

    scale: tuple[float, float] = option((0.7, 1.3), "minimum and maximum scale factor", Range(0.1, 10))
    translate: float = option(0.15, "maximum shift along each axis, as a fraction of that side", SHARE)
    rotate: float = option(30.0, "maximum rotation in either direction, in degrees", Range(0, 180))
    flip: str = option("both", "allowed flips: none, horizontal (left-right), vertical or both")
    shear: float = option(0.0, "maximum shear in either direction, in degrees", Range(0, 60))
    elastic: float = option(
        0.0,
        "elastic deformation: maximum displacement of a point, as a fraction of the shorter side",
        Range(0, _MOST_ELASTIC),
    )
    morph: int = option(0, "maximum number of pixels by which shapes grow or shrink", Range(0, 64))
    area: tuple[float, float] = option(
        (0.005, 0.6), "minimum and maximum foreground area, as a fraction of the frame", SHARE
    )
    inside: bool = option(False, "foreground must not touch or cross the frame's border")
    components: tuple[int, int] = option(
        (0, 0), "minimum and maximum number of separate objects; 0 means no limit", Range(0)
    )
    attempts: int = option(50, "attempts per mask to meet the limits before giving up", Range(1, 10_000))
    beyond: str = option(
        "background",
        "what lies beyond the frame's edges: background (an object cut off there keeps its straight side "
        "when it moves inwards) or mirrored (the mask's mirror image, for frames full of objects)",
        added_later=True,
    )

    def __post_init__(self) -> None:
        if self.flip not in FLIPS:
            raise UserError(f"flip is '{self.flip}'; use one of {', '.join(FLIPS[:-1])} and {FLIPS[-1]}.")
        if self.beyond not in BEYOND:
            raise UserError(f"beyond is '{self.beyond}'; use {' or '.join(BEYOND)}.")
        if self.inside and self.beyond == "mirrored":
            raise UserError(
                "inside keeps foreground off the frame's border, and beyond 'mirrored' continues it there; "
                "set beyond to 'background'."
            )
        _check_components(self.components)
        for item in fields(self):
            within, value = item.metadata["range"], getattr(self, item.name)
            if within is None or item.name == "components":
                continue
            if isinstance(item.default, tuple):
                _check_pair(item.name, value, within.low, within.high)
            else:
                whole = isinstance(item.default, int)
                _check_number(item.name, value, within.low, within.high, whole=whole)


@dataclass(frozen=True)
class Variant:
    """A mask (H, W) bool: number ``variant`` of those made from mask number ``source``, both from 0."""

    mask: Mask
    source: int
    variant: int


def transform_mask(mask: Mask, settings: TransformSettings, seed: int, other: Mask | None = None) -> Mask:
    """A random transform of the (H, W) bool ``mask``, of the same shape; ``seed`` is any integer.

    The mask is scaled, sheared, rotated and mirrored about the centre of its foreground's bounding box, moved
    by whole pixels, bent, and then grown or shrunk; beyond its frame it counts as background, or as mirrored
    at its edges. ``other``, a second mask of the same shape, is transformed independently and united with the
    result. Draws that miss a constraint are repeated. An empty result never passes, even if ``area`` starts
    at 0.

    Raises UserError for a mask without foreground and for masks of different shapes, and TransformError when
    ``settings.attempts`` draws have all missed the constraints.
    """
    return _transform(mask, settings, seed, other, "the mask")


def expand_masks(
    masks: Sequence[Mask],
    settings: TransformSettings,
    seed: int,
    *,
    variants: int = 1,
    total: int | None = None,
    others: Sequence[Mask] | None = None,
    on_item: Callable[[int], None] | None = None,
) -> list[Variant]:
    """Make ``variants`` transforms of each (H, W) bool mask, or ``total`` altogether, in source order.

    ``total`` overrides ``variants``; if it does not divide evenly, the first masks get one more. A variant
    depends only on its mask, its second mask, the settings, ``seed``, and its source and variant numbers.
    ``others[source % len(others)]`` is the second mask. ``on_item`` is called after each variant with the
    number finished so far; exceptions from it propagate.

    Raises UserError for no masks and for counts below 1. All masks are checked, as in :func:`transform_mask`,
    before the first is transformed.
    """
    name, count = ("variants", variants) if total is None else ("total", total)
    _check_number(name, count, 1, math.inf, whole=True)
    if not masks or (others is not None and not others):
        raise UserError("There are no masks to transform; give at least one.")
    seconds = [None if others is None else others[k % len(others)] for k in range(len(masks))]
    names = [f"mask {k + 1} of {len(masks)}" for k in range(len(masks))]
    for mask, second, name in zip(masks, seconds, names, strict=True):
        _check_masks(mask, second, name)

    results: list[Variant] = []
    for source, (mask, second, name) in enumerate(zip(masks, seconds, names, strict=True)):
        count = variants if total is None else (total + len(masks) - 1 - source) // len(masks)
        for variant in range(count):
            made = _transform(mask, settings, variant_seed(seed, source, variant), second, name)
            results.append(Variant(made, source, variant))
            if on_item is not None:
                on_item(len(results))
    return results


def variant_seed(seed: int, source: int, variant: int) -> int:
    """The seed of variant number ``variant`` of mask number ``source``; both count from 0."""
    return stream_seed(stream_seed(seed, "mask source", source), "mask variant", variant)


def count_components(mask: Mask) -> int:
    """Number of 8-connected objects in the (H, W) bool ``mask``."""
    return len(np.unique(component_runs(mask).component))


class _Drawn(NamedTuple):
    """One draw, (H, W) bool; ``overshoot``: pixels by which it violates ``inside`` (0 if it does not)."""

    mask: Mask
    overshoot: float


class _Miss(NamedTuple):
    """A constraint that a draw missed, by what distance, and the value it had."""

    constraint: str
    distance: float
    value: str


def _transform(mask: Mask, settings: TransformSettings, seed: int, other: Mask | None, name: str) -> Mask:
    _check_masks(mask, other, name)
    misses: list[_Miss] = []
    for attempt in range(settings.attempts):
        drawn = _draw(mask, settings, stream_seed(seed, "mask", attempt))
        if other is not None:
            second = _draw(other, settings, stream_seed(seed, "other mask", attempt))
            drawn = _Drawn(drawn.mask | second.mask, max(drawn.overshoot, second.overshoot))
        missed = list(_missed(drawn, settings))
        if not missed:
            return drawn.mask
        misses += missed

    counts = Counter(miss.constraint for miss in misses)
    # The dict keeps the last miss per constraint, which is the nearest in this order.
    nearest = {miss.constraint: miss.value for miss in sorted(misses, key=lambda miss: -miss.distance)}
    failures = [
        f"{constraint} failed {counted(count, 'time')} (nearest: {nearest[constraint]})"
        for constraint, count in counts.most_common()
    ]
    worst = counts.most_common(1)[0][0].split()[0]
    raise TransformError(
        f"No transform of {name} met the constraints in {counted(settings.attempts, 'attempt')}: "
        f"{'; '.join(failures)}. Relax '{worst}', change the ranges of the transforms, or raise 'attempts'."
    )


def _missed(drawn: _Drawn, settings: TransformSettings) -> Iterator[_Miss]:
    least, most = settings.area
    area = float(drawn.mask.mean())
    if not least <= area <= most or area == 0:
        yield _Miss(f"area {least:g} to {most:g}", max(least - area, area - most), f"{area:.4g}")
    if settings.inside and drawn.overshoot > 0:
        pixels = counted(math.ceil(drawn.overshoot), "pixel")
        yield _Miss("inside", drawn.overshoot, f"{pixels} too far out")
    fewest, highest = settings.components
    if fewest or highest:
        count = count_components(drawn.mask)
        distance = max(fewest - count, count - highest if highest else 0)
        if distance > 0:
            limits = f"components {fewest} to {highest}" if highest else f"components {fewest} or more"
            yield _Miss(limits, distance, str(count))


def _draw(mask: Mask, settings: TransformSettings, seed: int) -> _Drawn:
    """Transform ``mask`` once, without checking the constraints."""
    rng = np.random.default_rng(seed)
    # All numbers are drawn even if unused, so that a setting affects its own transform only.
    unit = rng.random(8)
    height, width = mask.shape
    matrix = _affine(settings, unit[:5])
    sides = np.array([width, height])
    move = np.rint(settings.translate * sides * (2 * unit[5:7] - 1))
    growth = int(unit[7] * (2 * settings.morph + 1)) - settings.morph
    strength = settings.elastic * min(height, width)

    points = np.stack(np.nonzero(mask)[::-1]).astype(np.float64)  # (x, y)
    centre = (points.min(axis=1) + points.max(axis=1)) / 2

    # The margin lets growing and shrinking take into account what is just outside the frame, and `inside`
    # what bending has moved there.
    margin = settings.morph
    if settings.inside:
        margin += math.ceil(strength + np.abs(matrix).sum(axis=1).max()) + 1
    x, y = np.arange(-margin, width + margin), np.arange(-margin, height + margin)
    from_x, from_y = np.meshgrid(x - centre[0] - move[0], y - centre[1] - move[1])
    if strength:
        spacing = min(height, width) / _CELLS
        by_x, by_y = _spline(x, width, spacing), _spline(y, height, spacing)
        angles = rng.uniform(0, 2 * np.pi, (by_y.shape[1], by_x.shape[1]))
        from_x += strength * (by_y @ np.cos(angles) @ by_x.T)
        from_y += strength * (by_y @ np.sin(angles) @ by_x.T)
    (xx, xy), (yx, yy) = np.linalg.inv(matrix)
    x_source = centre[0] + xx * from_x + xy * from_y
    y_source = centre[1] + yx * from_x + yy * from_y
    if settings.beyond == "mirrored":
        x_source, y_source = _mirrored(x_source, width), _mirrored(y_source, height)
    canvas = _sample(mask, x_source, y_source)
    if growth:
        canvas = _dilated(canvas, growth) if growth > 0 else ~_dilated(~canvas, -growth)
    result = canvas[margin : margin + height, margin : margin + width].copy()
    if not settings.inside:
        return _Drawn(result, 0)

    # Points too far outside for the canvas are measured before bending, which cannot bring them back inside.
    moved = matrix @ (points - centre[:, None]) + (centre + move)[:, None]
    overshoot = float(np.max([-moved.min(axis=1), moved.max(axis=1) - (sides - 1), [0, 0]]))
    for axis, side in enumerate((width, height)):
        places = np.flatnonzero(canvas.any(axis=axis)) - margin
        if len(places):
            overshoot = max(overshoot, 1 - int(places[0]), int(places[-1]) - (side - 2))
    return _Drawn(result, overshoot)


def _affine(settings: TransformSettings, unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 2x2 matrix on (x, y) from five numbers in [0, 1): mirror, then shear, rotate and scale."""
    scale = settings.scale[0] + (settings.scale[1] - settings.scale[0]) * unit[0]
    turn = math.radians(settings.rotate * (2 * unit[1] - 1))
    slant = math.tan(math.radians(settings.shear * (2 * unit[2] - 1)))
    allowed = [settings.flip in (way, "both") for way in ("horizontal", "vertical")]
    mirror = np.where(allowed & (unit[3:] < 0.5), -1.0, 1.0)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    shear = np.array([[1.0, slant], [0.0, 1.0]])
    return scale * (rotation @ shear * mirror)


def _spline(places: NDArray[np.integer], side: int, spacing: float) -> Field:
    """Cubic B-spline weights (places, control points) for positions along a side, clamped to its ends."""
    cell, f = np.divmod(np.clip(places, 0, side - 1) / spacing, 1)
    weights = [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, 3 * f * (1 + f - f**2) + 1, f**3]
    matrix = np.zeros((len(places), math.ceil(side / spacing) + 3))
    for k, weight in enumerate(weights):
        matrix[np.arange(len(places)), cell.astype(int) + k] = weight / 6
    return matrix


def _mirrored(places: Field, side: int) -> Field:
    """Positions of pixel centres, those beyond 0 to ``side`` - 1 mirrored at the edge of the frame."""
    from_edge = np.mod(places + 0.5, 2 * side)
    return np.clip(np.minimum(from_edge, 2 * side - from_edge) - 0.5, 0, side - 1)


def _sample(mask: Mask, x: Field, y: Field) -> Mask:
    """``mask`` interpolated bilinearly at ``x``, ``y`` and thresholded at 0.5; background outside."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    near = (x > columns[0] - 1) & (x < columns[-1] + 1) & (y > rows[0] - 1) & (y < rows[-1] + 1)
    padded = np.pad(mask, 1).astype(np.float32)
    x, y = x[near] + 1, y[near] + 1
    column, row = x.astype(np.intp), y.astype(np.intp)
    right, down = x - column, y - row
    above = padded[row, column] * (1 - right) + padded[row, column + 1] * right
    below = padded[row + 1, column] * (1 - right) + padded[row + 1, column + 1] * right
    result = np.zeros(near.shape, bool)
    result[near] = above * (1 - down) + below * down >= _HALF
    return result


def _dilated(mask: Mask, radius: int) -> Mask:
    """``mask`` dilated by a disc of ``radius`` pixels, computed as a union over the disc's rows."""
    height = len(mask)
    result = np.zeros_like(mask)
    for shift in range(-radius, radius + 1):
        reach = math.isqrt(radius**2 - shift**2)
        counts = np.cumsum(np.pad(mask, ((0, 0), (reach + 1, reach))), axis=1, dtype=np.int32)
        widened = counts[:, 2 * reach + 1 :] > counts[:, : mask.shape[1]]
        start, stop = max(shift, 0), min(height, height + shift)
        if start < stop:
            result[start:stop] |= widened[start - shift : stop - shift]
    return result


def _check_masks(mask: Mask, other: Mask | None, name: str) -> None:
    for label, values in ((name, mask), (f"the second mask of {name}", mask if other is None else other)):
        if values.ndim != 2 or values.dtype != np.bool_:
            raise ValueError(f"{label} must be (H, W) bool, not {values.shape} {values.dtype}")
        if not values.any():
            raise UserError(f"There is no foreground to transform in {label}; use a mask that has some.")
        if values.shape != mask.shape:
            (height, width), (needed_height, needed_width) = values.shape, mask.shape
            raise UserError(
                f"The size of {label} is {width} x {height} pixels; resize it to that of {name}, "
                f"{needed_width} x {needed_height}."
            )


def _is_number(value: object, whole: bool = False) -> bool:
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)


def _are_two(pair: object, whole: bool = False) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(_is_number(value, whole) for value in pair)


def _check_number(name: str, value: float, least: float, most: float, whole: bool = False) -> None:
    if not _is_number(value, whole) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        limits = f"from {least} to {most}" if most < math.inf else f"of {least} or more"
        raise UserError(f"{name} is {value}; give {kind} {limits}.")


def _check_pair(name: str, pair: tuple[float, float], least: float, most: float) -> None:
    if not _are_two(pair) or not least <= pair[0] <= pair[1] <= most:
        raise UserError(f"{name} is {pair}; give two numbers from {least} to {most}, the smaller first.")


def _check_components(pair: tuple[int, int]) -> None:
    if not _are_two(pair, whole=True) or min(pair) < 0 or 0 < pair[1] < pair[0]:
        raise UserError(
            f"components is {pair}; give two whole numbers of 0 or more, the smaller first (0 is no limit)."
        )
