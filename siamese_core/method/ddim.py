"""DDIM sampling (Song et al. 2021, arXiv 2010.02502) with eta 0, as in the published implementation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .noise_schedule import alphas_cumprod, ddim_timesteps

NoisePredictor = Callable[[Tensor, int], Tensor]
"""``(latent (B, 4, h, w), timestep) -> noise prediction (B, 4, h, w)``, guidance included."""


def ddim_sample(
    predict_noise: NoisePredictor,
    latent: Tensor,
    steps: int = 50,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Denoise ``latent`` (B, 4, h, w), drawn from a standard normal, along ``ddim_timesteps(steps)``.

    The last step goes to alphas_cumprod[0], not to 1. ``on_step(i, latent)`` is called after each step.
    Raises ValueError when ``steps`` is outside 1..999.
    """
    alphas = alphas_cumprod().double()
    timesteps = ddim_timesteps(steps)
    # Each timestep is followed by the next lower one, the last one by timestep 0.
    for index, (timestep, following) in enumerate(zip(timesteps, [*timesteps[1:], 0], strict=True)):
        alpha, alpha_next = float(alphas[timestep]), float(alphas[following])
        noise = predict_noise(latent, timestep)
        clean = (latent - (1.0 - alpha) ** 0.5 * noise) / alpha**0.5
        latent = alpha_next**0.5 * clean + (1.0 - alpha_next) ** 0.5 * noise
        if on_step is not None:
            on_step(index, latent)
    return latent


def guided(predictions: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance ``eps_u + scale (eps_c - eps_u)`` (Ho and Salimans 2022, arXiv 2207.12598).

    ``predictions`` (2B, 4, h, w) holds the conditional half first; the result is (B, 4, h, w).
    """
    conditional, unconditional = predictions.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """``(B, 3, H, W)`` in [-1, 1] -> ``(B, H, W, 3)`` uint8, clamped and rounded."""
    values = ((pixels.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round()
    return values.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
