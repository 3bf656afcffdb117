"""The two models that ship with the pack: small, what they say they are, and able to do their job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import siamese_core
from siamese_core.architecture import LATENT_SCALE, TINY
from siamese_core.diffusers_backend.base_model import load_base
from siamese_core.diffusers_backend.mask_sampling import controlled_noise_predictor, sample_latents
from siamese_core.diffusers_backend.siamese_model import SiameseModel, model_from_file
from siamese_core.diffusers_backend.text_encoder import encode_prompts
from siamese_core.learning.training_set import mask_hint
from siamese_core.method.noise_schedule import add_noise
from siamese_core.seeds import generator
from siamese_core.weights.model_file import load_model
from tests.support.phantoms.phantom import Phantom, make_phantom

ASSETS = Path(siamese_core.__file__).parent / "assets"
BASE, SIAMESE = ASSETS / "tiny-base.safetensors", ASSETS / "tiny-siamese.safetensors"


@pytest.fixture(scope="module")
def model() -> SiameseModel:
    return model_from_file(load_model(SIAMESE))


def unseen_phantoms(count: int, colour: str = "") -> list[Phantom]:
    """Phantoms of a series that no shipped model was trained on."""
    found = (make_phantom(9_900_000 + seed) for seed in range(1000))
    return [phantom for phantom in found if f" {colour}" in phantom.prompt][:count]


def test_both_files_are_small() -> None:
    assert BASE.stat().st_size + SIAMESE.stat().st_size <= 40e6


@pytest.mark.parametrize(
    ("path", "kind", "command"), [(BASE, "base", "make_base"), (SIAMESE, "full", "train")]
)
def test_each_says_what_it_is_and_how_it_was_trained(path: Path, kind: str, command: str) -> None:
    file = load_model(path)

    assert file.kind == kind
    assert file.architecture == TINY
    assert file.training["command"] == command
    assert file.run_id


@torch.no_grad()
def test_the_base_has_unit_latents_and_rebuilds_phantoms() -> None:
    base = load_base(BASE)
    images = np.stack([phantom.image for phantom in unseen_phantoms(6)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    latents = base.vae.encode(pixels).latent_dist.mode()
    error = base.vae.decode(latents).sample - pixels

    assert float((latents * LATENT_SCALE).std()) == pytest.approx(1.0, abs=0.15)
    assert float(error.square().mean()) < 4 * 10**-2.3  # better than 23 dB


@torch.no_grad()
def test_the_right_mask_predicts_noise_better_than_another_ones(model: SiameseModel) -> None:
    phantoms = unseen_phantoms(8)
    base, networks = model.base, model.networks
    images = torch.from_numpy(np.stack([phantom.image for phantom in phantoms]))
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    latents = base.vae.encode(pixels).latent_dist.mode() * LATENT_SCALE
    noise = torch.randn(latents.shape, generator=generator(1))
    timesteps = torch.full((len(phantoms),), 800)
    noisy = add_noise(latents, noise, timesteps)
    context = encode_prompts(base.text_encoder, base.tokenizer, [phantom.prompt for phantom in phantoms])
    masks = torch.from_numpy(np.stack([phantom.mask > 0 for phantom in phantoms]))

    def error(masks: torch.Tensor) -> float:
        features = networks.control.hint_features(mask_hint(masks))
        control = networks.control.control(noisy, timesteps, context, features)
        prediction = networks.decoder(networks.encode(noisy, timesteps, context), context, control)
        return float((prediction - noise).square().mean())

    assert error(masks) < 0.85 * error(masks.roll(1, dims=0))


@torch.no_grad()
def test_lesions_are_painted_where_the_masks_are(model: SiameseModel) -> None:
    phantoms = unseen_phantoms(4, colour="white")
    base = model.base
    contexts = encode_prompts(base.text_encoder, base.tokenizer, [p.prompt for p in phantoms] + [""])
    masks = torch.from_numpy(np.stack([phantom.mask > 0 for phantom in phantoms]))
    predict = controlled_noise_predictor(
        model.networks,
        [(mask_hint(masks), 1.0)],
        contexts[:-1],
        contexts[-1:].expand(len(phantoms), -1, -1),
        guidance_scale=3.0,
    )
    latents = sample_latents(predict, range(len(phantoms)), 128, 128, steps=10)
    green = base.vae.decode(latents / LATENT_SCALE).sample[:, 1]

    # White lesions on red tissue differ most in green.
    for pixels, mask in zip(green, masks, strict=True):
        assert pixels[mask].mean() > pixels[~mask].mean() + 0.4
