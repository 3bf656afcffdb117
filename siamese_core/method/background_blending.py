"""A real frame around what is generated: where it shows, and latents that stay the frame's in sampling.

Within the mask and a rim around it the image is generated; everywhere else it is the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, avg_pool2d, max_pool2d

from .ddim import NoisePredictor
from .noise_schedule import alphas_cumprod

Pool = Callable[[Tensor, tuple[int, int], int, tuple[int, int]], Tensor]
"""``(planes (B, 1, H, W), kernel, stride, padding) -> (B, 1, H, W)``."""

DEFAULT_BLEND = 8
"""Width of the rim in pixels: that of one latent."""
MOST_BLEND = 256

_mean_inside: Pool = partial(avg_pool2d, count_include_pad=False)
"""Without the zeros beyond the border, or a mask that touches it would fade there."""


def blend_weights(mask: Tensor, blend: int) -> Tensor:
    """How much of a pixel is generated, (B, H, W) float32 in 0..1, of bool ``mask`` (B, H, W).

    All of it in the mask, none more than ``blend`` pixels away from it, counted along rows and columns alike:
    the mask is grown by one half of ``blend``, and feathered over the other.
    """
    feather = blend // 2
    grown = _over_squares(max_pool2d, mask.float(), blend - feather)
    return _over_squares(_mean_inside, grown, feather)


def generated_latents(weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Which of the latents (h, w) of ``size`` are generated, bool (B, 1, h, w): those with any such pixel.

    ``weights`` (B, H, W) are those of the image, whose sides need not be multiples of the latents'.
    """
    return adaptive_max_pool2d(weights[:, None], size) > 0


@dataclass(frozen=True)
class KeptLatents:
    """The latents of frames (B, 4, h, w), scaled, which stay outside of ``generated`` (B, 1, h, w) bool."""

    latents: Tensor
    generated: Tensor

    def around(self, predict_noise: NoisePredictor) -> NoisePredictor:
        """``predict_noise`` where latents are generated; elsewhere the noise that leads to the frames'.

        Nothing is drawn anew, so that no sample depends on its batch: the frame's latents are seen under the
        noise that the sample has begun with.
        """
        alphas = alphas_cumprod().double()

        def predict(latent: Tensor, timestep: int) -> Tensor:
            alpha = float(alphas[timestep])
            leading = (latent - alpha**0.5 * self.latents) / (1.0 - alpha) ** 0.5
            return torch.where(self.generated, predict_noise(latent, timestep), leading)

        return predict

    def restored_in(self, latents: Tensor) -> Tensor:
        """``latents`` that were sampled, with the frames' own: samplers end at a low noise, not at none."""
        return torch.where(self.generated, latents, self.latents)


def over_frame(image: Tensor, frame: Tensor, weights: Tensor) -> Tensor:
    """``image`` over ``frame``, both (..., H, W, 3) of one type; exactly the frame where ``weights`` are 0.

    ``weights`` (..., H, W) as of :func:`blend_weights`. Integers are rounded.
    """
    share = weights[..., None]
    mixed = share * image + (1.0 - share) * frame
    if not image.is_floating_point():
        mixed = mixed.round().to(image.dtype)
    return torch.where(share > 0, mixed, frame)


def _over_squares(pool: Pool, planes: Tensor, radius: int) -> Tensor:
    """``pool`` of each pixel's square of 2 * ``radius`` + 1, of (B, H, W): first along columns, then rows."""
    side = 2 * radius + 1
    along_columns = pool(planes[:, None], (side, 1), 1, (radius, 0))
    return pool(along_columns, (1, side), 1, (0, radius))[:, 0]
