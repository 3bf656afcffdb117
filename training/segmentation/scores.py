"""Dice and IoU of predicted masks: per image, over images and seeds, and compared with a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..statistics.crossed import crossed_mean
from ..statistics.intervals import Floats

Masks = NDArray[np.bool_]

ALL_IMAGES = "all images"
"""Name of the union of all test sets."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds (None for one seed)."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Comparison:
    """A variant compared with the baseline on the same N test images with the same ``runs`` (seeds).

    ``difference``: mean of variant minus baseline; ``low``, ``high``: its 95 % interval; ``p_value``:
    two-sided, for no difference. With two or more runs they generalise to other training runs and other
    images. With one run the interval is for other images only, and there is no p value. All are None for a
    single image and when the differences have no variance.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    runs: int


def dice_scores(predicted: Masks, wanted: Masks) -> Floats:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of each pair of bool masks (N, H, W): (N,) in [0, 1].

    It is 1 for two empty masks and 0 for an empty and a non-empty one. Raises ValueError when the shapes
    differ.
    """
    both, either = _overlaps(predicted, wanted)
    return np.where(either == 0, 1.0, 2 * both / np.maximum(both + either, 1))


def iou_scores(predicted: Masks, wanted: Masks) -> Floats:
    """Intersection over union |A and B| / |A or B| of each pair of bool masks (N, H, W): (N,) in [0, 1].

    Empty masks and errors are treated as in :func:`dice_scores`.
    """
    both, either = _overlaps(predicted, wanted)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def over_all_sets(scores: Mapping[str, Sequence[float]]) -> Floats:
    """The concatenated scores of all test sets, (N,), so that every image has the same weight."""
    return np.concatenate([np.asarray(values, np.float64) for values in scores.values()])


def spread(means: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of one value per seed."""
    sd = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return Spread(float(np.mean(means)), sd)


def compare(variant: Floats, baseline: Floats) -> Comparison:
    """Compare scores (S, N) of S seeds on N test images with the baseline's for the same seeds and images.

    The luck of a run affects all of its images, so a test over images alone would take it for an effect. Runs
    and images are therefore treated as crossed samples, like raters and images in a rating study. Raises
    ValueError when the shapes differ.
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
    """Numbers of pixels (N,) in the intersection and in the union of bool masks (N, H, W)."""
    if predicted.shape != wanted.shape:
        raise ValueError(f"masks of shape {predicted.shape} cannot be compared with {wanted.shape}")
    both = np.count_nonzero(predicted & wanted, axis=(1, 2))
    either = np.count_nonzero(predicted | wanted, axis=(1, 2))
    return np.asarray(both), np.asarray(either)
