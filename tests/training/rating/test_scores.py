"""Scores of blinded ratings against published examples, textbook tests and simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from training.rating.scores import (
    Ratings,
    agreement,
    differences,
    holm,
    krippendorff_alpha,
    permutation_p_value,
    source_scores,
)
from training.statistics.crossed import crossed_mean

NONE = float("nan")

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section D: four observers, twelve units.
# He gives 0.815 for ordinal data.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
)


def study(**tables: list[list[int]]) -> Ratings:
    """Ratings (R, N) by source."""
    values = np.concatenate([np.array(table) for table in tables.values()], axis=1)
    source_of = tuple(source for source, table in tables.items() for _ in table[0])
    raters = tuple(f"rater {number}" for number in range(len(values)))
    items = tuple(f"item-{number}" for number in range(values.shape[1]))
    return Ratings(raters, items, tuple(tables), source_of, values)


def random_table(seed: int, raters: int, items: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(1, 6, (raters, items))


def test_alpha_of_the_published_example() -> None:
    assert krippendorff_alpha(PUBLISHED) == pytest.approx(0.815, abs=5e-4)


def test_alpha_does_not_depend_on_the_order_of_raters_and_items() -> None:
    shuffled = PUBLISHED[::-1][:, np.random.default_rng(0).permutation(12)]
    assert krippendorff_alpha(shuffled) == pytest.approx(krippendorff_alpha(PUBLISHED))


def test_alpha_is_1_for_full_agreement_and_about_0_for_chance() -> None:
    once = random_table(0, 1, 50).astype(float)
    assert krippendorff_alpha(np.repeat(once, 3, axis=0)) == pytest.approx(1)
    assert krippendorff_alpha(random_table(1, 3, 3000).astype(float)) == pytest.approx(0, abs=0.03)


def test_alpha_below_0_is_systematic_disagreement() -> None:
    opposite = np.array([[1.0, 5, 1, 5], [5, 1, 5, 1]])
    alpha = krippendorff_alpha(opposite)
    assert alpha is not None
    assert alpha < -0.5


@pytest.mark.parametrize(
    "values",
    [[[1, 2, 3]], [[4, 4, 4], [4, 4, 4]], [[1, NONE], [NONE, 5]]],
    ids=["one rater", "all alike", "no pair"],
)
def test_alpha_is_undefined_without_pairs_or_without_differences(values: list[list[float]]) -> None:
    assert krippendorff_alpha(np.array(values)) is None


def test_the_interval_of_agreement_holds_its_value() -> None:
    ratings = study(real=[[5, 4, 4, 2, 5], [5, 5, 3, 2, 4], [4, 4, 4, 1, 5]], made=[[1, 2], [2, 2], [1, 3]])
    found = agreement(ratings, seed=1)
    assert found is not None
    assert found.low is not None and found.high is not None
    assert -1 < found.low < found.value < found.high <= 1
    assert found.value == krippendorff_alpha(ratings.values.astype(float))
    assert found == agreement(ratings, seed=1)


def test_one_raters_mean_is_students() -> None:
    table = random_table(2, 1, 12)
    expected = stats.ttest_1samp(table[0], 0).confidence_interval(0.95)
    found = crossed_mean([table], [1.0]).estimate()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_raters_difference_is_welchs() -> None:
    first, second = random_table(3, 1, 9), random_table(4, 1, 14)
    expected = stats.ttest_ind(first[0], second[0], equal_var=False)
    mean = crossed_mean([first, second], [1.0, -1.0])
    found, interval = mean.estimate(), expected.confidence_interval(0.95)
    assert mean.p_value() == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_items_that_all_look_alike_leave_the_raters_as_the_only_sample() -> None:
    table = np.repeat([[2], [3], [5], [3]], 10, axis=1)
    expected = stats.ttest_1samp([2, 3, 5, 3], 0).confidence_interval(0.95)
    found = crossed_mean([table], [1.0]).estimate()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_variance_is_that_of_the_two_way_analysis() -> None:
    """(MS_raters + MS_items - MS_residuals) / (R N), from sums of squares over all cells."""
    rng = np.random.default_rng(5)
    table = np.rint(3 + rng.normal(0, 1, (4, 1)) + rng.normal(0, 1, 20) + rng.normal(0, 0.5, (4, 20)))
    raters, items = table.shape
    correction = table.sum() ** 2 / table.size
    of_raters = (table.sum(axis=1) ** 2).sum() / items - correction
    of_items = (table.sum(axis=0) ** 2).sum() / raters - correction
    residual = (table**2).sum() - correction - of_raters - of_items
    squares = of_raters / (raters - 1), of_items / (items - 1), residual / ((raters - 1) * (items - 1))
    variance = (squares[0] + squares[1] - squares[2]) / (raters * items)
    assert crossed_mean([table], [1.0]).error == pytest.approx(np.sqrt(variance))


@pytest.mark.parametrize("raters", [3, 5])
def test_intervals_hold_the_truth_about_19_times_of_20(raters: int) -> None:
    """Simulated studies whose raters differ in leniency and in taste, and whose images differ too."""
    rng = np.random.default_rng(raters)
    held = []
    for _ in range(400):
        leniency = rng.normal(0, 0.5, (raters, 1))
        tables = [
            3
            + leniency
            + rng.normal(0, 0.25, (raters, 1))
            + rng.normal(0, 0.6, 25)
            + rng.normal(0, 0.7, (raters, 25))
            for _ in range(2)
        ]
        mean = crossed_mean(tables[:1], [1.0]).estimate()
        difference = crossed_mean(tables, [1.0, -1.0]).estimate()
        assert mean.low is not None and mean.high is not None
        assert difference.low is not None and difference.high is not None
        held.append((mean.low <= 3 <= mean.high, difference.low <= 0 <= difference.high))
    assert np.all((np.mean(held, axis=0) > 0.9) & (np.mean(held, axis=0) < 0.99))


def test_an_interval_of_raters_who_hardly_differ_has_an_end() -> None:
    """Taking the residuals away leaves a variance of hardly any degrees of freedom; raters have two."""
    for seed in range(200):
        table = np.random.default_rng(seed).normal(0, 0.02, (3, 40))
        mean = crossed_mean([table], [1.0])
        assert mean.freedom >= 2
        assert mean.half_width() < 0.05


def test_ratings_without_spread_have_no_interval_and_no_p() -> None:
    ratings = study(real=[[5, 5], [5, 5]], made=[[5, 5, 5], [5, 5, 5]])
    for score in source_scores(ratings):
        assert (score.mean_opinion_score.value, score.mean_opinion_score.low) == (5, None)
        assert (score.taken_for_real.value, score.taken_for_real.high) == (1, None)
    (difference,) = differences(ratings, seed=0)
    assert (difference.difference.value, difference.difference.low) == (0, None)
    assert (difference.p_value, difference.p_these_raters) == (None, None)


def test_a_mean_over_one_item_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        crossed_mean([np.array([[3], [4]])], [1.0])


def test_scores_by_source() -> None:
    ratings = study(real=[[5, 4, 3, 4], [5, 5, 2, 4]], made=[[1, 4], [2, 3]])
    real, made = source_scores(ratings)
    assert (real.source, real.items, made.source, made.items) == ("real", 4, "made", 2)
    assert real.mean_opinion_score.value == 4.0
    assert real.taken_for_real.value == 6 / 8
    assert made.mean_opinion_score.value == 2.5
    assert made.taken_for_real.value == 1 / 4
    for estimate, lowest, highest in (
        *((score.mean_opinion_score, 1, 5) for score in (real, made)),
        *((score.taken_for_real, 0, 1) for score in (real, made)),
    ):
        assert estimate.low is not None and estimate.high is not None
        assert lowest <= estimate.low <= estimate.value <= estimate.high <= highest


def test_more_raters_of_the_same_kind_narrow_the_interval_for_other_raters_only() -> None:
    few, many = (
        source_scores(study(real=[[4, 5, 3, 4], [3, 4, 2, 3]] * n, made=[[1, 2]] * 2 * n)) for n in (1, 4)
    )
    widths = [
        [e.high - e.low for e in (score.mean_opinion_score, score.these_raters) if e.low and e.high]
        for score in (few[0], many[0])
    ]
    assert widths[1][0] < widths[0][0]
    assert widths[1][1] == pytest.approx(widths[0][1])


def test_differences_of_every_two_sources() -> None:
    ratings = study(
        real=[[5, 4, 5, 4, 5, 5], [4, 4, 5, 5, 5, 4], [5, 5, 5, 4, 4, 5]],
        siamese=[[4, 4, 5, 4, 4, 5], [5, 3, 4, 4, 5, 4], [4, 5, 5, 4, 3, 5]],
        plain=[[1, 2, 1, 1, 2, 1], [2, 2, 1, 1, 1, 2], [1, 1, 2, 1, 2, 1]],
    )
    found = differences(ratings, seed=3)
    assert [(d.first, d.second) for d in found] == [
        ("real", "siamese"),
        ("real", "plain"),
        ("siamese", "plain"),
    ]
    close, far, _ = found
    assert far.difference.value == pytest.approx(ratings.of("real").mean() - ratings.of("plain").mean())
    assert far.p_value is not None and far.p_these_raters is not None
    assert max(far.p_value, far.p_these_raters) < 0.01
    assert close.p_value is not None and close.p_these_raters is not None
    assert min(close.p_value, close.p_these_raters) > 0.05
    assert found == differences(ratings, seed=3)


def test_the_permutation_is_exact_for_few_images() -> None:
    """Of the 6 ways to part four images, 2 are as extreme as the one seen."""
    first, second = np.array([[1, 1], [2, 1]]), np.array([[5, 5], [4, 5]])
    assert permutation_p_value(first, second, seed=0) == pytest.approx(2 / 6)


def test_p_values_are_adjusted_by_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.6]) == [1.0, None, 1.0]
    assert holm([]) == []
