"""Dice, IoU and their summaries against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from training.segmentation.scores import Comparison, compare, dice_scores, iou_scores, over_all_sets, spread
from training.statistics.crossed import crossed_mean, gathered

EMPTY = np.zeros((1, 4, 6), np.bool_)
FULL = ~EMPTY


def rectangle(rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = EMPTY.copy()
    mask[0, rows, columns] = True
    return mask


LEFT, RIGHT = rectangle(slice(0, 4), slice(0, 3)), rectangle(slice(0, 4), slice(3, 6))
SMALL, LARGE = rectangle(slice(1, 3), slice(1, 3)), rectangle(slice(0, 4), slice(1, 4))


@pytest.mark.parametrize(
    ("predicted", "wanted", "dice", "iou"),
    [
        pytest.param(EMPTY, EMPTY, 1.0, 1.0, id="both empty"),
        pytest.param(EMPTY, FULL, 0.0, 0.0, id="nothing found"),
        pytest.param(FULL, EMPTY, 0.0, 0.0, id="nothing there"),
        pytest.param(FULL, FULL, 1.0, 1.0, id="the same"),
        pytest.param(LEFT, RIGHT, 0.0, 0.0, id="touching, no pixel in common"),
        pytest.param(SMALL, LARGE, 2 * 4 / (4 + 12), 4 / 12, id="one inside the other, other size"),
        pytest.param(LARGE, LEFT, 2 * 8 / (12 + 12), 8 / 16, id="overlapping"),
    ],
)
def test_dice_and_iou_equal_hand_computed_values(
    predicted: NDArray[np.bool_], wanted: NDArray[np.bool_], dice: float, iou: float
) -> None:
    assert dice_scores(predicted, wanted).tolist() == [pytest.approx(dice)]
    assert iou_scores(predicted, wanted).tolist() == [pytest.approx(iou)]
    assert dice_scores(predicted, wanted).dtype == np.float64


def test_every_image_of_a_stack_has_a_score_of_its_own() -> None:
    predicted, wanted = np.concatenate([EMPTY, SMALL, FULL]), np.concatenate([EMPTY, LARGE, EMPTY])
    np.testing.assert_allclose(dice_scores(predicted, wanted), [1.0, 0.5, 0.0])
    np.testing.assert_allclose(iou_scores(predicted, wanted), [1.0, 1 / 3, 0.0])


@pytest.mark.parametrize("score", [dice_scores, iou_scores])
def test_masks_of_different_sizes_are_not_compared(score: object) -> None:
    with pytest.raises(ValueError, match=r"\(1, 4, 6\) cannot be compared with \(1, 4, 8\)"):
        score(EMPTY, np.zeros((1, 4, 8), np.bool_))  # type: ignore[operator]


def test_the_mean_over_all_sets_weighs_images_alike_not_sets() -> None:
    scores = over_all_sets({"large": [0.9, 0.9, 0.9], "small": [0.1]})
    assert scores.mean() == pytest.approx(0.7)


def test_spread_is_the_sample_deviation_and_missing_for_one_seed() -> None:
    assert spread([0.5, 0.7]).mean == pytest.approx(0.6)
    assert spread([0.5, 0.7]).sd == pytest.approx(0.2 / np.sqrt(2))
    assert spread([0.5]).sd is None


def test_a_comparison_pairs_seeds_and_images() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.uniform(0.2, 0.8, (3, 40))
    variant = baseline + rng.normal(0.1, 0.02, (3, 40))
    found = compare(variant, baseline)
    mean = crossed_mean([variant - baseline], [1.0])
    assert found.difference == pytest.approx((variant - baseline).mean())
    assert (found.p_value, found.runs) == (mean.p_value(), 3)
    assert found.p_value is not None and found.p_value < 1e-3
    # Pairing takes the images' own difficulty out: what is left varies by 0.02.
    assert found.low is not None and found.high is not None
    assert 0.09 < found.low < found.difference < found.high < 0.11


def test_variants_that_differ_by_the_luck_of_their_runs_are_rarely_called_different() -> None:
    """Simulated studies without an effect: three runs, each with an offset that all its images share."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(400):
        difficulty = rng.normal(0.8, 0.1, 200)
        one, other = (
            difficulty + rng.normal(0, 0.01, (3, 1)) + rng.normal(0, 0.03, (3, 200)) for _ in range(2)
        )
        found.append(compare(one, other))
    assert 0.02 < np.mean([one.p_value is not None and one.p_value < 0.05 for one in found]) < 0.09
    held = [one.low is not None and one.high is not None and one.low <= 0 <= one.high for one in found]
    assert 0.91 < np.mean(held) < 0.98


def test_one_seed_has_an_interval_over_images_and_no_p() -> None:
    rng = np.random.default_rng(2)
    baseline = rng.uniform(0.2, 0.8, (1, 30))
    variant = baseline + rng.normal(0.1, 0.02, (1, 30))
    found = compare(variant, baseline)
    expected = ttest_1samp((variant - baseline)[0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.p_value, found.runs) == (None, 1)


def test_equal_scores_are_no_evidence_either_way() -> None:
    scores = np.random.default_rng(1).uniform(size=(2, 9))
    assert compare(scores, scores) == Comparison(0.0, None, None, None, 2)


def test_a_single_image_has_no_interval() -> None:
    found = compare(np.array([[0.7], [0.8]]), np.array([[0.6], [0.6]]))
    assert found == Comparison(pytest.approx(0.15), None, None, None, 2)


@pytest.mark.parametrize("shape", [(2, 4), (1, 5)], ids=["images", "seeds"])
def test_other_test_images_or_seeds_are_not_paired(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 5\) \(seeds, images\) cannot be paired with"):
        compare(np.zeros((2, 5)), np.zeros(shape))


def test_pieces_of_one_image_are_one_sample() -> None:
    random = np.random.default_rng(3)
    of_images = random.normal(0.02, 0.1, (4, 30))
    baseline = np.zeros((4, 30))
    alone = compare(of_images, baseline)
    groups = [f"image{k}" for k in range(30) for _ in range(5)]
    pieces = np.repeat(of_images, 5, axis=1)

    assert gathered(pieces, groups).shape == (4, 30)
    together = compare(gathered(pieces, groups), gathered(np.zeros((4, 150)), groups))

    assert together.difference == pytest.approx(alone.difference)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    naive = compare(pieces, np.zeros((4, 150)))
    assert naive.high is not None and alone.high is not None and naive.high < alone.high


def test_images_of_unequal_size_keep_the_mean_of_all_pieces() -> None:
    table = np.array([[0.1, 0.5, 0.9, 0.3], [0.2, 0.2, 0.6, 1.0]])
    found = gathered(table, ["a", "b", "b", "b"])
    assert found.mean(axis=1) == pytest.approx(table.mean(axis=1))
    assert found[0] == pytest.approx([0.45 + 0.5 * (0.1 - 0.45), 0.45 + 0.5 * (1.7 - 3 * 0.45)])
