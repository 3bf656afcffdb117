"""Near-duplicates between image sets, found by a perceptual hash.

The hash is pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): one
bit per low frequency of a small grey copy, set if it exceeds their median. It has 256 bits instead of the
usual 64, because medical images of one device share their coarse structure. On the 1000 frames of Kvasir-SEG
the four real duplicates differ in 2, 2, 2 and 20 of 256 bits, and the closest different scenes in 40; with 64
bits, different scenes differ in as few as 4.
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
"""Number of differing bits, of HASH_BITS, up to which images count as near-duplicates.

Measured on Kvasir-SEG: JPEG quality 30, half the size, or a fifth more brightness changes up to 16 bits, a
shift by 1 % of the side about 28, a shift by 2 % about 46.
"""

_FREQUENCIES = 16  # per axis, without the zero frequency
HASH_BITS = _FREQUENCIES**2
_SIDE = 64
_ROWS = 1024  # rows of the distance matrix computed at once


@dataclass(frozen=True, order=True)
class Match:
    """Two images of different sets, as (set, index in set), and the number of bits in which they differ."""

    distance: int
    first: tuple[str, int]
    second: tuple[str, int]


@dataclass(frozen=True)
class NearDuplicates:
    """Numbers of near matches by pair of sets, and the closest matches, near or not, closest first.

    Pairs of sets without a near match are not in ``counts``.
    """

    counts: Mapping[tuple[str, str], int]
    closest: Sequence[Match]

    @property
    def count(self) -> int:
        """The number of near matches between all sets."""
        return sum(self.counts.values())


def perceptual_hash(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The pHash, (HASH_BITS,) bool, of ``image`` (H, W, 3) uint8; similar for similar images."""
    grey = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    spectrum = dctn(np.asarray(grey, np.float64))
    low = spectrum[1 : _FREQUENCIES + 1, 1 : _FREQUENCIES + 1]
    return (low > np.median(low)).ravel()


def hash_distances(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Hamming distances (N, M) between the hashes ``first`` (N, bits) and ``second`` (M, bits)."""
    bits = first.shape[1]
    # With bits as -1 and 1, the scalar product is the number of equal minus that of differing bits.
    signs = [np.where(hashes, np.float32(1), np.float32(-1)) for hashes in (first, second)]
    return np.rint((bits - signs[0] @ signs[1].T) / 2).astype(np.int64)


def near_duplicates(
    hashes: Mapping[str, NDArray[np.bool_]], near: int = NEAR, most: int = 1000
) -> NearDuplicates:
    """Compare all pairs of images from different sets; those that differ in at most ``near`` bits are near.

    ``hashes`` are (N, bits) bool by set, N > 0. The ``most`` closest matches are listed.
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
