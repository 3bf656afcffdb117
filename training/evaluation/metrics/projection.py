"""Projecting the features of several sets of images to the plane by PCA and t-SNE."""

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

_MOST_IMAGES = 1000  # per set; more cannot be told apart in a figure, and t-SNE would be slow
_TSNE_COMPONENTS = 50
_PERPLEXITY = 30.0


@dataclass(frozen=True)
class Projection:
    """Points of real (R, 2) and synthetic (S, 2) images."""

    name: str
    real: NDArray[np.float64]
    synthetic: NDArray[np.float64]


def project(real: Features, synthetic: Features, seed: int) -> list[Projection]:
    """PCA and t-SNE (van der Maaten & Hinton 2008) of two sets of features (N, D), both sets together.

    At most 1000 random images of each set are used. Needs at least FEWEST_PROJECTED images in total.
    """
    return [Projection(name, *places) for name, places in _placed([real, synthetic], seed).items()]


def project_together(real: Features, methods: Mapping[str, Features], seed: int) -> list[Projection]:
    """One t-SNE of the real images and those of all ``methods``, as one projection per method.

    The real images have the same points in all of them.
    """
    shared, *places = _placed([real, *methods.values()], seed)["t-SNE"]
    return [Projection(name, shared, own) for name, own in zip(methods, places, strict=True)]


def _placed(sets: Sequence[Features], seed: int) -> dict[str, list[NDArray[np.float64]]]:
    """Points (N, 2) of (a sample of) each set in a common plane, by name of the projection."""
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
