from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.evaluation.metrics.distances import TooFewImages
from training.evaluation.metrics.memorisation import close_share, distance_ratio, find_neighbours

HOW = {"resamples": 200, "seed": 0, "stream": "test"}


def images(count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def test_the_nearest_real_image_and_its_distance_are_found() -> None:
    real = np.array([[0, 0], [4, 0], [0, 10]], np.float32)
    synthetic = np.array([[1, 0], [4, 3], [0, 10]], np.float32)
    found = find_neighbours(real, synthetic)
    assert found.index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.nearest, [1, 3, 0], atol=1e-6)
    np.testing.assert_allclose(found.reference, [4, 4, 10], atol=1e-6)
    np.testing.assert_allclose(found.realism[0], (1 + 3 + 101**0.5) / 3, atol=1e-6)


def test_fresh_images_of_the_same_kind_are_as_far_as_real_ones_from_each_other() -> None:
    found = find_neighbours(images(400, 0), images(400, 1))
    share, ratio = close_share(found, **HOW), distance_ratio(found, **HOW)
    assert share.low is not None and share.high is not None and ratio.low is not None
    assert 0.02 < share.value < 0.09
    assert ratio.value == pytest.approx(1, abs=0.1)
    assert (share.real, share.synthetic) == (400, 400)


def test_copies_are_told_from_fresh_images() -> None:
    real = images(400, 0)
    copies = np.vstack([real[:100] + np.float32(1e-3), images(300, 1)])
    found = find_neighbours(real, copies)
    share = close_share(found, **HOW)
    assert share.value > 0.25
    assert share.low is not None and share.low > 0.2
    assert found.index[:100].tolist() == list(range(100))
    assert distance_ratio(find_neighbours(real, real), **HOW).value == 0


@pytest.mark.parametrize("twice", [20, 60, 150], ids=["5 %", "15 %", "more than half"])
@pytest.mark.parametrize("rounding", [0, 1e-6], ids=["exact", "rounded"])
def test_copies_are_found_where_real_images_occur_twice(twice: int, rounding: float) -> None:
    once = images(400 - twice, 0)
    real = np.vstack([once, once[:twice] + np.float32(rounding)])
    copies, fresh = find_neighbours(real, real.copy()), find_neighbours(real, images(400, 1))

    share = close_share(copies, **HOW)

    assert share.value == 1
    assert share.note == f"{2 * twice} real images occur more than once"
    assert 0.01 < close_share(fresh, **HOW).value < 0.12


def test_a_copy_has_distance_0_in_single_precision_far_from_the_origin() -> None:
    real = images(20, 0) + np.float32(1000)
    assert (find_neighbours(real, real[:5]).nearest < 1e-3).all()


def test_one_real_image_is_no_reference() -> None:
    with pytest.raises(TooFewImages, match="at least 2 real images"):
        find_neighbours(images(1, 0), images(5, 1))


def test_a_real_set_of_copies_is_no_reference() -> None:
    found = find_neighbours(np.repeat(images(5, 0), 2, axis=0), images(4, 1))
    with pytest.raises(TooFewImages, match="occur twice"):
        distance_ratio(found, **HOW)
    assert close_share(found, **HOW).value == 0
    copied = find_neighbours(np.repeat(images(5, 0), 2, axis=0), images(5, 0))
    assert close_share(copied, **HOW).value == 1


def test_two_real_images_and_one_synthetic_one_do() -> None:
    found = find_neighbours(images(2, 0), images(1, 1))
    assert found.realism.shape == (1,)
    assert close_share(found, **HOW).low is None
