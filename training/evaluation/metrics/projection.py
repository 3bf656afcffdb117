"""Features of two sets of images in the plane: PCA and t-SNE of both together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return [Projection(name, *places) for name, places in _placed([real, synthetic], seed).items()]


def project_together(real: Features, methods: Mapping[str, Features], seed: int) -> list[Projection]:
    """One t-SNE of the real images and those of all ``methods``, as a projection for each of these.

    The real images have the same places in all of them, so that they can be laid side by side.
    """
    shared, *places = _placed([real, *methods.values()], seed)["t-SNE"]
    return [Projection(name, shared, own) for name, own in zip(methods, places, strict=True)]


def _placed(sets: Sequence[Features], seed: int) -> dict[str, list[NDArray[np.float64]]]:
    """The places of some of the images of each of the ``sets``, all together, by the name of the map."""
    random = draws(seed, "projection")
    shown = [_drawn(features, random) for features in sets]
    together = np.concatenate(shown)
    state = stream_seed(seed, "projection-state") % 2**32
    components = min(_TSNE_COMPONENTS, *together.shape)
    reduced = PCA(components, random_state=state).fit_transform(together)
    perplexity = min(_PERPLEXITY, (len(together) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=state).fit_transform(reduced)
    ends = np.cumsum([len(part) for part in shown])[:-1]
    return {
        name: [part.astype(np.float64) for part in np.split(points, ends)]
        for name, points in (("PCA", reduced[:, :2]), ("t-SNE", places))
    }


def _drawn(features: Features, random: np.random.Generator) -> NDArray[np.float64]:
    if len(features) > _MOST_IMAGES:
        features = features[np.sort(random.choice(len(features), _MOST_IMAGES, replace=False))]
    return features.astype(np.float64)
