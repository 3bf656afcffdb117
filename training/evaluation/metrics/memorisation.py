"""Does a synthetic set repeat its training images? Nearest neighbours, against those among real images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from ...statistics.intervals import Estimate, Floats, Groups, mean, median, statistic_estimate
from .distances import Features, TooFewImages

EXPECTED_SHARE = 0.05
"""Share of close images among images that are no nearer to the training images than those to each other."""

_REALISM_NEIGHBOURS = 3
_SAME = 1e-4  # of the real images' root mean square distance from their centre


@dataclass(frozen=True)
class Neighbours:
    """Euclidean distances in one space of features.

    nearest: (S,) from each synthetic image to its nearest real one. index: (S,) which one that is.
    realism: (S,) mean distance to the 3 nearest real ones, the smaller the more lifelike.
    reference: (R,) from each real image to its nearest other real one.
    same: distance up to which two images are one and the same, but for the rounding of their features.
    """

    nearest: Floats
    index: NDArray[np.intp]
    realism: Floats
    reference: Floats
    same: float


class RealNeighbours:
    """Finds the real images next to others; what concerns the real ones alone is computed once."""

    def __init__(self, real: Features) -> None:
        """``real``: (R, D). Raises TooFewImages below 2 of them."""
        if len(real) < 2:
            raise TooFewImages(
                "memorisation takes at least 2 real images: their distances are what it refers to"
            )
        # In single precision, or far from the origin, the distance of an image to its copy would not be 0.
        self._centre = real.mean(axis=0, dtype=np.float64)
        centred = real.astype(np.float64) - self._centre
        self._wanted = min(_REALISM_NEIGHBOURS, len(real))
        self._search = NearestNeighbors(algorithm="brute").fit(centred)
        self._reference = self._search.kneighbors(n_neighbors=1)[0][:, 0]  # themselves left out
        self._same = _SAME * float(np.sqrt(np.square(centred).sum(axis=1).mean()))

    def of(self, synthetic: Features) -> Neighbours:
        """Those of the synthetic images (S, D)."""
        distances, indices = self._search.kneighbors(
            synthetic.astype(np.float64) - self._centre, self._wanted
        )
        return Neighbours(distances[:, 0], indices[:, 0], distances.mean(axis=1), self._reference, self._same)


def find_neighbours(real: Features, synthetic: Features) -> Neighbours:
    """The nearest real images of synthetic (S, D) and of real (R, D) ones; raises TooFewImages likewise."""
    return RealNeighbours(real).of(synthetic)


def close_share(
    neighbours: Neighbours, *, resamples: int, seed: int, stream: str, groups: Groups | None = None
) -> Estimate:
    """Share of synthetic images nearer to a real one than 95 % of the real ones are to each other.

    0.05 is what further images of the same kind would give; far more of it is memorisation. Real images that
    occur twice are no measure of how near others may come: they are left out of the 95 %, and a note counts
    them. An image that is a real one is close, whatever the others are.
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
    """Median nearest distance of synthetic images over that among real ones: 1 is alike, near 0 is copies.

    The interval is over the synthetic images, or their ``groups``. Raises TooFewImages when the real images
    are copies themselves.
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
