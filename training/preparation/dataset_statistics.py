"""Statistics of a dataset: image sizes, mask coverage and numbers of lesions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from siamese_core.masks.resizing import Size

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 10

_TOUCHING = np.ones((3, 3), bool)  # 8-connectivity


@dataclass(frozen=True)
class PairFacts:
    """A pair's (height, width), the share of foreground in its mask (0..1), and its number of lesions."""

    size: Size
    share: float
    lesions: int


@dataclass(frozen=True)
class SetFacts:
    """Statistics of a dataset, in JSON types.

    ``sizes``: number of pairs by "width x height", most frequent first. ``smallest``, ``largest``: [width,
    height], each side by itself. ``mask_share``: mean, quantiles, and a histogram of BINS equal bins over
    0..1. ``lesions``: number of pairs by number of lesions.
    """

    pairs: int
    sizes: Mapping[str, int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    mask_share_mean: float
    mask_share_quantiles: Mapping[str, float]
    mask_share_histogram: Sequence[int]
    empty_masks: int
    lesions: Mapping[str, int]


def pair_facts(mask: NDArray[np.bool_]) -> PairFacts:
    """The facts of a pair with this mask (H, W). Lesions are 8-connected components of any size."""
    height, width = mask.shape
    return PairFacts((height, width), float(mask.mean()), int(label(mask, _TOUCHING)[1]))


def set_facts(facts: Sequence[PairFacts]) -> SetFacts:
    """The statistics of a dataset from the facts of its pairs, of which there must be at least one."""
    shares = np.array([fact.share for fact in facts])
    heights, widths = zip(*(fact.size for fact in facts), strict=True)
    sizes = Counter(f"{fact.size[1]} x {fact.size[0]}" for fact in facts)
    lesions = Counter(fact.lesions for fact in facts)
    quantiles = np.quantile(shares, QUANTILES)
    return SetFacts(
        pairs=len(facts),
        sizes=dict(sizes.most_common()),
        smallest=(min(widths), min(heights)),
        largest=(max(widths), max(heights)),
        mask_share_mean=round(float(shares.mean()), 6),
        mask_share_quantiles={
            f"{q:g}": round(float(x), 6) for q, x in zip(QUANTILES, quantiles, strict=True)
        },
        mask_share_histogram=np.histogram(shares, BINS, range=(0, 1))[0].tolist(),
        empty_masks=int(np.count_nonzero(shares == 0)),
        lesions={str(count): lesions[count] for count in sorted(lesions)},
    )


def facts_table(sets: Mapping[str, SetFacts]) -> str:
    """The sets as text for a terminal: a line for each, then a histogram line for each."""
    rows = [["set", "pairs", "empty", "mean share", "5th pct", "median", "95th pct", "lesions", "image size"]]
    bins = [f"{100 * k // BINS}-{100 * (k + 1) // BINS} %" for k in range(BINS)]
    histograms = [["mask share", *bins]]
    for name, facts in sets.items():
        shares = [facts.mask_share_mean, *(facts.mask_share_quantiles[q] for q in ("0.05", "0.5", "0.95"))]
        percent = [f"{100 * share:.1f} %" for share in shares]
        rows.append([name, str(facts.pairs), str(facts.empty_masks), *percent, _span(facts), _size(facts)])
        histograms.append([name, *map(str, facts.mask_share_histogram)])
    return f"{_aligned(rows)}\n\n{_aligned(histograms)}"


def _span(facts: SetFacts) -> str:
    counts = [int(count) for count in facts.lesions]
    return str(counts[0]) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _size(facts: SetFacts) -> str:
    if len(facts.sizes) == 1:
        return next(iter(facts.sizes))
    (left, top), (right, bottom) = facts.smallest, facts.largest
    return f"{len(facts.sizes)} sizes, {left} to {right} x {top} to {bottom}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """``rows`` as aligned lines: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [
            first.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells))
    return "\n".join(lines)
