"""Images from latents, in parts where memory is short and in float32 where another format overflows."""

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
    """Images that hold values which are no numbers, even when decoded in float32."""


@torch.no_grad()
def decode_images(vae: Any, latents: Tensor, on_overflow: Callable[[], None]) -> NDArray[np.uint8]:
    """The images (B, H, W, 3) of ``latents`` (B, 4, H/8, W/8), scaled, by a diffusers ``vae`` of any dtype.

    Where its own dtype gives values that are not finite they are decoded again in float32, and
    ``on_overflow`` called. Raises NotFiniteError where that does not help: the latents are to blame.
    """
    latents = latents / LATENT_SCALE
    pixels = _in_parts(vae, latents)
    if not pixels.isfinite().all() and vae.dtype != torch.float32:
        own = vae.dtype
        on_overflow()
        vae.float()
        pixels = _in_parts(vae, latents)
        nn.Module.to(vae, own)
    if not pixels.isfinite().all():
        raise NotFiniteError(
            "the sampled latents are not finite, and no image was written of them; use --precision bf16 or "
            "fp32, and a new folder; if it is fp32 already, the model's weights have diverged"
        )
    return to_uint8(pixels)


def _in_parts(vae: Any, latents: Tensor) -> Tensor:
    """``latents`` decoded at once or, where memory does not suffice, half by half."""
    try:
        return vae.decode(latents.to(vae.dtype)).sample
    except RuntimeError as error:
        if len(latents) == 1 or not should_reduce_batch_size(error):
            raise
    return torch.cat([_in_parts(vae, part) for part in latents.chunk(2)])
