"""Estimates with 95 % bootstrap intervals over images; all draws come from named streams of a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_core.seeds import stream_seed

Floats = NDArray[np.float64]

Groups = NDArray[np.intp]
"""A group number for each image, (N,). Images of one group, such as those of one mask, are dependent."""

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A metric's value, its 95 % interval (None if not available) and the numbers of images."""

    value: float
    low: float | None
    high: float | None
    real: int
    synthetic: int
    note: str = ""


def draws(seed: int, stream: str) -> np.random.Generator:
    """A new generator for the named ``stream`` of ``seed``."""
    return np.random.default_rng(stream_seed(seed, stream))


def bootstrap_counts(
    images: int, resamples: int, random: np.random.Generator, groups: Groups | None = None
) -> Floats:
    """Counts (B, N) of N images in B = ``resamples`` bootstrap samples; every row sums to N.

    With ``groups``, whole groups are drawn, and rows sum to about N.
    """
    if groups is not None:
        names, own = np.unique(groups, return_inverse=True)
        return bootstrap_counts(len(names), resamples, random)[:, own]
    return random.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def bounds(found: Floats) -> tuple[float, float]:
    """The bounds of the central 95 % of the (B,) values ``found``; NaN values are ignored."""
    low, high = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def statistic_estimate(
    values: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    sizes: tuple[int, int],
    resamples: int,
    seed: int,
    stream: str,
    note: str = "",
    groups: Groups | None = None,
) -> Estimate:
    """``statistic`` of the (N,) ``values`` with its percentile bootstrap interval.

    ``statistic`` maps (..., N) to (...); ``sizes`` are the numbers of real and synthetic images. The
    bootstrap resamples images or, if given, their ``groups``; a single one gives no interval.
    """
    value = float(statistic(values))
    if len(values if groups is None else np.unique(groups)) < 2:
        return Estimate(value, None, None, *sizes, note)
    low, high = bounds(resampled(values, statistic, resamples, draws(seed, stream), groups))
    return Estimate(value, low, high, *sizes, note)


def resampled(
    values: Floats,
    statistic: Callable[[Floats], Floats],
    resamples: int,
    random: np.random.Generator,
    groups: Groups | None = None,
) -> Floats:
    """``statistic`` of B = ``resamples`` bootstrap samples of (N,) ``values`` or their ``groups``: (B,)."""
    if groups is None:
        return statistic(values[random.integers(0, len(values), (resamples, len(values)))])
    counts = bootstrap_counts(len(values), resamples, random, groups).astype(np.intp)
    return np.array([statistic(np.repeat(values, row)) for row in counts])


def mean(values: Floats) -> Floats:
    """Mean over the last axis, as a statistic."""
    return np.mean(values, axis=-1)


def median(values: Floats) -> Floats:
    """Median over the last axis, as a statistic."""
    return np.median(values, axis=-1)
