"""Does a synthetic set repeat its training images? Nearest neighbours, against those among real images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from .distances import Features, TooFewImages
from .intervals import Estimate, Floats, mean, median, statistic_estimate

EXPECTED_SHARE = 0.05
"""Share of close images among images that are no nearer to the training images than those to each other."""

_REALISM_NEIGHBOURS = 3


@dataclass(frozen=True)
class Neighbours:
    """Euclidean distances in one space of features.

    nearest: (S,) from each synthetic image to its nearest real one. index: (S,) which one that is.
    realism: (S,) mean distance to the 3 nearest real ones, the smaller the more lifelike.
    reference: (R,) from each real image to its nearest other real one.
    """

    nearest: Floats
    index: NDArray[np.intp]
    realism: Floats
    reference: Floats


def find_neighbours(real: Features, synthetic: Features) -> Neighbours:
    """The nearest real images of synthetic (S, D) and of real (R, D) ones.

    Raises TooFewImages below 2 real images.
    """
    if len(real) < 2:
        raise TooFewImages("memorisation takes at least 2 real images: their distances are what it refers to")
    # In single precision the distance of an image to its copy would not be 0.
    real, synthetic = (features.astype(np.float64) for features in (real, synthetic))
    search = NearestNeighbors(algorithm="brute").fit(real)
    distances, indices = search.kneighbors(synthetic, min(_REALISM_NEIGHBOURS, len(real)))
    reference, _ = search.kneighbors(n_neighbors=1)  # of the fitted images, themselves left out
    return Neighbours(distances[:, 0], indices[:, 0], distances.mean(axis=1), reference[:, 0])


def close_share(neighbours: Neighbours, *, resamples: int, seed: int, stream: str) -> Estimate:
    """Share of synthetic images nearer to a real one than 95 % of the real ones are to each other.

    0.05 is what further images of the same kind would give; far more of it is memorisation.
    """
    threshold = np.quantile(neighbours.reference, EXPECTED_SHARE)
    close = (neighbours.nearest < threshold).astype(np.float64)
    sizes = len(neighbours.reference), len(close)
    return statistic_estimate(close, mean, sizes=sizes, resamples=resamples, seed=seed, stream=stream)


def distance_ratio(neighbours: Neighbours, *, resamples: int, seed: int, stream: str) -> Estimate:
    """Median nearest distance of synthetic images over that among real ones: 1 is alike, near 0 is copies.

    The interval is over the synthetic images. Raises TooFewImages when the real images are copies themselves.
    """
    reference = float(np.median(neighbours.reference))
    if reference == 0:
        raise TooFewImages("most real images occur twice, so that their distances are no reference")
    sizes = len(neighbours.reference), len(neighbours.nearest)
    return statistic_estimate(
        neighbours.nearest / reference, median, sizes=sizes, resamples=resamples, seed=seed, stream=stream
    )
