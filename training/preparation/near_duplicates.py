"""Near-duplicates between image sets, found by a perceptual hash.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): the
signs of the low frequencies of a small grey copy, taken against their median. It has 256 bits instead of the
customary 64. Medical images of one device share their coarse structure, so that 64 bits cannot tell them
apart: on the 1000 frames of Kvasir-SEG, whose four real duplicates lie 2, 2, 2 and 20 of 256 bits apart, the
closest pair of different scenes lies 40 apart; with 64 bits strangers come as close as 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

NEAR = 32
"""Bits, of HASH_BITS: images no further apart count as near-duplicates.

Measured on Kvasir-SEG: JPEG quality 30, half the size, or a fifth more light move an image by up to 16 bits,
a shift by 1 % of the side by about 28, by 2 % by about 46.
"""

_FREQUENCIES = 16  # per axis, the mean brightness of rows and columns left out
HASH_BITS = _FREQUENCIES**2
_SIDE = 64
_ROWS = 1024  # of the distance matrix computed at once


@dataclass(frozen=True, order=True)
class Match:
    """Two images of different sets, as (set, index in it), and the number of bits in which they differ."""

    distance: int
    first: tuple[str, int]
    second: tuple[str, int]


@dataclass(frozen=True)
class NearDuplicates:
    """How many matches are near, by the two sets, and the closest matches, near or not, closest first.

    Sets without a near match are not in ``counts``.
    """

    counts: Mapping[tuple[str, str], int]
    closest: Sequence[Match]

    @property
    def count(self) -> int:
        """The near matches between all sets."""
        return sum(self.counts.values())


def perceptual_hash(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The pHash (HASH_BITS,) of ``image`` (H, W, 3): alike for images that look alike."""
    grey = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    spectrum = dctn(np.asarray(grey, np.float64))
    low = spectrum[1 : _FREQUENCIES + 1, 1 : _FREQUENCIES + 1]
    return (low > np.median(low)).ravel()


def hash_distances(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Hamming distances (N, M) between the hashes ``first`` (N, bits) and ``second`` (M, bits)."""
    bits = first.shape[1]
    # With -1 and 1 for the bits, the scalar product is agreements minus disagreements.
    signs = [np.where(hashes, np.float32(1), np.float32(-1)) for hashes in (first, second)]
    return np.rint((bits - signs[0] @ signs[1].T) / 2).astype(np.int64)


def near_duplicates(
    hashes: Mapping[str, NDArray[np.bool_]], near: int = NEAR, most: int = 1000
) -> NearDuplicates:
    """Compare every two images that lie in different sets: those at most ``near`` bits apart count.

    ``hashes`` holds (N, bits) by set, N > 0. The ``most`` closest matches are named.
    """
    counts: Counter[tuple[str, str]] = Counter()
    closest: list[Match] = []
    for a, b in combinations(hashes, 2):
        for start in range(0, len(hashes[a]), _ROWS):
            distances = hash_distances(hashes[a][start : start + _ROWS], hashes[b])
            counts[a, b] += int(np.count_nonzero(distances <= near))
            kept = np.argsort(distances, axis=None, kind="stable")[:most]
            for i, j in zip(*np.unravel_index(kept, distances.shape), strict=True):
                closest.append(Match(int(distances[i, j]), (a, start + int(i)), (b, int(j))))
    return NearDuplicates({both: n for both, n in counts.items() if n}, sorted(closest)[:most])
