"""Constants that the published implementation stores beside its weights and requires when loading."""

from __future__ import annotations

import torch
from torch import Tensor

from ..method.noise_schedule import BETA_END, BETA_START, TRAIN_TIMESTEPS
from .key_layouts import POSITION_IDS, PREFIXES


def schedule_buffers() -> dict[str, Tensor]:
    """The buffers of latent diffusion's noise schedule, by key: thirteen float32 tensors ``(1000,)``.

    Computed in float64 like ``DDPM.register_schedule`` of CompVis/latent-diffusion with ``v_posterior`` 0 and
    no learnt variance.
    """
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    alphas = 1.0 - betas
    product = torch.cumprod(alphas, dim=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    variance = betas * (1.0 - before) / (1.0 - product)
    exact = {
        "betas": betas,
        "alphas_cumprod": product,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": product.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1.0 - product).sqrt(),
        "log_one_minus_alphas_cumprod": (1.0 - product).log(),
        "sqrt_recip_alphas_cumprod": (1.0 / product).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1.0 / product - 1.0).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1.0 - product),
        "posterior_mean_coef2": (1.0 - before) * alphas.sqrt() / (1.0 - product),
        "logvar": torch.zeros(TRAIN_TIMESTEPS, dtype=torch.float64),
    }
    return {name: value.float() for name, value in exact.items()}


def position_ids(max_tokens: int) -> dict[str, Tensor]:
    """CLIP's position ids, ``(1, max_tokens)`` int64, by key."""
    return {PREFIXES["text"] + POSITION_IDS: torch.arange(max_tokens)[None]}
