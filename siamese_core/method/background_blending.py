"""Sampling into a real frame: blend weights, and latents that are kept from the frame while sampling.

The mask and a rim around it are generated; every other pixel is taken from the frame.
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
"""Width of the rim in pixels: one latent pixel."""
MOST_BLEND = 256

_mean_inside: Pool = partial(avg_pool2d, count_include_pad=False)
"""Padding is not counted, or a mask that touches the border would fade there."""


def blend_weights(mask: Tensor, blend: int) -> Tensor:
    """The generated share of each pixel, (B, H, W) float32 in 0..1, for a bool ``mask`` (B, H, W).

    It is 1 inside the mask and 0 farther than ``blend`` pixels from it (Chebyshev distance): the mask is
    grown by half of ``blend`` and feathered over the other half.
    """
    feather = blend // 2
    grown = _over_squares(max_pool2d, mask.float(), blend - feather)
    return _over_squares(_mean_inside, grown, feather)


def generated_latents(weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Latent pixels that cover any generated pixel, bool (B, 1, h, w), for a latent of ``size`` (h, w).

    ``weights`` (B, H, W) come from :func:`blend_weights`; H and W need not be multiples of h and w.
    """
    return adaptive_max_pool2d(weights[:, None], size) > 0


@dataclass(frozen=True)
class KeptLatents:
    """Latents of frames, (B, 4, h, w), kept wherever ``generated``, bool (B, 1, h, w), is False.

    :meth:`around` needs scaled latents.
    """

    latents: Tensor
    generated: Tensor

    def around(self, predict_noise: NoisePredictor) -> NoisePredictor:
        """Wrap ``predict_noise``: outside ``generated``, return the noise that leads to the frame's latents.

        That noise is computed from the current latent, not drawn, so a sample does not depend on its batch.
        """
        alphas = alphas_cumprod().double()

        def predict(latent: Tensor, timestep: int) -> Tensor:
            alpha = float(alphas[timestep])
            leading = (latent - alpha**0.5 * self.latents) / (1.0 - alpha) ** 0.5
            return torch.where(self.generated, predict_noise(latent, timestep), leading)

        return predict

    def restored_in(self, latents: Tensor) -> Tensor:
        """Sampled ``latents`` (B, 4, h, w) with the frame's exact ones outside ``generated``.

        Needed because most samplers stop at a low noise level, not at zero.
        """
        return torch.where(self.generated, latents, self.latents)


def over_frame(image: Tensor, frame: Tensor, weights: Tensor) -> Tensor:
    """Blend ``image`` over ``frame``, both (..., H, W, 3) of one dtype, by ``weights`` (..., H, W) in 0..1.

    Where a weight is 0 the result is exactly the frame. Integer images are rounded.
    """
    share = weights[..., None]
    mixed = share * image + (1.0 - share) * frame
    if not image.is_floating_point():
        mixed = mixed.round().to(image.dtype)
    return torch.where(share > 0, mixed, frame)


def _over_squares(pool: Pool, planes: Tensor, radius: int) -> Tensor:
    """Pool (B, H, W) over squares of side 2 * ``radius`` + 1, separably: along columns, then rows."""
    side = 2 * radius + 1
    along_columns = pool(planes[:, None], (side, 1), 1, (radius, 0))
    return pool(along_columns, (1, side), 1, (0, radius))[:, 0]
