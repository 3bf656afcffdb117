from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.phantoms.phantom import make_phantom
from training.segmentation.judge import SegmenterSettings, predict_masks, train_segmenter
from training.segmentation.scores import dice_scores

SHORT = SegmenterSettings(steps=3, batch_size=2)


def pairs(count: int, height: int = 32, width: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return images, images[..., 0] > 200


def phantoms(first: int, count: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    series = [make_phantom(seed, size) for seed in range(first, first + count)]
    return np.stack([phantom.image for phantom in series]), np.stack([phantom.mask > 0 for phantom in series])


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_seed_gives_the_same_network_under_any_global_random_state() -> None:
    images, masks = pairs(4)
    torch.manual_seed(1)
    first = weights(train_segmenter(images, masks, SHORT, seed=5))
    torch.manual_seed(2)
    second = weights(train_segmenter(images, masks, SHORT, seed=5))
    other = weights(train_segmenter(images, masks, SHORT, seed=6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_training_leaves_the_global_random_state_and_the_pairs_as_they_were() -> None:
    images, masks = pairs(4)
    originals = images.copy(), masks.copy()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    train_segmenter(images, masks, SHORT, seed=5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_equal(np.random.get_state(legacy=False), numpy_state)  # noqa: NPY002
    np.testing.assert_array_equal(images, originals[0])
    np.testing.assert_array_equal(masks, originals[1])


def test_a_short_training_finds_lesions_that_an_untrained_network_does_not() -> None:
    images, masks = phantoms(0, 48, size=64)
    new_images, new_masks = phantoms(1000, 16, size=64)
    scores = []
    for steps in (0, 50):
        model = train_segmenter(images, masks, SegmenterSettings(steps=steps, batch_size=8), seed=0)
        scores.append(dice_scores(predict_masks(model, new_images), new_masks).mean())
    untrained, trained = scores
    assert trained > 0.75
    assert trained > untrained + 0.3


def test_a_prediction_does_not_depend_on_its_batch() -> None:
    images, masks = pairs(5, height=32, width=64)
    model = train_segmenter(images, masks, SHORT, seed=0)
    together = predict_masks(model, images)
    assert together.shape == (5, 32, 64) and together.dtype == np.bool_
    # Sums of another order: a pixel on the very threshold may differ.
    assert np.mean(predict_masks(model, images, batch_size=2) != together) < 1e-3


def test_no_images_give_no_masks() -> None:
    model = train_segmenter(*pairs(2), SegmenterSettings(steps=0), seed=0)
    assert predict_masks(model, np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 32, 32)


def test_training_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="no image to train"):
        train_segmenter(*pairs(0), SHORT, seed=0)


def test_a_size_that_the_network_cannot_halve_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16, not 40x32"):
        train_segmenter(*pairs(2, height=32, width=40), SHORT, seed=0)


def test_images_that_are_not_8_bit_rgb_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not float64 \(2, 32, 32\)"):
        predict_masks(torch.nn.Identity(), np.zeros((2, 32, 32)))  # type: ignore[arg-type]


def test_masks_that_do_not_fit_the_images_are_refused() -> None:
    images, masks = pairs(4)
    with pytest.raises(ValueError, match=r"\(3, 32, 32\) do not fit images \(4, 32, 32, 3\)"):
        train_segmenter(images, masks[:3], SHORT, seed=0)
