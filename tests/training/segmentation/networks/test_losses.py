"""The losses against their definitions, and SANet's colour exchange."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from torch import Tensor

from training.segmentation.networks.colour_exchange import exchange_colours, lab_of_rgb, rgb_of_lab
from training.segmentation.networks.losses import (
    bce_dice_loss,
    dice_loss,
    pixel_contrast_loss,
    structure_loss,
)

CERTAIN = 40.0  # a logit whose probability is 0 or 1 in float32


def rectangle(top: int, left: int, height: int, width: int, side: int = 48) -> Tensor:
    mask = torch.zeros(1, 1, side, side)
    mask[..., top : top + height, left : left + width] = 1
    return mask


def certain(mask: Tensor) -> Tensor:
    return CERTAIN * (2 * mask - 1)


EMPTY = torch.zeros(1, 1, 48, 48)
BOX = rectangle(8, 8, 10, 20)


@pytest.mark.parametrize("loss", [dice_loss, bce_dice_loss, structure_loss])
@pytest.mark.parametrize("mask", [EMPTY, 1 - EMPTY, BOX], ids=["empty", "full", "box"])
def test_a_perfect_prediction_costs_nothing(loss, mask: Tensor) -> None:
    assert float(loss(certain(mask), mask)) == pytest.approx(0, abs=1e-6)


def test_dice_loss_of_half_a_box() -> None:
    found = rectangle(8, 8, 10, 10)  # 100 of its 200 pixels

    assert float(dice_loss(certain(found), BOX)) == pytest.approx(1 - (2 * 100 + 1) / (300 + 1), abs=1e-6)


def test_dice_loss_averages_over_images() -> None:
    logits, masks = torch.cat([certain(BOX), certain(EMPTY)]), torch.cat([BOX, BOX])

    assert float(dice_loss(logits, masks)) == pytest.approx((0 + 1 - 1 / 201) / 2, abs=1e-6)


def test_undecided_logits_cost_log_2_of_cross_entropy() -> None:
    logits = torch.zeros_like(BOX)

    assert float(bce_dice_loss(logits, BOX) - dice_loss(logits, BOX)) == pytest.approx(math.log(2))


def test_structure_loss_equals_its_definition() -> None:
    random = np.random.default_rng(1)
    masks = np.stack([BOX.numpy()[0, 0], rectangle(0, 30, 3, 3).numpy()[0, 0]]).astype(np.float64)
    logits = random.normal(size=masks.shape)

    expected = []
    for logit, mask in zip(logits, masks, strict=True):
        weight = 1 + 5 * np.abs(uniform_filter(mask, 31, mode="constant") - mask)
        probability = 1 / (1 + np.exp(-logit))
        entropy = -mask * np.log(probability) - (1 - mask) * np.log(1 - probability)
        both, total = (weight * probability * mask).sum(), (weight * (probability + mask)).sum()
        expected.append((weight * entropy).sum() / weight.sum() + 1 - (both + 1) / (total - both + 1))

    found = structure_loss(torch.from_numpy(logits)[:, None], torch.from_numpy(masks)[:, None])
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-9)


def test_structure_loss_minds_the_outline_more_than_the_middle_of_a_lesion() -> None:
    lesion = rectangle(4, 4, 40, 40)
    without_corner = certain(lesion - rectangle(4, 4, 4, 4))
    without_middle = certain(lesion - rectangle(22, 22, 4, 4))

    assert structure_loss(without_corner, lesion) > structure_loss(without_middle, lesion)


def embeddings_by_class(mask: Tensor, cosine: float) -> Tensor:
    """Unit vectors (1, 2, H, W): one for lesions, one for background, at this cosine to each other."""
    lesion = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    background = torch.tensor([cosine, math.sqrt(1 - cosine**2)]).view(1, 2, 1, 1)
    return mask * lesion + (1 - mask) * background


@pytest.mark.parametrize("cosine", [-1.0, 0.0, 0.9, 1.0])
def test_contrast_of_two_embeddings_in_closed_form(cosine: float) -> None:
    # Whatever is drawn: 100 pixels of each class, similarities 10 within it and 10 cos to the other.
    expected = 0.1 / 0.07 * math.log1p(100 * math.exp(10 * cosine - 10))

    found = pixel_contrast_loss(embeddings_by_class(BOX, cosine), certain(BOX), BOX)

    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_contrast_draws_half_of_its_pixels_from_the_misclassified() -> None:
    side = BOX.shape[-1]
    random = torch.Generator().manual_seed(1)
    raw = torch.randn(1, 4, side, side, generator=random).requires_grad_()
    found = rectangle(8, 8, 10, 10)  # 100 lesion pixels right, 100 wrong, all of the background right

    pixel_contrast_loss(F.normalize(raw, dim=1), certain(found), BOX).backward()

    assert raw.grad is not None
    size = raw.grad.abs().sum(dim=1, keepdim=True)
    drawn = size > 1e-4 * size.max()  # rounded coordinates leak a little to the neighbours
    wrong = found != BOX
    assert int((drawn & (BOX == 1)).sum()) == 100
    assert int((drawn & (BOX == 1) & wrong).sum()) == 50
    assert int((drawn & (BOX == 0)).sum()) == 100


def test_contrast_of_small_embeddings_is_that_of_the_enlarged_ones() -> None:
    small = F.normalize(torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(1)), dim=1)
    masks = torch.cat([BOX, rectangle(20, 5, 20, 30)])
    enlarged = F.interpolate(small, size=(48, 48), mode="bilinear", align_corners=True)

    losses = []
    for embeddings in (small, enlarged):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            losses.append(float(pixel_contrast_loss(embeddings, certain(masks), masks)))

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("mask", [EMPTY, 1 - EMPTY, rectangle(0, 0, 10, 10)], ids=["none", "all", "100 px"])
def test_contrast_without_two_classes_is_0_and_still_has_a_gradient(mask: Tensor) -> None:
    embeddings = embeddings_by_class(BOX, 0.0).requires_grad_()

    loss = pixel_contrast_loss(embeddings, certain(mask), mask)
    loss.backward()

    assert float(loss.detach()) == 0
    assert embeddings.grad is not None and not embeddings.grad.any()


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_of_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    found = lab_of_rgb(torch.tensor(rgb).view(1, 3, 1, 1)).flatten()

    torch.testing.assert_close(found, torch.tensor(lab), rtol=0, atol=0.02)


def test_colours_survive_the_way_to_lab_and_back() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(rgb_of_lab(lab_of_rgb(images)), images, rtol=0, atol=1e-4)


def test_colour_exchange_takes_the_statistics_of_the_reference_and_keeps_the_content() -> None:
    random = torch.Generator().manual_seed(1)
    # Narrow ranges, so that nothing is clipped.
    image = 0.4 + 0.1 * torch.rand(1, 3, 32, 32, generator=random)
    reference = torch.tensor([0.6, 0.4, 0.35]).view(1, 3, 1, 1) + 0.1 * torch.rand(
        1, 3, 32, 32, generator=random
    )

    exchanged = lab_of_rgb(exchange_colours(image, reference))

    wanted = torch.std_mean(lab_of_rgb(reference), dim=(2, 3))
    for found, expected in zip(torch.std_mean(exchanged, dim=(2, 3)), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
    before, after = lab_of_rgb(image)[0, 0].flatten(), exchanged[0, 0].flatten()
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.999


def test_colour_exchange_with_itself_changes_nothing() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(exchange_colours(image, image), image, rtol=0, atol=1e-3)


def test_colour_exchange_of_plain_colours_stays_finite() -> None:
    black, white = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)

    torch.testing.assert_close(exchange_colours(black, white), white, rtol=0, atol=1e-3)
