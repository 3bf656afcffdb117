"""Copies of a pair: their orientations, and how bright they are."""

from __future__ import annotations

import numpy as np
import pytest

from training.preparation.varied_copies import copy_stem, original_of, turned, varied_copies

RNG = np.random.default_rng(3)
IMAGE = RNG.integers(0, 40, (6, 9, 3), dtype=np.uint8)
MASK = IMAGE[:, :, 0] > 20


@pytest.mark.parametrize(("height", "width", "orientations"), [(6, 6, 8), (6, 9, 4)])
def test_copies_have_all_orientations_that_keep_the_shape(height: int, width: int, orientations: int) -> None:
    image = RNG.integers(0, 40, (height, width, 3), dtype=np.uint8)
    copies = list(varied_copies(image, image[:, :, 0] > 20, 8, (1.0, 1.0), seed=1))
    assert len({mask.tobytes() for _, mask in copies}) == orientations
    for one, mask in copies:
        assert one.shape == image.shape
        np.testing.assert_array_equal(mask, one[:, :, 0] > 20)
        assert sorted(one.ravel()) == sorted(image.ravel())


def test_brightness_lies_in_the_range_and_depends_on_the_seed_alone() -> None:
    copies = [image for image, _ in varied_copies(IMAGE, MASK, 64, (0.5, 4.0), seed=1)]
    factors = np.array([image.mean() for image in copies]) / IMAGE.mean()
    assert 0.48 < factors.min() < 0.7 and 3.0 < factors.max() < 4.1
    assert np.median(factors) == pytest.approx(2**0.5, rel=0.35)  # uniform on a logarithmic scale
    again = [image for image, _ in varied_copies(IMAGE, MASK, 64, (0.5, 4.0), seed=1)]
    assert all(np.array_equal(a, b) for a, b in zip(copies, again, strict=True))
    other, _ = next(varied_copies(IMAGE, MASK, 1, (0.5, 4.0), seed=2))
    assert not np.array_equal(other, copies[0])


@pytest.mark.parametrize("brightness", [(0.8, 6.0), (2.0, 6.0)])
@pytest.mark.parametrize("level", [60, 120, 255])
def test_a_bright_image_is_not_saturated(level: int, brightness: tuple[float, float]) -> None:
    image = np.full((8, 8, 3), level, dtype=np.uint8)
    copies = [one for one, _ in varied_copies(image, image[:, :, 0] > 0, 32, brightness, seed=1)]
    assert max(one.max() for one in copies) <= max(250, level)
    assert min(one.min() for one in copies) >= round(0.8 * level) - 1


def test_the_name_of_a_copy_tells_its_original() -> None:
    assert original_of(copy_stem("cell_7", 12)) == "cell_7"
    assert original_of("cell_copy") is None


def test_a_black_image_stays_black() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    assert not any(one.any() for one, _ in varied_copies(image, image[:, :, 0] > 0, 3, (0.8, 6.0), seed=1))


def test_turns_keep_the_type() -> None:
    assert turned(MASK, 5).dtype == np.bool_
    np.testing.assert_array_equal(turned(turned(MASK, 1), 3), MASK)
