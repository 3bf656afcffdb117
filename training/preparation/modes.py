"""Kinds ("modes") of images in one dataset, such as tissue stains, recognised by file names or colours.

A model trained with one prompt for all kinds learns mainly the common kind; a prompt per mode separates them.
"""

from __future__ import annotations

import colorsys
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.vq import kmeans2

from siamese_core.errors import UserError
from siamese_core.seeds import stream_seed

from .splits import SPLIT_NAME

ModeSource = Literal["name", "colour"]

_THUMBNAIL = 64  # px
_RESTARTS = 8
_GREY = 0.12  # saturation below which no hue is named
_HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "violet", "pink")
_HUE_ENDS = (0.04, 0.11, 0.19, 0.44, 0.54, 0.70, 0.83, 0.96)
_DARK, _BRIGHT = 0.3, 0.65
_NUMBER = re.compile(r"[\W_]*\d+$")


class ModeError(UserError):
    """Images cannot be divided into modes as asked; the message says what was found and the fix."""


def modes_by_name(stems: Sequence[str]) -> list[str]:
    """The mode of each image: its stem without the number at the end, ``violet`` for ``violet_12``.

    If every stem begins with its split, that is no part of the mode: ``violet`` for ``train_violet_12``.
    Raises ModeError when a name is only a number, and unless there are 2 to N / 2 modes of the N images.
    """
    if all(SPLIT_NAME.match(stem) for stem in stems):
        stems = [SPLIT_NAME.sub("", stem) for stem in stems]
    modes = [_NUMBER.sub("", stem).replace("_", " ") for stem in stems]
    if "" in modes:
        stem = stems[modes.index("")]
        raise ModeError(f"{stem}: the name is a number and tells no mode; rename it, or use --modes colour")
    counts = Counter(modes)
    if len(counts) == 1 or len(counts) > len(stems) / 2:
        raise ModeError(
            f"the file names tell {len(counts)} modes of {len(stems)} images; call them MODE_NUMBER, or use "
            "--modes colour"
        )
    return modes


def modes_by_colour(images: Iterable[NDArray[np.uint8]], modes: int, seed: int) -> list[str]:
    """Cluster ``images`` (H, W, 3) of any size into ``modes`` kinds by colour; return each image's kind.

    Uses k-means on the means and standard deviations of the colour channels, the best of several starts drawn
    from ``seed``. A kind is named by its mean colour, such as ``dark grey`` or ``bright violet``. Raises
    ModeError when fewer than ``modes`` images have different colours.
    """
    colours = np.stack([_colours(image) for image in images])
    if len(np.unique(colours, axis=0)) < modes:
        raise ModeError(f"--mode-count {modes} exceeds the images of different colours; lower it")
    best, least = None, np.inf
    for start in range(_RESTARTS):
        random = np.random.default_rng(stream_seed(seed, "modes", start))
        centres, labels = kmeans2(colours, modes, minit="++", seed=random)
        spread = float(((colours - centres[labels]) ** 2).sum())
        if len(np.unique(labels)) == modes and spread < least:
            best, least = labels, spread
    if best is None:
        raise ModeError(f"no {modes} kinds of colours can be told apart; lower --mode-count")
    names = _apart([colour_name(colours[best == mode, :3].mean(0)) for mode in range(modes)])
    return [names[label] for label in best]


def colour_name(colour: NDArray[np.float64]) -> str:
    """The name of an RGB colour (3,) in 0..1: its hue, preceded by ``dark`` or ``bright`` if it is."""
    hue, lightness, _ = colorsys.rgb_to_hls(*map(float, colour))
    saturation = float(colour.max() - colour.min())
    light = "dark " if lightness < _DARK else "bright " if lightness > _BRIGHT else ""
    if saturation < _GREY:
        return f"{light}grey"
    return light + next((name for name, end in zip(_HUES, _HUE_ENDS, strict=True) if hue < end), _HUES[0])


def _colours(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = Image.fromarray(image).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float64).reshape(-1, 3) / 255
    return np.concatenate([pixels.mean(0), pixels.std(0)])


def _apart(names: Sequence[str]) -> list[str]:
    """``names`` with a number appended to repeated ones."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} {seen[name]}" if seen[name] > 1 else name)
    return found
