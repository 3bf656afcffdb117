"""Distances between a real and a synthetic set of images, on their features (N, D).

FID, KID, precision and recall are torch-fidelity's; CMMD, for which there is no library, follows its
definition (Jayasumana et al. 2024). How each interval is made:

- KID and CMMD are sums of a kernel over pairs of images. A bootstrap sample assigns a count to each image;
  pairs of an image with its own copy are left out, since they would bias the value upwards.
- FID depends on the number of distinct images, so resampling with replacement raises it. Its interval is
  therefore the value +- 1.96 standard deviations of the resamples, which covers the choice of images but not
  the bias by their number. Compare FIDs at equal numbers of images only.
- Precision and recall are shares of images inside the manifold of the other set, which is kept fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import qr, svdvals
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric
from tqdm import tqdm

from siamese_core.errors import UserError

from ...statistics.intervals import (
    Estimate,
    Floats,
    Groups,
    bootstrap_counts,
    bounds,
    draws,
    mean,
    statistic_estimate,
)

Features = NDArray[np.floating]
Kernel = Callable[[Floats, Floats], Floats]

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
NEIGHBOURS = 3  # Kynkäänniemi et al. 2019
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0

_FID_RESAMPLES = 100  # each needs a matrix decomposition; enough for a standard deviation
_ROWS = 512  # rows of a kernel matrix held in memory at once


class TooFewImages(UserError):
    """There are too few images for a metric; the message says how many it needs."""


def fid(
    real: Features, synthetic: Features, *, resamples: int, seed: int, groups: Groups | None = None
) -> Estimate:
    """Frechet distance between Gaussians fitted to both sets (N, D) (Heusel et al. 2017), in float64.

    The bootstrap resamples ``groups`` of the synthetic images, if given. Raises TooFewImages below 2 images.
    """
    x, y = _checked("FID", 2, real, synthetic)
    statistics = [fid_features_to_statistics(torch.from_numpy(features)) for features in (x, y)]
    value = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    note = "biased by the number of images"
    random = draws(seed, "fid-bootstrap")
    count = min(resamples, _FID_RESAMPLES)
    counts = [bootstrap_counts(len(z), count, random, own) for z, own in ((x, None), (y, groups))]
    pairs = tqdm(zip(*counts, strict=True), desc="FID interval", total=count, leave=False)
    spread = 1.96 * float(np.std([_frechet(x, y, *pair) for pair in pairs], ddof=1))
    return Estimate(value, max(0.0, value - spread), value + spread, len(x), len(y), note)


def kid(real: Features, synthetic: Features, *, resamples: int, seed: int) -> Estimate:
    """Kernel distance (Binkowski et al. 2018): unbiased MMD^2, kernel (x.y / D + 1)^3, mean of 100 subsets.

    A subset has 1000 images of each set, or as many as the smaller set has. Values slightly below 0 mean that
    the sets are indistinguishable. Raises TooFewImages below 2 images.
    """
    x, y = _checked("KID", 2, real, synthetic)
    size = min(KID_SUBSET_SIZE, len(x), len(y))
    # If a subset contains all images of both sets, all subsets are equal.
    subsets = 1 if size == len(x) == len(y) else KID_SUBSETS
    result = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=subsets, kid_subset_size=size, verbose=False
    )
    note = "" if size == KID_SUBSET_SIZE else f"subsets of {size} images, as many as there are"
    kernel = partial(polynomial_kernel, degree=3, gamma=1 / x.shape[1], coef0=1)
    random = draws(seed, "kid-bootstrap")
    within_x, within_y, across = _kernel_means(
        x, y, bootstrap_counts(len(x), resamples, random), bootstrap_counts(len(y), resamples, random), kernel
    )
    low, high = bounds(within_x + within_y - 2 * across)
    return Estimate(result[KEY_METRIC_KID_MEAN], low, high, len(x), len(y), note)


def cmmd(real: Features, synthetic: Features, *, resamples: int, seed: int) -> Estimate:
    """1000 * biased MMD^2 of L2-normalised features with an RBF kernel of sigma 10 (Jayasumana et al. 2024).

    Raises TooFewImages below 2 images.
    """
    x, y = (_normalised(features) for features in _checked("CMMD", 2, real, synthetic))
    kernel = partial(rbf_kernel, gamma=1 / (2 * CMMD_SIGMA**2))
    random = draws(seed, "cmmd-bootstrap")
    counts_x, counts_y = (
        np.vstack([np.ones(len(features)), bootstrap_counts(len(features), resamples, random)])
        for features in (x, y)
    )
    within_x, within_y, across = _kernel_means(x, y, counts_x, counts_y, kernel)
    # The biased estimate includes the pairs of an image with itself, whose kernel is 1.
    within_x, within_y = (
        (1 + (n - 1) * within) / n for n, within in ((len(x), within_x), (len(y), within_y))
    )
    values = CMMD_SCALE * (within_x + within_y - 2 * across)
    return Estimate(float(values[0]), *bounds(values[1:]), len(x), len(y))


def precision_recall(
    real: Features, synthetic: Features, *, resamples: int, seed: int
) -> tuple[Estimate, Estimate]:
    """Shares of synthetic images inside the manifold of the real ones, and vice versa.

    An image is inside if it is no farther from some image of the other set than that image's third nearest
    neighbour in its own set (Kynkäänniemi et al. 2019). Raises TooFewImages below 4 images.
    """
    x, y = _checked("precision and recall", NEIGHBOURS + 1, real, synthetic)
    result = prc_features_to_metric(
        torch.from_numpy(y),
        torch.from_numpy(x),
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=_ROWS,
        save_cpu_ram=True,
        verbose=False,
    )

    def estimate(share: float, count: int, stream: str) -> Estimate:
        inside = (np.arange(count) < round(share * count)).astype(np.float64)
        sizes = len(x), len(y)
        return statistic_estimate(inside, mean, sizes=sizes, resamples=resamples, seed=seed, stream=stream)

    return (
        estimate(result[KEY_METRIC_PRECISION], len(y), "precision-bootstrap"),
        estimate(result[KEY_METRIC_RECALL], len(x), "recall-bootstrap"),
    )


def _checked(metric: str, least: int, *sets: Features) -> list[Floats]:
    """The feature ``sets`` in float64. Raises TooFewImages when one has fewer rows than ``least``."""
    fewest = min(len(features) for features in sets)
    if fewest < least:
        raise TooFewImages(f"{metric} takes at least {least} images in each set; there are {fewest}")
    return [np.ascontiguousarray(features, dtype=np.float64) for features in sets]


def _normalised(features: Floats) -> Floats:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _frechet(x: Floats, y: Floats, counts_x: Floats, counts_y: Floats) -> float:
    """The Frechet distance of a bootstrap sample, given by (N,) counts of the rows of ``x`` and ``y``.

    Let A be the centred rows / sqrt(N - 1), so that a covariance is A^T A. Then the trace of the square root
    of the product of two covariances is the sum of the singular values of A_x A_y^T. This needs no D x D
    matrix and works for rank-deficient covariances.
    """
    means, roots = [], []
    for features, counts in ((x, counts_x), (y, counts_y)):
        drawn = counts > 0
        rows, weights = features[drawn], counts[drawn, None]
        centre = (weights * rows).sum(axis=0) / weights.sum()
        root = np.sqrt(weights / (weights.sum() - 1)) * (rows - centre)
        if root.shape[0] > root.shape[1]:
            (root,) = qr(root, mode="r", overwrite_a=True, check_finite=False)
            root = root[: root.shape[1]]
        means.append(centre)
        roots.append(root)
    overlap = svdvals(roots[0] @ roots[1].T, check_finite=False).sum()
    return float(
        np.square(means[0] - means[1]).sum() + sum(np.square(root).sum() for root in roots) - 2 * overlap
    )


def _kernel_means(
    x: Floats, y: Floats, counts_x: Floats, counts_y: Floats, kernel: Kernel
) -> tuple[Floats, Floats, Floats]:
    """Mean kernel within x, within y and between them, for each row of counts (B, N) and (B, M): three (B,).

    Within a set, pairs of an image with itself or its copies are left out.
    """
    across = _kernel_sums(x, y, counts_x, counts_y, kernel) / (counts_x.sum(1) * counts_y.sum(1))
    within = []
    for features, counts in ((x, counts_x), (y, counts_y)):
        total = _kernel_sums(features, features, counts, counts, kernel, within=True)
        pairs = counts.sum(1) ** 2 - np.square(counts).sum(1)
        # A resample of very few images may consist of copies of one image, which make no pair.
        within.append(np.divide(total, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    return within[0], within[1], across


def _kernel_sums(
    x: Floats, y: Floats, counts_x: Floats, counts_y: Floats, kernel: Kernel, *, within: bool = False
) -> Floats:
    """Sum over i, j of counts_x[b, i] counts_y[b, j] kernel(x_i, y_j): (B,), in blocks of rows.

    With ``within`` (x and y are one set) the terms i = j are left out.
    """
    sums = np.zeros(len(counts_x))
    for start in range(0, len(x), _ROWS):
        block = kernel(x[start : start + _ROWS], y)
        rows = np.arange(start, start + len(block))
        if within:
            block[rows - start, rows] = 0
        sums += np.einsum("bi,bi->b", counts_x[:, rows], counts_y @ block.T)
    return sums
