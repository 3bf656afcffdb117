"""Statistics of blinded ratings: mean opinion scores, images taken for real, differences and agreement.

Every rater rates every image, so raters and images are crossed, and both are samples (of physicians and of a
model's output). The intervals generalise to other raters and other images
(:mod:`training.statistics.crossed`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..statistics.crossed import Estimate, crossed_mean
from ..statistics.intervals import bootstrap_counts, bounds, draws

LOWEST, HIGHEST = 1, 5
TAKEN_FOR_REAL = 4
"""Ratings of at least this mean that the rater took the image for real."""

_RESAMPLES = 9999


@dataclass(frozen=True)
class Ratings:
    """The complete ratings of one study: ``values`` (R, N), integers 1..5, of R raters and N items.

    ``sources`` are the compared sources in the order to show them; ``source_of`` is the source of each item.
    A source has at least 2 items.
    """

    raters: tuple[str, ...]
    items: tuple[str, ...]
    sources: tuple[str, ...]
    source_of: tuple[str, ...]
    values: NDArray[np.int64]

    def of(self, source: str) -> NDArray[np.int64]:
        """The ratings of one source's items, (R, N_source) integers 1..5."""
        return self.values[:, np.array(self.source_of) == source]


@dataclass(frozen=True)
class SourceScore:
    """One source: its mean opinion score (1..5) and the share of ratings that took its images for real.

    ``these_raters`` is the same mean with the interval for other images but the same raters.
    """

    source: str
    items: int
    mean_opinion_score: Estimate
    these_raters: Estimate
    taken_for_real: Estimate


@dataclass(frozen=True)
class Difference:
    """Mean opinion score of ``first`` minus that of ``second``, with two kinds of inference.

    ``difference`` and ``p_value`` (from the same model) generalise to other raters and other images.
    ``these_raters`` and ``p_these_raters`` (from permuting the images between the sources) generalise to
    other images but the same raters. P values are two-sided and adjusted for the number of comparisons (Holm
    1979); None if the ratings have no variance.
    """

    first: str
    second: str
    difference: Estimate
    these_raters: Estimate
    p_value: float | None
    p_these_raters: float | None


def source_scores(ratings: Ratings) -> list[SourceScore]:
    """The score of every source, in order."""
    scores = []
    for source in ratings.sources:
        table = ratings.of(source)
        opinion, these_raters = (
            crossed_mean([part], [1.0]).estimate(LOWEST, HIGHEST) for part in (table, _as_one_rater(table))
        )
        taken = crossed_mean([table >= TAKEN_FOR_REAL], [1.0]).estimate(0, 1)
        scores.append(SourceScore(source, table.shape[1], opinion, these_raters, taken))
    return scores


def differences(ratings: Ratings, seed: int) -> list[Difference]:
    """The differences of all pairs of sources, earlier minus later; permutations are drawn from ``seed``."""
    pairs = list(combinations(ratings.sources, 2))
    tables = [(ratings.of(first), ratings.of(second)) for first, second in pairs]
    means = [crossed_mean(two, [1.0, -1.0]) for two in tables]
    of_these = [crossed_mean([_as_one_rater(table) for table in two], [1.0, -1.0]) for two in tables]
    model_p = holm([mean.p_value() for mean in means])
    permutation_p = holm([permutation_p_value(*two, seed) for two in tables])
    return [
        Difference(*pairs[i], means[i].estimate(), of_these[i].estimate(), model_p[i], permutation_p[i])
        for i in range(len(pairs))
    ]


def _as_one_rater(table: NDArray[np.generic]) -> NDArray[np.float64]:
    """The items' means over the raters, (R, N) to (1, N), which treats the raters as a fixed panel."""
    return table.mean(axis=0, keepdims=True)


def permutation_p_value(first: NDArray[np.int64], second: NDArray[np.int64], seed: int) -> float | None:
    """Two-sided permutation p value for the means of ratings (R, N1) and (R, N2); None without variance.

    Images, each with its mean over the raters, are exchanged between the sources. The test is exact for few
    images and uses 9999 random permutations otherwise.
    """
    means = first.mean(axis=0), second.mean(axis=0)
    if np.ptp(np.concatenate(means)) == 0:
        return None
    result = stats.permutation_test(
        means,
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        vectorized=True,
        n_resamples=_RESAMPLES,
        random_state=draws(seed, "rating permutations"),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """``p_values`` adjusted by Holm's step-down method (1979); None values are kept and not counted."""
    adjusted: list[float | None] = list(p_values)
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[index] = largest
    return adjusted


def agreement(ratings: Ratings, seed: int) -> Estimate | None:
    """Krippendorff's alpha of the raters with a bootstrap interval over the items; None if undefined."""
    return _alpha_estimate(coincidences(ratings.values.astype(float)), seed)


def krippendorff_alpha(values: NDArray[np.float64]) -> float | None:
    """Ordinal alpha (Krippendorff 2011) of ``values`` (R, N): ratings 1..5, or NaN for missing ones.

    1 is full agreement, 0 is chance level, below 0 is systematic disagreement. None if fewer than two
    different ratings occur among the items that at least two raters rated.
    """
    alpha = float(_alphas(coincidences(values).sum(axis=0)))
    return None if math.isnan(alpha) else alpha


def coincidences(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coincidence matrices (N, 5, 5): how often two raters gave an item the ratings c and k.

    The matrix of an item with m ratings sums to m.
    """
    counts = np.stack([(values == level).sum(axis=0) for level in range(LOWEST, HIGHEST + 1)], axis=1)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    number = counts.sum(axis=1)
    pairs = pairs / np.maximum(number - 1, 1)[:, None, None]
    return pairs  # an item with a single rating has no pairs, so its matrix is 0


def _alpha_estimate(per_item: NDArray[np.float64], seed: int) -> Estimate | None:
    alpha = float(_alphas(per_item.sum(axis=0)))
    if math.isnan(alpha):
        return None
    drawn = bootstrap_counts(len(per_item), _RESAMPLES, draws(seed, "rating agreement"))
    return Estimate(alpha, *bounds(_alphas(np.tensordot(drawn, per_item, axes=1))))


def _alphas(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ordinal alpha of coincidence matrices (..., 5, 5): (...), NaN if undefined."""
    totals = matrices.sum(axis=-1)
    # The ordinal distance of two ratings is the difference of their mid-ranks, squared.
    ranks = totals.cumsum(axis=-1) - totals / 2
    distances = (ranks[..., :, None] - ranks[..., None, :]) ** 2
    observed = (matrices * distances).sum(axis=(-2, -1))
    expected = (totals[..., :, None] * totals[..., None, :] * distances).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (totals.sum(axis=-1) - 1) * observed / expected
