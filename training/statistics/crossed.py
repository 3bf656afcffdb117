"""Means over two crossed samples, such as raters and images, or training runs and images.

Every rater rates every image, and every trained network is scored on every image: both are samples, and an
interval has to hold for others of both. What raters stand for here, runs may be. Three raters are too few to
bootstrap (their resamples never leave the range of three means), so the variance is estimated from the
two-way analysis of variance and the interval is Student's with Satterthwaite's degrees of freedom, as in
multi-reader multi-case studies (Dorfman, Berbaum and Metz 1992; Hillis 2007). In simulated studies of three
raters and 25 images these intervals hold the truth in 92 to 99 of 100, of two raters in about 90.
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

_NO_SPREAD = 1e-12  # variances below it are rounding


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; ``low`` and ``high`` are None where the data show no spread at all."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CrossedMean:
    """A mean over crossed raters and items with its standard error and the error's degrees of freedom."""

    value: float
    error: float
    freedom: float

    def estimate(self, lowest: float = -math.inf, highest: float = math.inf) -> Estimate:
        """The 95 % interval, cut to the range in which the value can lie."""
        if not self.error:
            return Estimate(self.value, None, None)
        half = self.half_width()
        return Estimate(self.value, max(self.value - half, lowest), min(self.value + half, highest))

    def half_width(self) -> float:
        """Half the length of the 95 % interval."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.freedom)) * self.error

    def p_value(self) -> float | None:
        """Two-sided, of the mean being 0; None without spread."""
        if not self.error:
            return None
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))


def crossed_mean(tables: Sequence[NDArray[np.generic]], weights: Sequence[float]) -> CrossedMean:
    """The weighted sum of the means of ``tables``, each (R, N) with the same R raters and items of its own.

    One table with weight 1 is a mean, two with 1 and -1 a difference. With MS_I and MS_E the mean squares of
    the items and of the residuals of a table, and s^2 the variance of the raters' own weighted sums,

        variance = s^2 / R + sum over tables of weight^2 * max(0, MS_I - MS_E) / (R N),

    whose first part holds raters, their interaction with the source, and residuals, and whose second part
    holds the items. By chance the estimate can fall below what the items or the residuals alone make, the
    sums of weight^2 * MS / (R N): of the three intervals the widest counts. One rater alone gives the items'
    part, and the interval says nothing of other raters.

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


class _Part(NamedTuple):
    """A part of a variance and its degrees of freedom."""

    variance: float
    freedom: float


def _item_part(table: NDArray[np.generic], factor: float) -> _Part:
    """factor * MS_I / (R N) of a (R, N) table."""
    items = table.shape[1]
    return _Part(factor * float(table.mean(axis=0).var(ddof=1)) / items, items - 1)


def _residual_part(table: NDArray[np.generic], factor: float) -> _Part:
    """factor * MS_E / (R N) of a (R, N) table."""
    residuals = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return _Part(factor * float((residuals**2).sum()) / freedom / table.size, freedom)


def _summed(value: float, parts: Sequence[_Part]) -> CrossedMean:
    """A mean whose variance is the sum of ``parts``, with the degrees of freedom of Satterthwaite (1946).

    A part that is taken away can leave less of them than any other part has, even less than one, and an
    interval without end; as Hillis's (2007) they are never fewer than the least of the parts that are added.
    """
    variance = sum(part.variance for part in parts)
    if variance < _NO_SPREAD:
        return CrossedMean(value, 0.0, 1)
    squares = sum(part.variance**2 / part.freedom for part in parts)
    least = min(part.freedom for part in parts if part.variance > 0)
    return CrossedMean(value, math.sqrt(variance), max(variance**2 / squares, least))
