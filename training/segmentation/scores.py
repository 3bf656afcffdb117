"""How well predicted masks agree with true ones: per image, over images and seeds, and against a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..statistics.crossed import crossed_mean
from ..statistics.intervals import Floats

Masks = NDArray[np.bool_]

ALL_IMAGES = "all images"
"""Name of all test sets as one."""


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and their sample standard deviation (None for one seed)."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline on the same N test images, by the same ``runs`` (seeds).

    ``difference``: mean of variant minus baseline; ``low``, ``high``: its 95 % interval; ``p_value``:
    two-sided, of no difference. With two runs or more both hold for other training runs and other images
    alike. One run cannot tell what another would give: its interval is of other images under that run, and
    it has no p. All are None for a single image and where the differences have no spread at all.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    runs: int


def dice_scores(predicted: Masks, wanted: Masks) -> Floats:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of each pair of masks (N, H, W): (N,) in [0, 1].

    Two empty masks agree: 1; an empty one and any other do not: 0. Raises ValueError when the shapes differ.
    """
    both, either = _overlaps(predicted, wanted)
    return np.where(either == 0, 1.0, 2 * both / np.maximum(both + either, 1))


def iou_scores(predicted: Masks, wanted: Masks) -> Floats:
    """Intersection over union |A and B| / |A or B| of each pair of masks (N, H, W): (N,) in [0, 1].

    Empty masks and errors as in :func:`dice_scores`.
    """
    both, either = _overlaps(predicted, wanted)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def over_all_sets(scores: Mapping[str, Sequence[float]]) -> Floats:
    """The scores of all test sets as one, so that every image weighs the same: (N,)."""
    return np.concatenate([np.asarray(values, np.float64) for values in scores.values()])


def spread(means: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of one value per seed."""
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Spread(float(np.mean(means)), sd)


def compare(variant: Floats, baseline: Floats) -> Comparison:
    """Compare scores (S, N) of S seeds on N test images with the baseline's, of the same seeds and images.

    A run's luck is shared by all its images, so that images alone, however many, would call it an effect:
    runs and images are crossed samples, as raters and images are in a study of opinions. Raises ValueError
    when the shapes differ.
    """
    if variant.shape != baseline.shape:
        raise ValueError(f"scores {variant.shape} (seeds, images) cannot be paired with {baseline.shape}")
    differences = variant - baseline
    runs, images = differences.shape
    if images < 2:
        return Comparison(float(differences.mean()), None, None, None, runs)
    mean = crossed_mean([differences], [1.0])
    found = mean.estimate(-1, 1)
    return Comparison(found.value, found.low, found.high, mean.p_value() if runs > 1 else None, runs)


def _overlaps(predicted: Masks, wanted: Masks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels (N,) in the intersection and in the union of masks (N, H, W)."""
    if predicted.shape != wanted.shape:
        raise ValueError(f"masks of shape {predicted.shape} cannot be compared with {wanted.shape}")
    both = np.count_nonzero(predicted & wanted, axis=(1, 2))
    either = np.count_nonzero(predicted | wanted, axis=(1, 2))
    return np.asarray(both), np.asarray(either)
