"""Distances between sets of features against their reference implementations and definitions."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torchmetrics.image.kid import poly_mmd

from training.evaluation.metrics import distances
from training.evaluation.metrics.adherence import adherence_ratio
from training.evaluation.metrics.all_metrics import Results, measure_distances, same_mask
from training.evaluation.metrics.distances import TooFewImages, cmmd, fid, kid, precision_recall
from training.evaluation.metrics.memorisation import distance_ratio, find_neighbours
from training.evaluation.metrics.paired import cosines, sample_pairs
from training.statistics.intervals import Estimate, mean, median, statistic_estimate

Features = NDArray[np.float32]
FEW = {"resamples": 100, "seed": 0}


def features(count: int, dimensions: int = 24, *, shift: float = 0.0, seed: int = 0) -> Features:
    """Correlated normal features in single precision, as an extractor gives them."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dimensions, dimensions)) / dimensions**0.5
    return (rng.normal(size=(count, dimensions)) @ mixing + shift).astype(np.float32)


def reference_fid(x: Features, y: Features) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    covariances = [np.cov(part, rowvar=False) for part in (x, y)]
    root = sqrtm(covariances[0] @ covariances[1])
    shift = np.square(x.mean(0) - y.mean(0)).sum()
    return float(shift + np.trace(covariances[0] + covariances[1] - 2 * root.real))


def reference_cmmd(x: Features, y: Features) -> float:
    """1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)) over all pairs, k = exp(-|a - b|^2 / 200)."""
    x, y = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x.astype(float), y.astype(float)))

    def mean_kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(np.mean([[np.exp(-np.square(p - q).sum() / 200) for q in b] for p in a]))

    return 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


@pytest.mark.parametrize(("real", "synthetic"), [(200, 150), (30, 20)], ids=["many", "fewer than dimensions"])
def test_fid_equals_its_formula_with_a_matrix_root(real: int, synthetic: int) -> None:
    x, y = features(real), features(synthetic, shift=0.3, seed=1)
    assert fid(x, y, **FEW).value == pytest.approx(reference_fid(x, y), rel=1e-4)


@pytest.mark.parametrize("count", [60, 10], ids=["more rows than columns", "fewer"])
def test_the_frechet_distance_of_a_resample_equals_that_of_the_images_drawn(count: int) -> None:
    x, y = (features(count, seed=seed, shift=seed / 5).astype(np.float64) for seed in (0, 1))
    rng = np.random.default_rng(3)
    drawn = [rng.integers(0, count, count) for _ in range(2)]
    counts = [np.bincount(one, minlength=count).astype(np.float64) for one in drawn]
    expected = reference_fid(x[drawn[0]], y[drawn[1]])
    assert distances._frechet(x, y, *counts) == pytest.approx(expected, rel=1e-4)


def test_kid_equals_torchmetrics_on_all_images_and_torch_fidelity_on_subsets() -> None:
    x, y = features(80), features(80, shift=0.5, seed=1)
    whole = poly_mmd(torch.from_numpy(x).double(), torch.from_numpy(y).double())
    assert kid(x, y, **FEW).value == pytest.approx(float(whole), rel=1e-4)

    fewer = y[:50]
    subsets = {"kid_subsets": 100, "kid_subset_size": 50, "verbose": False}
    expected = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(fewer), **subsets)
    assert kid(x, fewer, **FEW).value == pytest.approx(expected[KEY_METRIC_KID_MEAN], rel=1e-4)


def test_kid_of_larger_sets_takes_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "KID_SUBSET_SIZE", 30)  # 1000 in use
    x, y = features(50), features(40, shift=0.5, seed=1)
    subsets = {"kid_subsets": 100, "kid_subset_size": 30, "verbose": False}
    expected = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **subsets)
    estimate = kid(x, y, **FEW)
    assert estimate.value == pytest.approx(expected[KEY_METRIC_KID_MEAN], rel=1e-4)
    assert not estimate.note


def test_kid_of_few_images_takes_subsets_of_all_of_them_and_says_so() -> None:
    assert kid(features(40), features(30), **FEW).note == "subsets of 30 images, as many as there are"


@pytest.mark.parametrize(("real", "synthetic"), [(40, 40), (35, 20)])
def test_cmmd_equals_its_definition(real: int, synthetic: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "_ROWS", 16)  # several blocks, the last one short
    x, y = features(real), features(synthetic, shift=0.5, seed=1)
    assert cmmd(x, y, **FEW).value == pytest.approx(reference_cmmd(x, y), rel=1e-4)


def test_a_set_against_itself_gives_0_or_the_known_bias() -> None:
    x = features(120)
    assert fid(x, x, **FEW).value == pytest.approx(0, abs=1e-4)
    assert cmmd(x, x, **FEW).value == pytest.approx(0, abs=1e-9)
    assert [share.value for share in precision_recall(x, x, **FEW)] == [1, 1]
    # Unbiased MMD^2 leaves an image's pair with itself out within the sets, but meets it across them.
    gram = (x.astype(float) @ x.T / x.shape[1] + 1) ** 3
    apart = (gram.sum() - np.trace(gram)) / (120 * 119)
    assert kid(x, x, **FEW).value == pytest.approx(2 * (apart - gram.mean()), rel=1e-4)


def test_precision_and_recall_count_images_near_the_other_set() -> None:
    """Two clusters far apart: the synthetic set covers one of them, and half of it is somewhere else."""
    near, far, elsewhere = (
        features(40, 2, shift=shift, seed=seed) for seed, shift in enumerate((0, 100, 500))
    )
    precision, recall = precision_recall(np.vstack([near, far]), np.vstack([near, elsewhere]), **FEW)
    assert (precision.value, recall.value) == (0.5, 0.5)
    assert (precision.real, precision.synthetic) == (80, 80)
    assert precision.low is not None and precision.high is not None
    assert 0.3 < precision.low < 0.5 < precision.high < 0.7


@pytest.mark.parametrize("metric", [fid, kid, cmmd])
def test_intervals_hold_the_value_and_narrow_with_more_images(metric: object) -> None:
    def estimate(count: int) -> Estimate:
        return metric(features(count, 8), features(count, 8, shift=0.8, seed=1), resamples=300, seed=0)  # type: ignore[operator]

    few, many = estimate(40), estimate(640)
    for one in (few, many):
        assert one.low is not None and one.high is not None and one.low < one.value < one.high
    assert 2 < (few.high - few.low) / (many.high - many.low) < 8  # type: ignore[operator]


def test_intervals_of_kid_cover_the_truth_about_as_often_as_they_claim() -> None:
    """Both sets are of one kind, whose distance is 0: the hardest case, where the usual bootstrap is off."""
    covered = 0
    for trial in range(100):
        estimate = kid(
            features(60, 8, seed=2 * trial), features(60, 8, seed=2 * trial + 1), resamples=200, seed=trial
        )
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= 0 <= estimate.high
    assert covered >= 88


def test_equal_seeds_give_equal_intervals() -> None:
    x, y = features(40), features(50, seed=1)
    for metric in (fid, kid, cmmd):
        assert metric(x, y, **FEW) == metric(x, y, **FEW)
        assert metric(x, y, **FEW) != metric(x, y, resamples=100, seed=1)


@pytest.mark.parametrize(("metric", "least"), [(fid, 2), (kid, 2), (cmmd, 2), (precision_recall, 4)])
def test_too_few_images_are_refused_with_the_number_it_takes(metric: object, least: int) -> None:
    with pytest.raises(
        TooFewImages, match=f"takes at least {least} images in each set; there are {least - 1}"
    ):
        metric(features(9), features(least - 1), **FEW)  # type: ignore[operator]
    metric(features(9), features(least), **FEW)  # type: ignore[operator]


def test_a_mean_has_the_interval_of_the_normal_approximation_when_there_are_many() -> None:
    values = np.random.default_rng(0).normal(5, 2, 2000)
    estimate = statistic_estimate(values, mean, sizes=(1, 2), resamples=2000, seed=0, stream="test")
    half = 1.96 * 2 / 2000**0.5
    assert estimate.value == values.mean()
    assert estimate.low == pytest.approx(values.mean() - half, abs=half / 5)
    assert estimate.high == pytest.approx(values.mean() + half, abs=half / 5)


def test_a_single_value_has_no_interval() -> None:
    estimate = statistic_estimate(np.array([3.0]), median, sizes=(1, 1), resamples=100, seed=0, stream="test")
    assert estimate == Estimate(3.0, None, None, 1, 1)


def test_cosines_are_those_of_corresponding_rows() -> None:
    x = np.array([[1, 0], [1, 1], [2, 0], [0, 0]], np.float32)
    y = np.array([[3, 0], [1, 0], [-1, 0], [1, 0]], np.float32)
    np.testing.assert_allclose(cosines(x, y), [1, 0.5**0.5, -1, 0], atol=1e-7)


def test_a_mask_with_many_samples_gives_ten_of_their_pairs() -> None:
    few, many = sample_pairs([[3, 5, 8], list(range(20))], seed=0)
    assert few == [(3, 5), (3, 8), (5, 8)]
    assert len(set(many)) == 10 and set(many) < set(combinations(range(20), 2))


def test_intervals_over_masks_cover_the_truth_where_those_over_their_images_do_not() -> None:
    """Simulated sets of 50 masks with four images each, which share half of what makes them differ."""
    rng = np.random.default_rng(4)
    masks = np.repeat(np.arange(50), 4)
    covered = []
    for trial in range(200):
        values = rng.normal(0, 1, 50)[masks] + rng.normal(0, 1, 200)
        how = {"sizes": (0, 200), "resamples": 200, "seed": trial, "stream": "test"}
        images, grouped = (statistic_estimate(values, mean, **how, groups=own) for own in (None, masks))
        assert images.value == grouped.value
        covered.append(
            [e.low is not None and e.high is not None and e.low <= 0 <= e.high for e in (images, grouped)]
        )
    of_images, of_masks = np.mean(covered, axis=0)
    assert of_images < 0.85 < 0.9 < of_masks


def test_images_of_one_mask_alone_have_no_interval() -> None:
    estimate = statistic_estimate(
        np.array([1.0, 2, 3]),
        mean,
        sizes=(0, 3),
        resamples=100,
        seed=0,
        stream="test",
        groups=np.array([7, 7, 7]),
    )
    assert (estimate.value, estimate.low, estimate.high) == (2.0, None, None)


def test_images_that_share_a_mask_widen_the_intervals_of_all_that_is_said_of_them() -> None:
    """Four copies of 40 images are 40 images: FID, close share, distance ratio and adherence ratio say so."""
    real, once = features(60), features(40, shift=0.3, seed=1)
    four, masks = np.repeat(once, 4, axis=0), np.repeat(np.arange(40), 4)
    neighbours = find_neighbours(real, four)
    dice = np.repeat(np.random.default_rng(0).uniform(0.5, 1, 40), 4)
    how = {"resamples": 400, "seed": 0}
    for estimate in (
        partial(fid, real, four, **how),
        partial(distance_ratio, neighbours, **how, stream="test"),
        partial(adherence_ratio, dice, np.linspace(0.8, 0.9, 300), **how),
    ):
        alone, grouped = estimate(), estimate(groups=masks)
        assert alone is not None and grouped is not None
        assert alone.value == grouped.value
        assert alone.low is not None and alone.high is not None
        assert grouped.low is not None and grouped.high is not None
        assert 1.2 < (grouped.high - grouped.low) / (alone.high - alone.low) < 3


def test_images_of_one_mask_have_one_number_and_the_others_their_own() -> None:
    groups = same_mask([[0, 1]], 5)
    assert groups is not None and groups.tolist() == [0, 0, 2, 3, 4]
    assert same_mask([], 5) is None


def test_intervals_that_take_images_of_one_mask_for_independent_say_so() -> None:
    results = Results(100, 0)
    measure_distances(results, "x", features(20), features(8, seed=1), np.repeat(np.arange(4), 2))
    noted = {name for name, found in results.metrics.items() if "too narrow" in found.note}
    assert noted == {"kid[x]", "cmmd[x]", "precision[x]", "recall[x]"}


def test_an_adherence_ratio_without_finite_bounds_has_none_and_says_why() -> None:
    """In a third of the resamples of these held-out images nothing is found."""
    found = adherence_ratio(np.array([0.5, 0.6, 0.4, 0.5]), np.array([0, 0, 0, 0.5]), resamples=1000, seed=0)
    assert found is not None
    assert (found.value, found.low, found.high) == (pytest.approx(4), None, None)
    assert "no interval" in found.note
    assert json.loads(json.dumps(asdict(found), allow_nan=False)) == asdict(found)
