"""Memorisation: distances from synthetic to the nearest real images, against those among real images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from ...statistics.intervals import Estimate, Floats, Groups, mean, median, statistic_estimate
from .distances import Features, TooFewImages

EXPECTED_SHARE = 0.05
"""Expected share of close images if synthetic images are no nearer to real ones than these to each other."""

_REALISM_NEIGHBOURS = 3
_SAME = 1e-4  # as a share of the real images' root mean square distance from their centre


@dataclass(frozen=True)
class Neighbours:
    """Euclidean distances in one feature space.

    ``nearest`` (S,): from each synthetic image to its nearest real one, whose number is ``index`` (S,).
    ``realism`` (S,): mean distance to the 3 nearest real images; smaller is more realistic.
    ``reference`` (R,): from each real image to the nearest other real one.
    ``same``: distance up to which two images count as identical, allowing for rounding of their features.
    """

    nearest: Floats
    index: NDArray[np.intp]
    realism: Floats
    reference: Floats
    same: float


class RealNeighbours:
    """Finds the nearest real images; distances among the real images are computed once."""

    def __init__(self, real: Features) -> None:
        """``real`` are features (R, D). Raises TooFewImages for R < 2."""
        if len(real) < 2:
            raise TooFewImages(
                "memorisation takes at least 2 real images: their distances are what it refers to"
            )
        # Centred and in float64, or the distance between an image and its copy would not come out as 0.
        self._centre = real.mean(axis=0, dtype=np.float64)
        centred = real.astype(np.float64) - self._centre
        self._wanted = min(_REALISM_NEIGHBOURS, len(real))
        self._search = NearestNeighbors(algorithm="brute").fit(centred)
        self._reference = self._search.kneighbors(n_neighbors=1)[0][:, 0]  # excludes the image itself
        self._same = _SAME * float(np.sqrt(np.square(centred).sum(axis=1).mean()))

    def of(self, synthetic: Features) -> Neighbours:
        """The neighbours of the synthetic features (S, D)."""
        distances, indices = self._search.kneighbors(
            synthetic.astype(np.float64) - self._centre, self._wanted
        )
        return Neighbours(distances[:, 0], indices[:, 0], distances.mean(axis=1), self._reference, self._same)


def find_neighbours(real: Features, synthetic: Features) -> Neighbours:
    """Like ``RealNeighbours(real).of(synthetic)``, for real (R, D) and synthetic (S, D) features."""
    return RealNeighbours(real).of(synthetic)


def close_share(
    neighbours: Neighbours, *, resamples: int, seed: int, stream: str, groups: Groups | None = None
) -> Estimate:
    """Share of synthetic images nearer to a real one than 95 % of the real ones are to each other.

    New images of the same kind would give 0.05; a much larger share is memorisation. Real images that occur
    more than once are left out of the reference and counted in a note. A synthetic image identical to a real
    one always counts as close.
    """
    twice = neighbours.reference <= neighbours.same
    apart = neighbours.reference[~twice]
    threshold = np.quantile(apart, EXPECTED_SHARE) if apart.size else 0.0
    close = ((neighbours.nearest < threshold) | (neighbours.nearest <= neighbours.same)).astype(np.float64)
    sizes = len(neighbours.reference), len(close)
    note = f"{np.count_nonzero(twice)} real images occur more than once" if twice.any() else ""
    how = {"resamples": resamples, "seed": seed}
    return statistic_estimate(close, mean, sizes=sizes, **how, stream=stream, note=note, groups=groups)


def distance_ratio(
    neighbours: Neighbours, *, resamples: int, seed: int, stream: str, groups: Groups | None = None
) -> Estimate:
    """Median nearest distance of synthetic images over that among real ones: 1 is good, near 0 means copies.

    The bootstrap resamples the synthetic images or their ``groups``. Raises TooFewImages when most real
    images are copies of each other.
    """
    reference = float(np.median(neighbours.reference))
    if reference <= neighbours.same:
        raise TooFewImages("most real images occur twice, so that their distances are no reference")
    sizes = len(neighbours.reference), len(neighbours.nearest)
    return statistic_estimate(
        neighbours.nearest / reference,
        median,
        sizes=sizes,
        resamples=resamples,
        seed=seed,
        stream=stream,
        groups=groups,
    )
