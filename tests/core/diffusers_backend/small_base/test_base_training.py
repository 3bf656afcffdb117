from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from siamese_core.architecture import LATENT_SCALE
from siamese_core.diffusers_backend.pair_encoding import encode_moments
from siamese_core.diffusers_backend.small_base.training import (
    Discriminator,
    StepFunction,
    UNetSettings,
    VAESettings,
    normalise_latents,
    random_crops,
    unet_step_function,
    vae_step_function,
)
from siamese_core.learning.averaged_weights import AveragedWeights
from siamese_core.seeds import generator
from tests.support.learning.one_device import OneDevice
from tests.support.small_models import SIDE, small_base
from training.pretrained.perceptual_features import efficientnet_features

CPU, META = torch.device("cpu"), torch.device("meta")

# Smooth colours that differ from image to image, so that latents have a mean and a spread.
_COARSE = torch.rand((4, 3, 4, 4), generator=generator(1)) * 255
IMAGES = torch.nn.functional.interpolate(_COARSE, SIDE, mode="bilinear").round().to(torch.uint8)


@pytest.fixture
def vae() -> AutoencoderKL:
    return copy.deepcopy(small_base().vae)


@torch.no_grad()
def reconstructions(vae: AutoencoderKL) -> Tensor:
    return vae.decode(vae.encode(IMAGES.float() / 127.5 - 1).latent_dist.mode()).sample


def test_normalising_latents_gives_every_channel_mean_zero_and_deviation_one(vae: AutoencoderKL) -> None:
    returned = normalise_latents(vae, encode_moments(vae, IMAGES))

    torch.testing.assert_close(returned, encode_moments(vae, IMAGES), rtol=1e-3, atol=1e-3)
    mean, std = (returned * LATENT_SCALE).unbind(dim=1)
    variance = mean.var(dim=(0, 2, 3)) + std.square().mean(dim=(0, 2, 3))
    torch.testing.assert_close(mean.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(variance, torch.ones(4), rtol=1e-3, atol=0)


def test_normalising_latents_does_not_change_what_is_decoded(vae: AutoencoderKL) -> None:
    before, raw = reconstructions(vae), encode_moments(vae, IMAGES)
    normalise_latents(vae, encode_moments(vae, IMAGES))

    torch.testing.assert_close(reconstructions(vae), before, rtol=0, atol=1e-4)
    changed = encode_moments(vae, IMAGES)
    assert not torch.allclose(changed, raw, rtol=0.1)
    ratio = changed[:, 1].mean(dim=(0, 2, 3)) / raw[:, 1].mean(dim=(0, 2, 3))
    gain = changed[:, 0].std(dim=(0, 2, 3)) / raw[:, 0].std(dim=(0, 2, 3))
    torch.testing.assert_close(ratio, gain, rtol=1e-3, atol=0)  # mean and deviation are scaled alike


def test_normalising_twice_changes_nothing_more(vae: AutoencoderKL) -> None:
    normalise_latents(vae, encode_moments(vae, IMAGES))
    once = encode_moments(vae, IMAGES)
    normalise_latents(vae, encode_moments(vae, IMAGES))

    torch.testing.assert_close(encode_moments(vae, IMAGES), once, rtol=1e-3, atol=1e-3)


def test_moments_do_not_depend_on_the_batch_they_are_computed_in(vae: AutoencoderKL) -> None:
    whole = encode_moments(vae, IMAGES)

    assert whole.shape == (4, 2, 4, SIDE // 8, SIDE // 8)
    assert (whole[:, 1] > 0).all()
    torch.testing.assert_close(encode_moments(vae, IMAGES, batch_size=3), whole)


def test_crops_are_a_function_of_the_generator() -> None:
    first, again, other = (random_crops(IMAGES, 16, generator(seed)) for seed in (7, 7, 8))

    assert first.shape == (4, 3, 16, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_crops_are_pieces_of_their_image_some_of_them_mirrored() -> None:
    image = torch.arange(36).view(1, 1, 6, 6)
    rng, seen = generator(3), set()
    for _ in range(200):
        crop = random_crops(image, 5, rng)[0, 0]
        mirrored = bool(crop[0, 0] > crop[0, 1])
        crop = crop.flip(-1) if mirrored else crop
        top, left = divmod(int(crop[0, 0]), 6)
        assert torch.equal(crop, image[0, 0, top : top + 5, left : left + 5])
        seen.add((top, left, mirrored))

    assert len(seen) == 2 * 2 * 2


def test_a_crop_of_full_size_is_the_image_or_its_mirror_image() -> None:
    for crop, image in zip(random_crops(IMAGES, SIDE, generator(1)), IMAGES, strict=True):
        assert torch.equal(crop, image) or torch.equal(crop, image.flip(-1))


@pytest.mark.parametrize(("resolution", "expected"), [(64, 16), (128, 4), (192, 2), (512, 1)])
def test_full_size_batches_cost_about_as_much_as_crops(resolution: int, expected: int) -> None:
    assert VAESettings(batch_size=16, crop=64).full_size_batch(resolution) == expected


def vae_step(vae: AutoencoderKL, settings: VAESettings) -> StepFunction:
    optimizer = torch.optim.AdamW(vae.parameters())
    return vae_step_function(vae, optimizer, IMAGES, settings, 42, CPU)


def test_a_vae_step_trains_on_crops_and_at_the_end_on_whole_images(vae: AutoencoderKL) -> None:
    sizes: list[tuple[int, ...]] = []
    vae.encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(tuple(inputs[0].shape)))
    before = vae.decoder.conv_out.weight.clone()
    step = vae_step(vae, VAESettings(steps=4, batch_size=4, crop=32, full_size_share=0.25, warmup=1))

    results = [step(k) for k in (0, 2, 3)]

    assert sizes == [(4, 3, 32, 32), (4, 3, 32, 32), (1, 3, SIDE, SIDE)]
    assert not torch.equal(vae.decoder.conv_out.weight, before)
    for result in results:
        assert {"l1", "kl", "psnr"} <= result.keys()
        assert all(value.ndim == 0 and value.isfinite() for value in result.values())
        assert not any(value.requires_grad for value in result.values())


def test_a_vae_step_is_a_function_of_weights_and_step_number() -> None:
    settings = VAESettings(steps=10, batch_size=2, crop=32)
    steps = [vae_step(copy.deepcopy(small_base().vae), settings) for _ in range(2)]
    first = steps[0](1)
    torch.manual_seed(99)

    assert steps[1](1) == first


def test_a_vae_step_with_critics_stays_on_its_device(vae: AutoencoderKL) -> None:
    vae = vae.to(META)
    settings = VAESettings(
        steps=2, batch_size=2, crop=32, latent_noise=0.3, perceptual_weight=0.1, adversarial_weight=0.1
    )
    step = vae_step_function(
        vae,
        torch.optim.AdamW(vae.parameters()),
        IMAGES,
        settings,
        42,
        META,
        efficientnet_features(META),
        Discriminator.create(settings.learning_rate, 42, META),
    )

    with OneDevice(may_wait=True):
        result = step(0)

    assert {value.device for value in result.values()} == {META}


def unet_step(settings: UNetSettings, prompts: list[str]) -> tuple[StepFunction, Any, AveragedWeights]:
    base = small_base()
    unet, text_encoder = copy.deepcopy(base.unet), copy.deepcopy(base.text_encoder)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
    moments = torch.rand((3, 2, 4, 8, 8), generator=generator(5))
    average = AveragedWeights(parameters, settings.ema_decay)
    step = unet_step_function(
        unet, text_encoder, optimizer, average, base, moments, prompts, settings, 42, CPU
    )
    return step, unet, average


UNET = UNetSettings(steps=10, batch_size=2, warmup=0, prompt_dropout=0.5)
PROMPTS = ["a polyp", "no polyp", ""]


def test_a_unet_step_trains_and_averages() -> None:
    step, unet, average = unet_step(UNET, PROMPTS)
    before = unet.conv_out.weight.clone()
    averaged = [parameter.clone() for parameter in average.averages]

    result = step(0)

    assert result.keys() == {"loss", "gradient_norm"}
    assert 0.1 < result["loss"].item() < 10
    assert not torch.equal(unet.conv_out.weight, before)
    assert any(not torch.equal(new, old) for new, old in zip(average.averages, averaged, strict=True))


def test_a_unet_step_is_a_function_of_weights_and_step_number() -> None:
    first, second = (unet_step(UNET, PROMPTS)[0] for _ in range(2))
    expected = first(3)
    torch.manual_seed(99)

    assert second(3) == expected


def test_dropped_prompts_count_as_empty_ones() -> None:
    dropped, _, _ = unet_step(replace(UNET, prompt_dropout=1.0), PROMPTS)
    empty, _, _ = unet_step(replace(UNET, prompt_dropout=0.0), ["", "", ""])
    kept, _, _ = unet_step(replace(UNET, prompt_dropout=0.0), PROMPTS)
    expected = empty(0)

    assert dropped(0) == expected
    assert kept(0) != expected
