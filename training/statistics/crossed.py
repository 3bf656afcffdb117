"""Means over two crossed samples, such as raters and images, or training runs and images.

Every rater rates every image, and every trained network is scored on every image. Both are samples, and an
interval should generalise to others of both. "Rater" below may also mean a run. Three raters are too few to
bootstrap (resamples never leave the range of three means), so the variance is estimated by a two-way analysis
of variance, and the interval is Student's with Satterthwaite's degrees of freedom, as in multi-reader
multi-case studies (Dorfman, Berbaum and Metz 1992; Hillis 2007). In simulated studies with three raters and
25 images these intervals cover the truth in 92 to 99 % of cases, with two raters in about 90 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .intervals import LEVEL

_NO_SPREAD = 1e-12  # variances below this are rounding errors


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; ``low`` and ``high`` are None if the data have no variance."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CrossedMean:
    """A mean over crossed raters and items, with its standard error and the degrees of freedom."""

    value: float
    error: float
    freedom: float

    def estimate(self, lowest: float = -math.inf, highest: float = math.inf) -> Estimate:
        """The value with its 95 % interval, clipped to the possible range ``lowest``..``highest``."""
        if not self.error:
            return Estimate(self.value, None, None)
        half = self.half_width()
        return Estimate(self.value, max(self.value - half, lowest), min(self.value + half, highest))

    def half_width(self) -> float:
        """Half the width of the 95 % interval."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.freedom)) * self.error

    def p_value(self) -> float | None:
        """The two-sided p value of the mean being 0; None without variance."""
        if not self.error:
            return None
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))


def crossed_mean(tables: Sequence[NDArray[np.generic]], weights: Sequence[float]) -> CrossedMean:
    """The weighted sum of the means of ``tables``, each (R, N) with the same R raters and its own items.

    One table with weight 1 gives a mean, two with 1 and -1 a difference. Let MS_I and MS_E be the mean
    squares of the items and of the residuals of a table, and s^2 the variance of the raters' own weighted
    sums. Then

        variance = s^2 / R + sum over tables of weight^2 * max(0, MS_I - MS_E) / (R N),

    where the first part covers raters, their interaction with the source, and residuals, and the second part
    covers items. By chance the estimate can fall below that of the items or the residuals alone, the sums of
    weight^2 * MS / (R N), so the widest of the three intervals is used. With a single rater only the items'
    part is left, and the interval does not generalise to other raters.

    Raises ValueError for a table of fewer than two items.
    """
    if any(table.shape[1] < 2 for table in tables):
        raise ValueError("a mean over items needs at least two of them")
    raters = tables[0].shape[0]
    own = np.sum([w * table.mean(axis=1) for w, table in zip(weights, tables, strict=True)], axis=0)
    value = float(own.mean())
    of_items = [_item_part(table, w**2) for w, table in zip(weights, tables, strict=True)]
    models = [of_items]
    if raters > 1:
        of_residuals = [_residual_part(table, w**2) for w, table in zip(weights, tables, strict=True)]
        crossed = [_Part(float(own.var(ddof=1)) / raters, raters - 1)]
        for items, residuals in zip(of_items, of_residuals, strict=True):
            if items.variance > residuals.variance:
                crossed += [items, _Part(-residuals.variance, residuals.freedom)]
        models += [of_residuals, crossed]
    return max((_summed(value, model) for model in models), key=CrossedMean.half_width)


def gathered(table: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """An (R, N) table of items in G groups as an (R, G) table with the same mean of each row.

    Items of a group, such as pieces of one image, resemble each other; only groups are a sample. A group's
    entry is the row's mean plus G / N times the sum of its items' deviations from that (the linearised mean
    over clusters of unequal size), so that large groups weigh more.
    """
    names, places = np.unique(groups, return_inverse=True)
    mean = table.mean(axis=1, keepdims=True)
    sums = np.zeros((len(table), len(names)))
    np.add.at(sums.T, places, (table - mean).T)
    return mean + len(names) / table.shape[1] * sums


class _Part(NamedTuple):
    """A component of a variance and its degrees of freedom."""

    variance: float
    freedom: float


def _item_part(table: NDArray[np.generic], factor: float) -> _Part:
    """factor * MS_I / (R N) of an (R, N) table."""
    items = table.shape[1]
    return _Part(factor * float(table.mean(axis=0).var(ddof=1)) / items, items - 1)


def _residual_part(table: NDArray[np.generic], factor: float) -> _Part:
    """factor * MS_E / (R N) of an (R, N) table."""
    residuals = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return _Part(factor * float((residuals**2).sum()) / freedom / table.size, freedom)


def _summed(value: float, parts: Sequence[_Part]) -> CrossedMean:
    """A mean whose variance is the sum of ``parts``, with Satterthwaite's (1946) degrees of freedom.

    A negative part can reduce these below those of any other part, even below one, which makes the interval
    unbounded. As in Hillis (2007) they are at least the minimum over the positive parts.
    """
    variance = sum(part.variance for part in parts)
    if variance < _NO_SPREAD:
        return CrossedMean(value, 0.0, 1)
    squares = sum(part.variance**2 / part.freedom for part in parts)
    least = min(part.freedom for part in parts if part.variance > 0)
    return CrossedMean(value, math.sqrt(variance), max(variance**2 / squares, least))
