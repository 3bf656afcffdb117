"""The noise schedule of Stable Diffusion 1.x and the closed forms shared by training and sampling."""

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
    """abar_t, the cumulative products of 1 - beta_t, float32 ``(1000,)``, on the CPU.

    sqrt(beta) is linear in t. The products are computed in float64 and rounded once, as in the published
    implementation.
    """
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0).float()


def _alphas_on(device: torch.device) -> Tensor:
    """``alphas_cumprod`` on ``device``, cached because each copy would synchronise host and device."""
    return alphas_cumprod() if device.type == "cpu" else _copied_alphas(device)


@lru_cache
def _copied_alphas(device: torch.device) -> Tensor:
    return alphas_cumprod().to(device)


def signal_and_noise_scale(timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar_t) and sqrt(1 - abar_t) for ``timesteps`` (B,), each ``(B, 1, 1, 1)`` float32."""
    abar = _alphas_on(timesteps.device).double()[timesteps].view(-1, 1, 1, 1)
    return abar.sqrt().float(), (1.0 - abar).sqrt().float()


def signal_to_noise(timesteps: Tensor) -> Tensor:
    """The SNR, abar_t / (1 - abar_t), for ``timesteps`` (B,): ``(B,)`` float32."""
    abar = _alphas_on(timesteps.device)[timesteps]
    return abar / (1.0 - abar)


def snr_weights(timesteps: Tensor, exponent: float) -> Tensor:
    """Loss weights ``(SNR + k) ** -exponent`` for ``timesteps`` (B,): ``(B,)`` float32.

    This is P2 weighting (Choi et al. 2022, arXiv 2204.00227, eq. 8) with a different k. On small latents the
    layout of an image is decided at high timesteps, where the unweighted loss is smallest. An exponent of 0
    gives every sample the weight 1.
    """
    return (signal_to_noise(timesteps) + _WEIGHT_OFFSET) ** -exponent


def min_snr_weights(timesteps: Tensor, gamma: float, prediction: Prediction = "epsilon") -> Tensor:
    """Min-SNR loss weights for ``timesteps`` (B,): ``(B,)`` float32.

    ``min(SNR, gamma) / SNR`` for noise predictions, ``min(SNR, gamma) / (SNR + 1)`` for v predictions.
    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy", arXiv 2303.09556.
    """
    snr = signal_to_noise(timesteps)
    return snr.clamp(max=gamma) / (snr + 1.0 if prediction == "v_prediction" else snr)


def stratified_timesteps(count: int, rng: torch.Generator) -> Tensor:
    """``(count,)`` int64 timesteps, one in each of ``count`` equal bins of 0..999, in random order.

    All share one random shift, which leaves each of them uniform (Kingma et al. 2021, "Variational Diffusion
    Models", appendix I.1): the expected loss is unchanged and its variance is lower.
    """
    shift = torch.rand(1, generator=rng)
    places = (shift + torch.randperm(count, generator=rng) / count) % 1.0
    return (places * TRAIN_TIMESTEPS).long().clamp(max=TRAIN_TIMESTEPS - 1)


def add_noise(latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """q(z_t | z_0): ``sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise``; ``(B, 4, h, w)``, timesteps ``(B,)``."""
    signal, sigma = signal_and_noise_scale(timesteps)
    return signal * latent + sigma * noise


def training_target(noisy_latent: Tensor, noise: Tensor, timesteps: Tensor, prediction: Prediction) -> Tensor:
    """The regression target (B, 4, h, w) for ``noisy_latent`` z_t made with ``noise``: that noise, or v.

    v = sqrt(abar_t) noise - sqrt(1 - abar_t) z_0 (Salimans and Ho 2022, arXiv 2202.00512, appendix D). It is
    computed from z_t because the re-noised latents of the online augmentation come without a z_0.
    """
    if prediction == "epsilon":
        return noise
    signal, sigma = signal_and_noise_scale(timesteps)
    return (noise - sigma * noisy_latent) / signal


def predicted_noise(
    output: Tensor, noisy_latent: Tensor, timesteps: Tensor, prediction: Prediction
) -> Tensor:
    """The noise (B, 4, h, w) implied by a network's ``output`` (noise or v) for ``noisy_latent`` z_t."""
    if prediction == "epsilon":
        return output
    signal, sigma = signal_and_noise_scale(timesteps)
    return signal * output + sigma * noisy_latent


def renoise(noisy_latent: Tensor, noise: Tensor, noise_prediction: Tensor, timesteps: Tensor) -> Tensor:
    """z_t' of the online augmentation (paper, section 3.4), (B, 4, h, w).

    Predicting z_0' from ``noise_prediction`` and adding the same ``noise`` to it again simplifies to
    ``z_t + sqrt(1 - abar_t) (noise - noise_prediction)``.
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
