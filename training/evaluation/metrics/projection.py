"""Features of two sets of images in the plane: PCA and t-SNE of both together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from siamese_core.seeds import stream_seed

from ...statistics.intervals import draws
from .distances import Features

FEWEST_PROJECTED = 4

_MOST_IMAGES = 1000  # of a set: more cannot be told apart in a picture, and t-SNE takes its time
_TSNE_COMPONENTS = 50
_PERPLEXITY = 30.0


@dataclass(frozen=True)
class Projection:
    """Places in the plane, (R, 2) of real and (S, 2) of synthetic images."""

    name: str
    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]


def project(real: Features, synthetic: Features, seed: int) -> list[Projection]:
    """PCA and t-SNE (van der Maaten & Hinton 2008) of both sets, at most 1000 drawn images of each.

    It takes FEWEST_PROJECTED images in all.
    """
    random = draws(seed, "projection")
    shown = [_drawn(features, random) for features in (real, synthetic)]
    both = np.concatenate(shown)
    state = stream_seed(seed, "projection-state") % 2**32
    components = min(_TSNE_COMPONENTS, *both.shape)
    reduced = PCA(components, random_state=state).fit_transform(both)
    perplexity = min(_PERPLEXITY, (len(both) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=state).fit_transform(reduced)
    split = len(shown[0])
    return [
        Projection(name, points[:split], points[split:].astype(np.float64))
        for name, points in (("PCA", reduced[:, :2]), ("t-SNE", places))
    ]


def _drawn(features: Features, random: np.random.Generator) -> NDArray[np.float64]:
    if len(features) > _MOST_IMAGES:
        features = features[np.sort(random.choice(len(features), _MOST_IMAGES, replace=False))]
    return features.astype(np.float64)
