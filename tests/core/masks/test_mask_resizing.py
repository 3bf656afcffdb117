"""Masks and images brought to one size, aligned."""

from __future__ import annotations

import numpy as np
import pytest

from siamese_core.masks.resizing import ResizeMode, mask_to_uint8, resize_image, resize_mask
from tests.support.datasets.half_masks import LEFT, SHAPE

MODES: tuple[ResizeMode, ...] = ("stretch", "crop", "pad")


def test_a_mask_becomes_black_and_white_grey_levels() -> None:
    assert mask_to_uint8(np.array([[True, False]])).tolist() == [[255, 0]]
    assert mask_to_uint8(LEFT).dtype == np.uint8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", [(40, 60), (60, 40), (33, 47), (8, 100)])
@pytest.mark.parametrize("size", [(64, 64), (24, 80), (120, 30), (16, 16)])
def test_image_and_mask_stay_aligned(
    mode: ResizeMode, source: tuple[int, int], size: tuple[int, int]
) -> None:
    height, width = source
    rows, cols = np.mgrid[:height, :width]
    mask = ((rows / height - 0.4) ** 2 + (cols / width - 0.6) ** 2) < 0.1
    image = np.stack([mask_to_uint8(mask)] * 3, axis=-1)
    small_mask, small_image = resize_mask(mask, size, mode), resize_image(image, size, mode)
    assert small_mask.shape == size
    assert small_image.shape == (*size, 3)
    assert (small_mask.dtype, small_image.dtype) == (np.bool_, np.uint8)
    # Only pixels that an edge runs through may disagree, and a shift would tilt the balance.
    whole = (small_image[..., 0] == 0) | (small_image[..., 0] == 255)
    assert np.array_equal(small_mask[whole], small_image[..., 0][whole] == 255)
    assert abs(small_mask.mean() - small_image[..., 0].mean() / 255) < 0.06


@pytest.mark.parametrize("mode", MODES)
def test_the_own_size_changes_nothing(mode: ResizeMode) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    assert np.array_equal(resize_image(image, SHAPE, mode), image)
    assert np.array_equal(resize_mask(LEFT, SHAPE, mode), LEFT)


def test_stretch_repeats_mask_pixels() -> None:
    assert np.array_equal(resize_mask(LEFT, (20, 36)), LEFT.repeat(2, axis=0).repeat(3, axis=1))


def test_crop_keeps_the_centre() -> None:
    mask = np.zeros((10, 20), bool)
    mask[:, 5:15] = True
    assert resize_mask(mask, (30, 30), "crop").all()
    image = np.stack([mask_to_uint8(mask)] * 3, axis=-1)
    assert (resize_image(image, (5, 5), "crop") == 255).all()


def test_pad_centres_the_whole_and_fills_with_background() -> None:
    mask = np.ones((10, 20), bool)
    image = np.full((10, 20, 3), 200, np.uint8)
    padded_mask, padded_image = resize_mask(mask, (40, 40), "pad"), resize_image(image, (40, 40), "pad")
    expected = np.zeros((40, 40), bool)
    expected[10:30] = True
    assert np.array_equal(padded_mask, expected)
    assert np.array_equal(padded_image, expected[..., None] * np.full(3, 200, np.uint8))


def test_an_image_is_averaged_where_it_shrinks_and_interpolated_where_it_grows() -> None:
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (resize_image(stripes, (8, 4)) == 100).all()
    step = np.zeros((8, 8, 3), np.uint8)
    step[:, 4:] = 200
    assert resize_image(step, (8, 16))[0, 6:10, 0].tolist() == [0, 50, 150, 200]
    assert resize_image(step, (4, 16))[0, 6:10, 0].tolist() == [0, 50, 150, 200]


def test_an_unknown_resize_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown resize mode 'squash'; use one of stretch, crop and pad"):
        resize_mask(LEFT, (8, 8), "squash")  # type: ignore[arg-type]
