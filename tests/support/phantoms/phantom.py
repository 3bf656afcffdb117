"""Colonoscopy phantoms: procedural image/mask pairs, with no patient behind them.

A phantom has what makes the domain recognisable (folds around a dark lumen, vessels, wet highlights, the
cut-corner field of view, polyps with their own colour and texture) and a mask that is exact by construction.
The frame is the square [-1, 1] x [-1, 1], x to the right and y down; lengths and positions below are in
those units. One seed is one scene at any image size.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_core.files import write_bytes_atomic, write_text_atomic

from .noise import (
    Blob,
    Field,
    Point,
    add_glints,
    blobs,
    lesion_surface,
    relief_noise,
    shaded,
    smooth_noise,
    smoothstep,
    vessel_tree,
)

_SIZES = range(32, 513, 8)
_SERIES_LENGTH = 100_000  # phantoms per seed of `write_phantoms`; the stems have five digits

# Lesion colours as RGB, each far from the mucosa in light and in shadow (brown is a dark fold's own).
_LESION_COLOURS = {
    "red": (0.70, 0.10, 0.12),
    "pale": (0.97, 0.76, 0.50),
    "purple": (0.36, 0.13, 0.29),
    "white": (0.95, 0.88, 0.85),
}
# The two ends of the mucosa's range: fresh pink and orange red.
_MUCOSA_PINK = np.array([0.90, 0.54, 0.51], np.float32)
_MUCOSA_RED = np.array([0.82, 0.40, 0.30], np.float32)
_MUCOSA = (_MUCOSA_PINK + _MUCOSA_RED) / 2

_COUNT_WORDS = {1: "a", 2: "two", 3: "three"}
# Area of one lesion as a fraction of the frame, by how many there are.
_AREAS = {
    1: {"small": (0.045, 0.075), "medium": (0.10, 0.16), "large": (0.20, 0.32)},
    2: {"small": (0.030, 0.045), "medium": (0.06, 0.09)},
    3: {"small": (0.025, 0.035), "medium": (0.045, 0.06)},
}


@dataclass(frozen=True)
class _Kind:
    """How a kind of polyp takes light and how far its outline leaves a circle."""

    relief: float
    contact_shadow: float
    stretch: float
    wobble: float
    stalk: bool


_KINDS = {
    "flat": _Kind(relief=0.35, contact_shadow=0.15, stretch=1.5, wobble=0.11, stalk=False),
    "sessile": _Kind(relief=0.75, contact_shadow=0.40, stretch=1.3, wobble=0.06, stalk=False),
    "pedunculated": _Kind(relief=1.05, contact_shadow=0.55, stretch=1.1, wobble=0.03, stalk=True),
}


@dataclass(frozen=True)
class Phantom:
    """One generated pair.

    image: (H, W, 3) uint8 RGB. mask: (H, W) uint8, 0 or 255; 255 where a lesion is visible. prompt: what
    the image shows, in English.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    prompt: str


@dataclass(frozen=True)
class _View:
    """The endoscope's octagonal field of view: half width, half height and the cut of |x| + |y|."""

    half_width: float
    half_height: float
    cut: float

    def distance(self, x: Field, y: Field) -> Field:
        """Signed distance to the border, negative inside."""
        x, y = np.abs(x), np.abs(y)
        sides = np.maximum(x - self.half_width, y - self.half_height)
        return np.maximum(sides, (x + y - self.cut) * np.float32(0.7071))


@dataclass(frozen=True)
class _Fold:
    """A haustral fold: a closed three-cornered crest around the lumen, visible on one side of it."""

    x: float
    y: float
    radius: float
    corners: float
    corner_angle: float
    visible_angle: float
    strength: float

    def crest_radius(self, angle: Field | float) -> Field:
        return self.radius * (1 + self.corners * np.cos(3 * (angle - self.corner_angle)))


@dataclass(frozen=True)
class _Lesion:
    """An ellipse whose outline is perturbed by harmonics 2 to 5."""

    x: float
    y: float
    radius: float
    stretch: float
    angle: float
    harmonics: tuple[tuple[int, float, float], ...]  # order, amplitude, phase


@dataclass(frozen=True)
class _Scene:
    view: _View
    light: Point
    lumen: Point
    folds: tuple[_Fold, ...]
    lesions: tuple[_Lesion, ...]
    kind: str
    colour: str
    prompt: str


def make_phantom(seed: int, size: int = 128) -> Phantom:
    """Generate the phantom of a seed: the same bytes whenever, and after whatever, it is called.

    Args:
        seed: 0 or more.
        size: height and width in pixels, a multiple of 8 from 32 to 512.

    Raises:
        ValueError: the seed is negative or the size is not one of those.
    """
    _check(seed, size)
    rng = np.random.default_rng(seed)
    scene = _draw_scene(rng)
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - np.float32(1)
    x, y = np.broadcast_to(axis, (size, size)), np.broadcast_to(axis[:, None], (size, size))

    image, shade = _paint_mucosa(rng, scene, x, y)
    covered = np.zeros((size, size), bool)
    for lesion in scene.lesions:
        covered |= _paint_lesion(rng, scene, lesion, image, shade, x, y)

    border = scene.view.distance(x, y)
    image += np.float32(0.010) * smooth_noise(rng, 128, size)[..., None]
    image *= np.clip(0.5 - border * (size / 3), 0, 1)[..., None]
    # A camera's black is not zero.
    pixels = np.clip(image * 255 + 0.5, 3, 255).astype(np.uint8)
    mask = np.where(covered & (border < 0), 255, 0).astype(np.uint8)
    return Phantom(pixels, mask, scene.prompt)


def write_phantoms(root: Path, count: int, seed: int = 0, size: int = 128, first: int = 0) -> None:
    """Write phantoms `first` to `first + count - 1` of the series `seed` as a folder of pairs.

    The folder holds images/<stem>.png, masks/<stem>.png and prompt.json: JSON Lines with the keys source
    (the mask), target (the image) and prompt. Different seeds share no phantom, and neither do disjoint
    ranges of one seed.

    Raises:
        FileExistsError: `root` exists and is not empty.
        ValueError: the range leaves the series (100 000 phantoms), or `seed` or `size` is out of range.
    """
    _check(seed, size)
    if first < 0 or count < 1 or first + count > _SERIES_LENGTH:
        raise ValueError(
            f"phantoms are numbered 0 to {_SERIES_LENGTH - 1}: cannot write {count} from number {first}"
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not an empty folder: name a new folder for the phantoms")
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    lines = []
    for number in range(first, first + count):
        phantom = make_phantom(seed * _SERIES_LENGTH + number, size)
        source, target = f"masks/phantom_{number:05d}.png", f"images/phantom_{number:05d}.png"
        write_bytes_atomic(root / source, _png(phantom.mask))
        write_bytes_atomic(root / target, _png(phantom.image))
        lines.append(json.dumps({"source": source, "target": target, "prompt": phantom.prompt}) + "\n")
    write_text_atomic(root / "prompt.json", "".join(lines))


def _check(seed: int, size: int) -> None:
    if seed < 0:
        raise ValueError(f"a phantom's seed must be 0 or more, not {seed}")
    if size not in _SIZES:
        raise ValueError(f"a phantom's size must be a multiple of 8 from 32 to 512, not {size}")


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _draw_scene(rng: np.random.Generator) -> _Scene:
    view = _draw_view(rng)
    light_angle = rng.uniform(0, 2 * math.pi)
    lumen_angle, lumen_offset = rng.uniform(0, 2 * math.pi), rng.uniform(0.25, 1.0)
    lumen = (lumen_offset * math.cos(lumen_angle), lumen_offset * math.sin(lumen_angle))
    folds = _draw_folds(rng, lumen)
    count = int(rng.choice([1, 2, 3], p=[0.8, 0.14, 0.06]))
    areas = _AREAS[count]
    odds = [0.3, 0.4, 0.3] if count == 1 else [0.5, 0.5]
    size_word = str(rng.choice(list(areas), p=odds))
    kind, colour = str(rng.choice(list(_KINDS))), str(rng.choice(list(_LESION_COLOURS)))
    lesions: list[_Lesion] = []
    for _ in range(count):
        radius = 2 * math.sqrt(rng.uniform(*areas[size_word]) / math.pi)
        lesions.append(_draw_lesion(rng, view, lumen, lesions, radius, _KINDS[kind]))
    noun = "polyp" if count == 1 else "polyps"
    prompt = f"a photo of {_COUNT_WORDS[count]} {size_word} {colour} {kind} {noun}"
    light = (math.cos(light_angle), math.sin(light_angle))
    return _Scene(view, light, lumen, folds, tuple(lesions), kind, colour, prompt)


def _draw_view(rng: np.random.Generator) -> _View:
    style = rng.choice(["full", "mild", "strong"], p=[0.3, 0.4, 0.3])
    if style == "full":
        return _View(1.05, 1.05, rng.uniform(1.75, 2.1))
    if style == "mild":
        return _View(rng.uniform(0.95, 1.0), rng.uniform(0.93, 1.0), rng.uniform(1.5, 1.65))
    return _View(rng.uniform(0.91, 0.97), rng.uniform(0.89, 0.97), rng.uniform(1.28, 1.4))


def _draw_folds(rng: np.random.Generator, lumen: Point) -> tuple[_Fold, ...]:
    """Folds from the nearest (largest) to the farthest; the near ones are centred nearer the frame."""
    corner, corners = rng.uniform(0, 2 * math.pi), rng.uniform(0.06, 0.19)
    folds = []
    for radius in (1.25, 0.80, 0.48, 0.26):
        radius *= rng.uniform(0.88, 1.12)
        slide = max(0.0, 1 - 0.45 * radius)
        turn, visible, strength = rng.normal(0, 0.35), rng.uniform(0, 2 * math.pi), rng.uniform(0.7, 1.0)
        x, y = lumen[0] * slide, lumen[1] * slide
        folds.append(_Fold(x, y, radius, corners, corner + turn, visible, strength))
    return tuple(folds)


def _draw_lesion(
    rng: np.random.Generator, view: _View, lumen: Point, others: Sequence[_Lesion], radius: float, kind: _Kind
) -> _Lesion:
    """Place a lesion of mean `radius` in view, apart from `others` and preferably off the lumen."""
    places_x, places_y = rng.uniform(-0.85, 0.85, (2, 64))
    outside = np.maximum(view.distance(places_x, places_y) + 0.95 * radius, 0)
    in_lumen = np.maximum(0.30 + 0.8 * radius - np.hypot(places_x - lumen[0], places_y - lumen[1]), 0)
    cost = 4 * outside + in_lumen
    for other in others:
        gap = 1.2 * (radius + other.radius) + 0.05
        cost += 10 * np.maximum(gap - np.hypot(places_x - other.x, places_y - other.y), 0)
    best = np.argmin(cost)
    harmonics = tuple(
        (order, kind.wobble * rng.uniform(0.4, 1.0) * 2 / order, rng.uniform(0, 2 * math.pi))
        for order in range(2, 6)
    )
    stretch, angle = rng.uniform(1.0, kind.stretch), rng.uniform(0, math.pi)
    return _Lesion(float(places_x[best]), float(places_y[best]), radius, stretch, angle, harmonics)


def _paint_mucosa(rng: np.random.Generator, scene: _Scene, x: Field, y: Field) -> tuple[Field, Field]:
    """Return the empty colon, (H, W, 3) in [0, 1] or a little above, and its illumination (H, W)."""
    size = x.shape[0]
    warped_x = x + np.float32(0.05) * smooth_noise(rng, 5, size)
    warped_y = y + np.float32(0.05) * smooth_noise(rng, 5, size)
    from_lumen = np.hypot(warped_x - scene.lumen[0], warped_y - scene.lumen[1])
    shade = 0.22 + 0.78 * smoothstep(0.02, 0.75, from_lumen)
    for fold in scene.folds:
        shade = shade * _fold_shade(fold, warped_x, warped_y)
    fall_off = rng.uniform(0.95, 1.20) - rng.uniform(0.22, 0.38) * (x * x + y * y)
    side_light = 1 + 0.12 * (scene.light[0] * x + scene.light[1] * y)
    relief = 1 + 0.03 * relief_noise(rng, 44, size, scene.light)
    shade = np.clip(shade * fall_off * side_light * relief, 0.02, 1.25)

    tone = np.clip(rng.uniform(0.0, 1.0) + 0.25 * smooth_noise(rng, 6, size), 0, 1)[..., None]
    image = _MUCOSA_PINK * (1 - tone) + _MUCOSA_RED * tone
    vessels = vessel_tree(rng, size, trunks=5) * np.clip(0.6 + 0.4 * smooth_noise(rng, 4, size), 0.1, 1)
    image = image * (1 - vessels[..., None] * np.array([0.26, 0.56, 0.50], np.float32))
    image = shaded(image, shade)

    # Dim folds do not glint, so the highlights follow the light that reaches them.
    glints = blobs(_fold_glints(rng, scene), size) * smoothstep(0.35, 0.7, shade)
    return add_glints(image, glints), shade


def _fold_shade(fold: _Fold, x: Field, y: Field) -> Field:
    """Shading factor of one fold: a lit crest, then a shadow and dimmer wall behind it."""
    dx, dy = x - fold.x, y - fold.y
    angle = np.arctan2(dy, dx)
    beyond = (np.hypot(dx, dy) - fold.crest_radius(angle)) / (0.10 + 0.22 * fold.radius)
    visible = fold.strength * (0.62 + 0.38 * np.cos(angle - fold.visible_angle))
    behind = smoothstep(0.16, -0.16, beyond)
    shadow = behind * np.exp(np.minimum(beyond, 0) * 1.6)
    crest = np.exp(-np.square((beyond - 0.22) * 3.2))
    return (1 - visible * (0.10 * behind + 0.52 * shadow)) * (1 + 0.34 * visible * crest)


def _fold_glints(rng: np.random.Generator, scene: _Scene) -> list[Blob]:
    """Highlights strung along the crests, each turned along its crest."""
    glints = []
    for fold in scene.folds[:3]:
        start = fold.visible_angle + rng.uniform(-1.2, 1.2)
        for step in range(int(rng.integers(2, 6))):
            angle = start + step * rng.uniform(0.08, 0.22)
            radius = float(fold.crest_radius(angle)) + (0.10 + 0.22 * fold.radius) * rng.uniform(0.1, 0.35)
            x, y = fold.x + radius * math.cos(angle), fold.y + radius * math.sin(angle)
            along = angle + math.pi / 2 + rng.normal(0, 0.2)
            glints.append(Blob(x, y, rng.uniform(0.015, 0.055), rng.uniform(0.010, 0.018), along))
    return glints


def _paint_lesion(
    rng: np.random.Generator, scene: _Scene, lesion: _Lesion, image: Field, shade: Field, x: Field, y: Field
) -> NDArray[np.bool_]:
    """Paint one lesion and its shadow into `image`; returns (H, W), true where the lesion is."""
    size, kind = x.shape[0], _KINDS[scene.kind]
    dx, dy = x - lesion.x, y - lesion.y
    radial = np.hypot(dx, dy) + np.float32(1e-6)
    towards_light = (dx * scene.light[0] + dy * scene.light[1]) / radial
    reach = radial / _outline(lesion, np.arctan2(dy, dx))  # 0 in the middle, 1 on the outline

    shadow = np.exp(-np.maximum(reach - 1, 0) * 5) * (0.55 - 0.45 * towards_light)
    image *= (1 - kind.contact_shadow * shadow)[..., None]
    if kind.stalk:
        _paint_stalk(scene, lesion, image, shade, dx, dy)

    inside = np.minimum(reach, 1)
    height = np.sqrt(1 - inside * inside)
    lambert = 0.55 * inside * towards_light + 0.84 * height
    rim = smoothstep(0.80, 1.0, inside) * (0.6 - 0.4 * towards_light)
    # The head stands in the light in front of the folds, so little of their shading reaches it.
    lit = np.clip(0.78 + 0.22 * shade, 0.8, 1.05) * (1 + kind.relief * 0.55 * (lambert - 0.62))
    lit = lit * (1 - 0.30 * kind.relief * rim) * lesion_surface(rng, dx, dy, scene.light)
    colour = (np.array(_LESION_COLOURS[scene.colour]) + rng.uniform(-0.015, 0.015, 3)).astype(np.float32)
    # A lesion is tissue too: patches of it, and its rim, keep a trace of the mucosa around it.
    blend = np.clip(0.10 + 0.07 * smooth_noise(rng, 9, size), 0, 0.25) + 0.14 * smoothstep(0.72, 1.0, inside)
    patch = shaded(colour + (_MUCOSA - colour) * blend[..., None], lit)
    patch = add_glints(patch, blobs(_lesion_glints(rng, lesion, scene.light), size))

    soft_edge = max(1.3 * 2 / size, 0.016)
    opacity = np.clip(0.5 + (1 - reach) * lesion.radius / soft_edge, 0, 1)[..., None]
    image += (patch - image) * opacity
    return reach <= 1


def _outline(lesion: _Lesion, angle: Field) -> Field:
    """Distance from the lesion's centre to its outline, by direction."""
    turned, long = angle - lesion.angle, math.sqrt(lesion.stretch)
    ellipse = 1 / np.hypot(np.cos(turned) / long, np.sin(turned) * long)
    wobble = np.zeros_like(angle)
    for order, amplitude, phase in lesion.harmonics:
        wobble += amplitude * np.cos(order * turned + phase)
    return lesion.radius * ellipse * (1 + wobble)


def _lesion_glints(rng: np.random.Generator, lesion: _Lesion, light: Point) -> list[Blob]:
    """One to three highlights on the lit shoulder, turned across the light."""
    across = math.atan2(light[1], light[0]) + math.pi / 2
    glints = []
    for _ in range(int(rng.integers(1, 4))):
        shoulder, sideways = rng.uniform(0.3, 0.6) * lesion.radius, rng.normal(0, 0.2) * lesion.radius
        x = lesion.x + shoulder * light[0] - sideways * light[1]
        y = lesion.y + shoulder * light[1] + sideways * light[0]
        angle = across + rng.normal(0, 0.3)
        glints.append(Blob(x, y, rng.uniform(0.02, 0.05), rng.uniform(0.012, 0.022), angle))
    return glints


def _paint_stalk(scene: _Scene, lesion: _Lesion, image: Field, shade: Field, dx: Field, dy: Field) -> None:
    """Paint a short mucosal stalk that leaves the head on its shadow side."""
    along = -(dx * scene.light[0] + dy * scene.light[1]) / np.float32(lesion.radius)
    across = (dx * scene.light[1] - dy * scene.light[0]) / np.float32(lesion.radius)
    half_width = 0.30 + 0.16 * np.square(np.maximum(along - 0.9, 0))
    roundness = np.clip(1 - np.square(across / half_width), 0, 1)
    opacity = smoothstep(0.0, 0.25, roundness) * smoothstep(0.0, 0.3, along) * smoothstep(1.75, 1.35, along)
    lit = np.clip(shade, 0.55, 1.0) * (0.70 + 0.38 * roundness)
    image += (shaded(_MUCOSA, lit) - image) * opacity[..., None]
