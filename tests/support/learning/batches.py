"""Networks small enough for the objective, and batches for them."""

from __future__ import annotations

from dataclasses import replace

import torch

from siamese_core.method.objective import (
    TrainingBatch,
)
from tests.support.small_models import ARCHITECTURE

# Two levels allow for 2 x 2 latents: the objective does not care how deep the networks are.
DENSE = replace(ARCHITECTURE, unet=replace(ARCHITECTURE.unet, widths=(32, 64), layers_per_block=1))
SPARSE = replace(DENSE, hint_block="sparse")


def make_batch(
    timesteps: tuple[int, ...], side: int = 2, dtype: torch.dtype = torch.float32
) -> TrainingBatch:
    rng = torch.Generator().manual_seed(1)
    count = len(timesteps)
    hints = torch.rand((2, count, 3, 8 * side, 8 * side), generator=rng, dtype=dtype)
    latents = torch.randn((2, count, 4, side, side), generator=rng, dtype=dtype)
    return TrainingBatch(
        latent=latents[0],
        noise=latents[1],
        timesteps=torch.tensor(timesteps),
        context=torch.randn((count, 5, 32), generator=rng, dtype=dtype),
        mask_hint=(hints[0] > 0.5).to(dtype),
        image_hint=hints[1],
    )
