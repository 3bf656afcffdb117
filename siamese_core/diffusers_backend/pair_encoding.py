"""Encoding pairs for training by the VAE and the text encoder of a base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from .base_model import Base
from .prompt_encoding import encode_prompts


@dataclass(frozen=True)
class BaseEncoder:
    """The :class:`PairEncoder` of ``base``, on the device that its networks lie on."""

    base: Base

    def encode_images(self, images: Tensor) -> Tensor:
        return encode_moments(self.base.vae, images)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        return encode_prompts(self.base.text_encoder, self.base.tokenizer, prompts).cpu()


def vae_moments(vae: AutoencoderKL, pixels: Tensor) -> Any:
    """The diagonal Gaussian posterior of ``pixels`` (B, 3, H, W) in [-1, 1], unscaled."""
    return vae.encode(pixels).latent_dist


@torch.no_grad()
def encode_moments(vae: AutoencoderKL, images: Tensor, batch_size: int = 16) -> Tensor:
    """Posterior mean and standard deviation of uint8 ``images``: ``(N, 2, 4, R/8, R/8)``, unscaled."""
    rows = []
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, desc="encoding images", disable=len(starts) < 10, mininterval=1.0):
        pixels = images[start : start + batch_size].to(vae.device).float() / 127.5 - 1.0
        posterior = vae_moments(vae, pixels)
        rows.append(torch.stack([posterior.mean, posterior.std], dim=1).cpu())
    return torch.cat(rows)
