"""The noise schedule of Stable Diffusion 1.x and the closed forms that training and sampling share."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..architecture import Prediction

TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
_WEIGHT_OFFSET = 0.01  # k of `snr_weights`; the SNR falls from 1175 at t = 0 to 0.0047 at t = 999
BETA_SCHEDULE = "scaled_linear"


@lru_cache(maxsize=1)
def alphas_cumprod() -> Tensor:
    """Cumulative products of 1 - beta, float32 ``(1000,)``: betas are linear in square-root space.

    The products are taken in float64 and rounded once, as the published implementation does.
    """
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0).float()


def _alphas_on(device: torch.device) -> Tensor:
    """``alphas_cumprod`` on ``device``, copied there once: the host waits for a device that it copies to."""
    return alphas_cumprod() if device.type == "cpu" else _copied_alphas(device)


@lru_cache
def _copied_alphas(device: torch.device) -> Tensor:
    return alphas_cumprod().to(device)


def signal_and_noise_scale(timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar_t) and sqrt(1 - abar_t) for ``timesteps`` (B,), each ``(B, 1, 1, 1)`` float32."""
    abar = _alphas_on(timesteps.device).double()[timesteps].view(-1, 1, 1, 1)
    return abar.sqrt().float(), (1.0 - abar).sqrt().float()


def signal_to_noise(timesteps: Tensor) -> Tensor:
    """abar_t / (1 - abar_t) for ``timesteps`` (B,): ``(B,)`` float32."""
    abar = _alphas_on(timesteps.device)[timesteps]
    return abar / (1.0 - abar)


def snr_weights(timesteps: Tensor, exponent: float) -> Tensor:
    """Weights of squared errors, ``(B,)`` float32: ``(SNR + k) ** -exponent`` for ``timesteps`` (B,).

    On small latents, what an image shows where is settled at high timesteps, where the plain loss is least.
    This is P2 weighting (Choi et al. 2022, arXiv 2204.00227, eq. 8) with another k; an exponent of 0 weighs
    all alike.
    """
    return (signal_to_noise(timesteps) + _WEIGHT_OFFSET) ** -exponent


def min_snr_weights(timesteps: Tensor, gamma: float, prediction: Prediction = "epsilon") -> Tensor:
    """Weights of squared errors, ``(B,)`` float32, for ``timesteps`` (B,).

    ``min(SNR, gamma) / SNR`` for errors of the noise, ``min(SNR, gamma) / (SNR + 1)`` for those of v.
    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", arXiv 2303.09556.
    """
    snr = signal_to_noise(timesteps)
    return snr.clamp(max=gamma) / (snr + 1.0 if prediction == "v_prediction" else snr)


def stratified_timesteps(count: int, rng: torch.Generator) -> Tensor:
    """``(count,)`` timesteps, one in each of ``count`` equal bins of 0..999, in random order.

    One shift shared by all of them keeps each one uniform (Kingma et al. 2021, "Variational Diffusion
    Models", appendix I.1), so that expectations stay what they are and only their noise is less.
    """
    shift = torch.rand(1, generator=rng)
    places = (shift + torch.randperm(count, generator=rng) / count) % 1.0
    return (places * TRAIN_TIMESTEPS).long().clamp(max=TRAIN_TIMESTEPS - 1)


def add_noise(latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """q(z_t | z_0): ``sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise``; ``(B, 4, h, w)``, timesteps ``(B,)``."""
    signal, sigma = signal_and_noise_scale(timesteps)
    return signal * latent + sigma * noise


def training_target(noisy_latent: Tensor, noise: Tensor, timesteps: Tensor, prediction: Prediction) -> Tensor:
    """What a network should give for ``noisy_latent`` (B, 4, h, w), which holds ``noise``: that, or its v.

    v = sqrt(abar_t) noise - sqrt(1 - abar_t) z_0 (Salimans and Ho 2022, arXiv 2202.00512, appendix D), here
    written in z_t, which is all that the re-noised latents of the augmentation have.
    """
    if prediction == "epsilon":
        return noise
    signal, sigma = signal_and_noise_scale(timesteps)
    return (noise - sigma * noisy_latent) / signal


def predicted_noise(
    output: Tensor, noisy_latent: Tensor, timesteps: Tensor, prediction: Prediction
) -> Tensor:
    """The noise (B, 4, h, w) that a network's ``output`` for ``noisy_latent`` implies."""
    if prediction == "epsilon":
        return output
    signal, sigma = signal_and_noise_scale(timesteps)
    return signal * output + sigma * noisy_latent


def renoise(noisy_latent: Tensor, noise: Tensor, noise_prediction: Tensor, timesteps: Tensor) -> Tensor:
    """z_t of the clean latent that ``noise_prediction`` implies, under the same noise (paper, section 3.4).

    Predicting z_0 and adding ``noise`` again collapses to ``z_t + sqrt(1 - abar_t) (noise - prediction)``.
    """
    _, sigma = signal_and_noise_scale(timesteps)
    return noisy_latent + sigma * (noise - noise_prediction)


def ddim_timesteps(steps: int) -> list[int]:
    """The DDIM timesteps, highest first: ``range(0, 1000, 1000 // steps) + 1``.

    A ``steps`` that does not divide 1000 gives more than ``steps`` of them. Raises ValueError outside 1..999.
    """
    if not 1 <= steps < TRAIN_TIMESTEPS:
        raise ValueError(f"steps must lie in 1..{TRAIN_TIMESTEPS - 1}, not {steps}")
    timesteps = [t + 1 for t in range(0, TRAIN_TIMESTEPS, TRAIN_TIMESTEPS // steps)]
    return [t for t in reversed(timesteps) if t < TRAIN_TIMESTEPS]
