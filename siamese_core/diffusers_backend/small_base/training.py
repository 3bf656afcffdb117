"""Training a small base from scratch on any images: first the VAE, then text encoder and UNet together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.nn.utils import clip_grad_norm_

from ...architecture import LATENT_SCALE
from ...learning.averaged_weights import AveragedWeights
from ...learning.learning_rate import cosine_rate, set_learning_rate
from ...method.noise_schedule import add_noise, snr_weights, stratified_timesteps
from ...seeds import epoch_order, generator, stream_seed
from ...settings import COUNT, COUNT_OR_NONE, DECAY, RATE, SHARE, WEIGHT, Range, option
from ..base_model import Base
from ..pair_encoding import vae_moments
from ..prompt_encoding import tokenize
from .vae_critics import (
    FeatureMaps,
    PatchDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)

COARSE_SIDES = (2, 4, 8)
"""Block sides in pixels: the VAE's loss also compares the mean colours of such blocks."""

_SNR_EXPONENT = 0.5  # of `snr_weights`

StepFunction = Callable[[int], Mapping[str, Tensor]]


@dataclass(frozen=True)
class VAESettings:
    """Settings of the VAE's training.

    The loss is the L1 error of pixels, of differences between neighbouring pixels and of block means, plus
    the KL divergence and the optional perceptual and adversarial terms.
    """

    steps: int = option(4000, "optimiser steps", COUNT_OR_NONE)
    batch_size: int = option(16, "crops per step; with whole images, as many as cost the same", COUNT)
    crop: int = option(64, "side of the random crops, in pixels", Range(8, 16384, multiple_of=8))
    full_size_share: float = option(
        0.25, "share of the steps, at the end, that trains on whole images", SHARE
    )
    learning_rate: float = option(1e-3, "AdamW's peak learning rate; decays along a half cosine", RATE)
    warmup: int = option(100, "steps of linear warm-up", COUNT_OR_NONE)
    gradient_weight: float = option(
        1.0, "weight of the L1 loss on differences between neighbouring pixels; preserves edges", WEIGHT
    )
    coarse_weight: float = option(
        1.0, "weight of the L1 loss on block means; regions get their colours sooner", WEIGHT
    )
    kl_weight: float = option(
        1e-4, "weight of the KL divergence of the posterior from a unit Gaussian", WEIGHT
    )
    decoder_only: bool = option(
        False, "train only the decoder, so that the latents a UNet was trained on stay the same"
    )
    perceptual_weight: float = option(
        0.0,
        "weight of the perceptual loss (EfficientNet-Lite1 features), which reduces blur; 0.15 is usual",
        WEIGHT,
        added_later=True,
    )
    adversarial_weight: float = option(
        0.0,
        "weight of a patch discriminator's loss, which adds texture late in training; 0.02 is usual",
        WEIGHT,
        added_later=True,
    )
    latent_noise: float = option(
        0.0,
        "maximum noise on the latents, in their standard deviations, that the decoder learns to ignore",
        WEIGHT,
    )

    def full_size_batch(self, resolution: int) -> int:
        """Number of images of side ``resolution`` that cost about as much as ``batch_size`` crops."""
        return max(1, round(self.batch_size * (self.crop / resolution) ** 2))


@dataclass(frozen=True)
class UNetSettings:
    """Settings of the joint training of UNet and text encoder (epsilon prediction)."""

    steps: int = option(6000, "optimiser steps", COUNT_OR_NONE)
    batch_size: int = option(16, "samples per step", COUNT)
    learning_rate: float = option(1e-3, "AdamW's peak learning rate; decays along a half cosine", RATE)
    warmup: int = option(100, "steps of linear warm-up", COUNT_OR_NONE)
    weight_decay: float = option(1e-2, "AdamW's weight decay", WEIGHT)
    prompt_dropout: float = option(0.1, "share of samples trained on the empty prompt, for guidance", SHARE)
    ema_decay: float = option(
        0.999, "decay of the moving average of the weights, which is what is saved", DECAY
    )


@dataclass
class Discriminator:
    """The patch discriminator of VAE training with its optimiser."""

    network: nn.Module
    optimizer: Any

    @classmethod
    def create(cls, learning_rate: float, seed: int, device: torch.device) -> Discriminator:
        """A discriminator on ``device`` with random weights from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = PatchDiscriminator().to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=(0.5, 0.99))
        return cls(network, optimizer)

    def update(self, real: Tensor, made: Tensor) -> Tensor:
        """One optimiser step on ``real`` and ``made`` images (B, 3, H, W) in [-1, 1]; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)  # the decoder's loss has left gradients here
        loss = discriminator_loss(self.network(real), self.network(made))
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def vae_step_function(
    vae: AutoencoderKL,
    optimizer: Any,
    images: Tensor,
    settings: VAESettings,
    seed: int,
    device: torch.device,
    features: FeatureMaps | None = None,
    discriminator: Discriminator | None = None,
) -> StepFunction:
    """The VAE's optimiser step as a function of k, on crops (later whole images) of ``images``.

    ``images`` are (N, 3, R, R) uint8. ``features`` enables the perceptual loss, ``discriminator`` the
    adversarial one.
    """
    resolution = images.shape[-1]
    crop = min(settings.crop, resolution)
    last_crop_step = round(settings.steps * (1 - settings.full_size_share))

    def step(k: int) -> dict[str, Tensor]:
        whole = k >= last_crop_step
        count = settings.full_size_batch(resolution) if whole else settings.batch_size
        rng = generator(stream_seed(seed, "vae", k))
        chosen = epoch_order(seed, k, count, len(images))
        pixels = random_crops(images[chosen], resolution if whole else crop, rng)
        pixels = pixels.to(device).float() / 127.5 - 1.0
        with torch.set_grad_enabled(not settings.decoder_only):
            posterior = vae_moments(vae, pixels)
        noise = torch.randn(posterior.mean.shape, generator=rng).to(device)
        latent = posterior.mean + posterior.std * noise
        if settings.latent_noise:
            latent = latent + _uneven_noise(latent.detach(), settings.latent_noise, rng)
        reconstruction = vae.decode(latent).sample
        difference = reconstruction - pixels
        pixel_loss = difference.abs().mean()
        edge_loss = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
        coarse_loss = sum(avg_pool2d(difference, side).abs().mean() for side in COARSE_SIDES)
        loss = pixel_loss + settings.gradient_weight * edge_loss + settings.coarse_weight * coarse_loss
        loss = loss + settings.kl_weight * kl
        extra_terms = {}
        if features is not None:
            distance = feature_distance(features, reconstruction, pixels)
            loss = loss + settings.perceptual_weight * distance
            extra_terms["perceptual"] = distance.detach()
        if discriminator is not None:
            verdict = adversarial_loss(discriminator.network(reconstruction))
            loss = loss + settings.adversarial_weight * verdict
            extra_terms["adversarial"] = verdict.detach()
        loss.backward()
        clip_grad_norm_(vae.parameters(), 1.0)
        set_learning_rate(optimizer, cosine_rate(settings.learning_rate, k, settings.steps, settings.warmup))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if discriminator is not None:
            made = reconstruction.detach()
            extra_terms["discriminator"] = discriminator.update(pixels, made)
        psnr = -10.0 * torch.log10(difference.detach().square().mean() / 4.0)
        return {"l1": pixel_loss.detach(), "kl": kl.detach(), "psnr": psnr, **extra_terms}

    return step


def _uneven_noise(latent: Tensor, most: float, rng: torch.Generator) -> Tensor:
    """Gaussian noise of the shape of ``latent``, in units of each channel's standard deviation.

    Its scale is drawn from 0..``most`` for each sample.
    """
    share = most * torch.rand(len(latent), 1, 1, 1, generator=rng)
    noise = share * torch.randn(latent.shape, generator=rng)
    return noise.to(latent) * latent.std(dim=(0, 2, 3), keepdim=True)


def random_crops(images: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """One random crop of each image, mirrored at random: ``(B, 3, H, W)`` -> ``(B, 3, side, side)``."""
    crops = []
    for image in images:
        room = image.shape[-1] - side
        top, left, mirrored = (
            int(torch.randint(high, (1,), generator=rng)) for high in (room + 1, room + 1, 2)
        )
        crop = image[:, top : top + side, left : left + side]
        crops.append(crop.flip(-1) if mirrored else crop)
    return torch.stack(crops)


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, moments: Tensor) -> Tensor:
    """Normalise the latents by changing the VAE's weights in place; return the new moments.

    ``moments`` (N, 2, 4, h, w) come from :func:`encode_moments`. Afterwards ``LATENT_SCALE`` times a
    posterior sample of the same images has mean 0 and standard deviation 1 in every channel, and
    reconstructions are unchanged. Hosts can therefore use Stable Diffusion's constant for this VAE, too.
    """
    mean = moments[:, 0].mean(dim=(0, 2, 3)).to(vae.device)
    spread = (moments[:, 0].var(dim=(0, 2, 3)) + moments[:, 1].square().mean(dim=(0, 2, 3))).sqrt()
    gain = (1.0 / (spread * LATENT_SCALE)).to(vae.device)
    channels = len(gain)
    quant, post_quant = vae.quant_conv, vae.post_quant_conv
    post_quant.bias += (post_quant.weight[:, :, 0, 0] * mean).sum(dim=1)
    post_quant.weight /= gain.view(1, -1, 1, 1)
    quant.weight[:channels] *= gain.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) * gain
    quant.bias[channels:] += 2.0 * gain.log()
    moments = moments.clone()
    moments[:, 0] -= mean.cpu().view(1, -1, 1, 1)
    return moments * gain.cpu().view(1, 1, -1, 1, 1)


def unet_step_function(
    unet: nn.Module,
    text_encoder: nn.Module,
    optimizer: Any,
    average: AveragedWeights,
    base: Base,
    moments: Tensor,
    prompts: Sequence[str],
    settings: UNetSettings,
    seed: int,
    device: torch.device,
) -> StepFunction:
    """The optimiser step of UNet and text encoder as a function of k (epsilon prediction).

    ``moments`` (N, 2, 4, h, w) are cached VAE moments, ``prompts`` the N texts.
    """
    token_ids = tokenize(base.tokenizer, prompts)
    empty_ids = tokenize(base.tokenizer, [""])
    parameters = [*unet.parameters(), *text_encoder.parameters()]

    def step(k: int) -> dict[str, Tensor]:
        rng = generator(stream_seed(seed, "unet", k))
        count = settings.batch_size
        chosen = epoch_order(seed, k, count, len(moments))
        mean, std = moments[chosen].unbind(dim=1)
        latent = (mean + std * torch.randn(mean.shape, generator=rng)) * LATENT_SCALE
        noise = torch.randn(mean.shape, generator=rng)
        timesteps = stratified_timesteps(count, rng)
        dropped = torch.rand(count, 1, generator=rng) < settings.prompt_dropout
        ids = torch.where(dropped, empty_ids, token_ids[chosen]).to(device)
        noisy = add_noise(latent, noise, timesteps).to(device)
        prediction = unet(noisy, timesteps.to(device), text_encoder(ids)[0]).sample
        errors = (prediction - noise.to(device)).square().mean(dim=(1, 2, 3))
        (snr_weights(timesteps, _SNR_EXPONENT).to(device) * errors).mean().backward()
        norm = clip_grad_norm_(parameters, 1.0)
        set_learning_rate(optimizer, cosine_rate(settings.learning_rate, k, settings.steps, settings.warmup))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update()
        return {"loss": errors.detach().mean(), "gradient_norm": torch.as_tensor(norm).detach()}

    return step
