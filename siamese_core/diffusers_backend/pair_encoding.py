"""Encoding images and prompts with the VAE and text encoder of a base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..architecture import LATENT_SCALE
from .base_model import Base
from .prompt_encoding import encode_prompts


@dataclass(frozen=True)
class BaseEncoder:
    """The :class:`PairEncoder` of ``base``, running on the device of its networks."""

    base: Base

    def encode_images(self, images: Tensor) -> Tensor:
        return encode_moments(self.base.vae, images)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        return encode_prompts(self.base.text_encoder, self.base.tokenizer, prompts).cpu()


def vae_moments(vae: AutoencoderKL, pixels: Tensor) -> Any:
    """The VAE's diagonal Gaussian posterior for ``pixels`` (B, 3, H, W) in [-1, 1], unscaled."""
    return vae.encode(pixels).latent_dist


@torch.no_grad()
def encode_moments(vae: AutoencoderKL, images: Tensor, batch_size: int = 16) -> Tensor:
    """Posterior mean and standard deviation, unscaled ``(N, 2, 4, R/8, R/8)`` on the CPU.

    ``images`` are ``(N, 3, R, R)`` uint8.
    """
    rows = []
    starts = range(0, len(images), batch_size)
    for start in tqdm(starts, desc="encoding images", disable=len(starts) < 10, mininterval=1.0):
        pixels = images[start : start + batch_size].to(vae.device).float() / 127.5 - 1.0
        posterior = vae_moments(vae, pixels)
        rows.append(torch.stack([posterior.mean, posterior.std], dim=1).cpu())
    return torch.cat(rows)


@torch.no_grad()
def encode_frame(vae: AutoencoderKL, pixels: NDArray[np.uint8]) -> Tensor:
    """The scaled latent (1, 4, H/8, W/8) of an image (H, W, 3): the posterior mean, on ``vae``'s device.

    Computed in float32, since half precision may overflow; ``vae`` is cast back to its own dtype afterwards.
    """
    own = vae.dtype
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(vae.device).float() / 127.5 - 1.0
    vae.float()
    try:
        return vae_moments(vae, image).mean * LATENT_SCALE
    finally:
        nn.Module.to(vae, own)
