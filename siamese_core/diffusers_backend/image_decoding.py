"""Decoding latents to images, in smaller batches when memory is short and in float32 after an overflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray
from torch import Tensor, nn

from ..architecture import LATENT_SCALE
from ..errors import UserError
from ..method.ddim import to_uint8


class NotFiniteError(UserError):
    """Decoded images contain non-finite values even in float32."""


@torch.no_grad()
def decode_images(vae: Any, latents: Tensor, on_overflow: Callable[[], None]) -> NDArray[np.uint8]:
    """Decode scaled ``latents`` (B, 4, H/8, W/8) to images (B, H, W, 3) uint8 with a diffusers ``vae``.

    If the VAE's dtype gives non-finite values, ``on_overflow`` is called and the batch decoded again in
    float32. Raises NotFiniteError when the values are still not finite, because then the latents are not.
    """
    latents = latents / LATENT_SCALE
    pixels = _in_parts(vae, latents)
    if not pixels.isfinite().all() and vae.dtype != torch.float32:
        own = vae.dtype
        on_overflow()
        vae.float()
        try:
            pixels = _in_parts(vae, latents)
        finally:  # out of memory: the next, smaller batch is decoded like all others
            nn.Module.to(vae, own)
    if not pixels.isfinite().all():
        raise NotFiniteError(
            "the sampled latents are not finite, and no image was written of them; use --precision bf16 or "
            "fp32, and a new folder; if it is fp32 already, the model's weights have diverged"
        )
    return to_uint8(pixels)


def _in_parts(vae: Any, latents: Tensor) -> Tensor:
    """Decode ``latents`` (B, 4, h, w) in one batch, or in halves (recursively) when memory runs out."""
    try:
        return vae.decode(latents.to(vae.dtype)).sample
    except RuntimeError as error:
        if len(latents) == 1 or not should_reduce_batch_size(error):
            raise
    return torch.cat([_in_parts(vae, part) for part in latents.chunk(2)])
