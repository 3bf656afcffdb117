"""How well predicted masks agree with true ones: per image, over images and seeds, and against a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from ..metrics.intervals import Floats, mean, statistic_estimate

Masks = NDArray[np.bool_]

RESAMPLES = 5000


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and their sample standard deviation (None for one seed)."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline on the same N test images, each image's score averaged over seeds.

    ``difference``: mean of variant minus baseline; ``low``, ``high``: its 95 % bootstrap interval over images
    (None for a single image); ``p_value``: two-sided Wilcoxon signed-rank test. They speak of the test images
    alone: how much another training run would change shows in the seeds' :class:`Spread`.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float


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


def compare(variant: Floats, baseline: Floats, *, seed: int = 0) -> Comparison:
    """Compare scores (S, N) of S seeds on N test images with the baseline's (any number of seeds, N).

    ``seed`` decides the bootstrap's draws. Raises ValueError when the numbers of images differ.
    """
    if variant.shape[1] != baseline.shape[1]:
        raise ValueError(f"{variant.shape[1]} images cannot be paired with {baseline.shape[1]}")
    differences = variant.mean(axis=0) - baseline.mean(axis=0)
    count = len(differences)
    found = statistic_estimate(
        differences, mean, sizes=(count, count), resamples=RESAMPLES, seed=seed, stream="segmentation"
    )
    # Of differences that are all 0 the test knows nothing: neither side is better.
    p_value = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    return Comparison(found.value, found.low, found.high, 1.0 if math.isnan(p_value) else p_value)


def _overlaps(predicted: Masks, wanted: Masks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels (N,) in the intersection and in the union of masks (N, H, W)."""
    if predicted.shape != wanted.shape:
        raise ValueError(f"masks of shape {predicted.shape} cannot be compared with {wanted.shape}")
    both = np.count_nonzero(predicted & wanted, axis=(1, 2))
    either = np.count_nonzero(predicted | wanted, axis=(1, 2))
    return np.asarray(both), np.asarray(either)
