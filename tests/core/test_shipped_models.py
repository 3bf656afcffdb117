"""The two models that ship with the pack: small, what they say they are, and able to do their job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from siamese_core import shipped
from siamese_core.architecture import LATENT_SCALE, TINY
from siamese_core.diffusers_backend.base_model import load_base
from siamese_core.diffusers_backend.mask_sampling import controlled_noise_predictor, sample_latents
from siamese_core.diffusers_backend.prompt_encoding import encode_prompts
from siamese_core.diffusers_backend.siamese_model import SiameseModel, model_from_file
from siamese_core.learning.training_set import mask_hint
from siamese_core.method.noise_schedule import add_noise
from siamese_core.pairs.pair_files import find_pairs, load_pair
from siamese_core.seeds import generator
from siamese_core.weights.model_file import load_model

DARK, BRIGHT = ("fluorescence",), ("violet", "pale")


@pytest.fixture(scope="module")
def model() -> SiameseModel:
    return model_from_file(load_model(shipped.MODEL))


def held_out(*kinds: str) -> tuple[Tensor, Tensor, list[str]]:
    """Images (N, 3, H, W) in [-1, 1], masks (N, H, W) and prompts of the held-out pairs of these kinds."""
    pairs = [pair for pair in find_pairs(shipped.HELD_OUT) if pair.stem.startswith(kinds or "")]
    loaded = [load_pair(pair, size=None) for pair in pairs]
    images = torch.from_numpy(np.stack([pair.image for pair in loaded])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([pair.mask for pair in loaded]))
    return images.float() / 127.5 - 1.0, masks, [pair.prompt or "" for pair in pairs]


def test_both_files_are_small() -> None:
    assert shipped.BASE.stat().st_size + shipped.MODEL.stat().st_size <= 40e6


@pytest.mark.parametrize(
    ("path", "kind", "command"), [(shipped.BASE, "base", "make_base"), (shipped.MODEL, "full", "train")]
)
def test_each_says_what_it_is_and_how_it_was_trained(path: Path, kind: str, command: str) -> None:
    file = load_model(path)

    assert file.kind == kind
    assert file.architecture == TINY
    assert file.training["command"] == command
    assert file.run_id


@torch.no_grad()
def test_the_base_has_latents_of_unit_scale_and_rebuilds_images() -> None:
    base = load_base(shipped.BASE)
    images, _, _ = held_out()

    latents = base.vae.encode(images).latent_dist.mode()
    error = (base.vae.decode(latents).sample - images).square().mean(dim=(1, 2, 3))

    assert float((latents * LATENT_SCALE).std()) == pytest.approx(1.0, abs=0.25)
    assert float(-10 * (error / 4).log10().mean()) > 30.0  # dB


@torch.no_grad()
def test_the_right_mask_predicts_noise_better_than_another_ones(model: SiameseModel) -> None:
    images, masks, prompts = held_out(*DARK)
    base, networks = model.base, model.networks
    latents = base.vae.encode(images).latent_dist.mode() * LATENT_SCALE
    noise = torch.randn(latents.shape, generator=generator(1))
    timesteps = torch.full((len(latents),), 800)
    noisy = add_noise(latents, noise, timesteps)
    context = encode_prompts(base.text_encoder, base.tokenizer, prompts)

    def error(masks: Tensor) -> float:
        features = networks.control.hint_features(mask_hint(masks))
        control = networks.control.control(noisy, timesteps, context, features)
        prediction = networks.decoder(networks.encode(noisy, timesteps, context), context, control)
        return float((prediction - noise).square().mean())

    assert error(masks) < 0.85 * error(masks.roll(1, dims=0))


@pytest.mark.parametrize(("kinds", "sign"), [(DARK, 1.0), (BRIGHT, -1.0)], ids=["dark", "bright"])
@torch.no_grad()
def test_nuclei_are_generated_where_the_masks_are(
    model: SiameseModel, kinds: tuple[str, ...], sign: float
) -> None:
    """Nuclei shine on a dark ground, and are darker than a bright one; stains differ most in green."""
    _, masks, prompts = held_out(*kinds)
    base = model.base
    contexts = encode_prompts(base.text_encoder, base.tokenizer, [*prompts, ""])
    predict = controlled_noise_predictor(
        model.networks,
        [(mask_hint(masks), 1.0)],
        contexts[:-1],
        contexts[-1:].expand(len(masks), -1, -1),
        guidance_scale=3.0,
    )
    latents = sample_latents(predict, range(len(masks)), 128, 128, steps=10, device="cpu", sampler="dpmpp-2m")
    green = base.vae.decode(latents / LATENT_SCALE).sample[:, 1]

    contrasts = [
        sign * float(pixels[mask].mean() - pixels[~mask].mean())
        for pixels, mask in zip(green, masks, strict=True)
    ]
    assert sum(contrast > 0.05 for contrast in contrasts) >= len(contrasts) - 1
