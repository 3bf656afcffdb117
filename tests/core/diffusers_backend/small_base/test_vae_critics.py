"""The VAE's critics: a distance of deep features and a patch discriminator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from siamese_core.diffusers_backend.small_base.vae_critics import (
    PatchDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)


def edges(images: Tensor) -> Sequence[Tensor]:
    """Two depths of hand-made features: an image's differences, at full and at half size."""
    half = avg_pool2d(images, 2)
    return images.diff(dim=-1), half.diff(dim=-1)


def images(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_images_are_at_no_distance_from_themselves() -> None:
    assert feature_distance(edges, images(), images()) == 0


def test_a_blurred_image_is_further_away_the_more_it_is_blurred() -> None:
    sharp = images()
    little = 0.7 * sharp + 0.3 * avg_pool2d(sharp, 3, stride=1, padding=1)
    much = avg_pool2d(sharp, 5, stride=1, padding=2)
    assert 0 < feature_distance(edges, little, sharp) < feature_distance(edges, much, sharp)


def test_gradients_of_the_distance_reach_the_judged_images_alone() -> None:
    judged, originals = images(1).requires_grad_(), images(2).requires_grad_()
    feature_distance(edges, judged, originals).backward()
    assert judged.grad is not None and judged.grad.abs().sum() > 0
    assert originals.grad is None


def test_the_discriminator_judges_patches() -> None:
    assert PatchDiscriminator()(torch.zeros(2, 3, 32, 48)).shape == (2, 1, 8, 12)


def test_the_hinge_loss_is_zero_for_verdicts_that_are_sure_and_right() -> None:
    assert discriminator_loss(real=torch.tensor([1.0, 2.0]), made=torch.tensor([-1.5, -1.0])) == 0
    assert discriminator_loss(real=torch.tensor([0.0]), made=torch.tensor([0.0])) == 1


def test_the_decoder_pays_less_the_more_real_its_images_look() -> None:
    assert adversarial_loss(torch.tensor([2.0])) < adversarial_loss(torch.tensor([-2.0]))
