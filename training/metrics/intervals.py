"""Estimates with 95 % bootstrap intervals over images; every draw comes from a named stream of a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamese_core.seeds import stream_seed

Floats = NDArray[np.float64]

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A metric's value, its 95 % interval (None where none can be had) and the images it rests on."""

    value: float
    low: float | None
    high: float | None
    real: int
    synthetic: int
    note: str = ""


def draws(seed: int, stream: str) -> np.random.Generator:
    """A generator of its own for the named ``stream`` of ``seed``."""
    return np.random.default_rng(stream_seed(seed, stream))


def bootstrap_counts(images: int, resamples: int, random: np.random.Generator) -> Floats:
    """How often each image is in each of ``resamples`` bootstrap samples: (B, N), every row sums to N."""
    return random.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def bounds(resampled: Floats) -> tuple[float, float]:
    """The central 95 % of the (B,) ``resampled`` values; NaN stands for a resample without a value."""
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
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
) -> Estimate:
    """``statistic`` of the (N,) ``values`` with its percentile interval.

    ``statistic`` maps (..., N) to (...); ``sizes`` are the numbers of real and synthetic images. One value
    alone has no interval.
    """
    value = float(statistic(values))
    if len(values) < 2:
        return Estimate(value, None, None, *sizes, note)
    chosen = draws(seed, stream).integers(0, len(values), (resamples, len(values)))
    low, high = bounds(statistic(values[chosen]))
    return Estimate(value, low, high, *sizes, note)


def mean(values: Floats) -> Floats:
    """Mean over the last axis, as a statistic."""
    return np.mean(values, axis=-1)


def median(values: Floats) -> Floats:
    """Median over the last axis, as a statistic."""
    return np.median(values, axis=-1)
