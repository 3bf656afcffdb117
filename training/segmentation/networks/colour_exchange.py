"""SANet's colour exchange: giving an image the colours of another one."""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB to CIE XYZ relative to the white point D65 (IEC 61966-2-1; CIE 15 for L*a*b*).
_XYZ_OF_RGB = torch.tensor(
    [
        [0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883],
    ],
    dtype=torch.float64,
)
_RGB_OF_XYZ = torch.linalg.inv(_XYZ_OF_RGB)
_LAB_OF_ROOTS = torch.tensor([[0, 116, 0], [500, -500, 0], [0, 200, -200]], dtype=torch.float64)
_ROOTS_OF_LAB = torch.linalg.inv(_LAB_OF_ROOTS)
_LAB_OFFSET = torch.tensor([-16, 0, 0], dtype=torch.float64)[:, None, None]
_BEND = 6 / 29
_SMALLEST_DEVIATION = 1e-3


def exchange_colours(images: Tensor, references: Tensor) -> Tensor:
    """Give ``images`` the mean and deviation of every L*a*b* channel of ``references``, image by image.

    Inputs and result are (B, 3, H, W), sRGB in [0, 1]. Colours outside sRGB are clipped (the published code
    lets them wrap around). "Shallow Attention Network for Polyp Segmentation", section 2.1.
    """
    own, other = lab_of_rgb(images), lab_of_rgb(references)
    own_deviation, own_mean = torch.std_mean(own, dim=(2, 3), keepdim=True, correction=0)
    deviation, mean = torch.std_mean(other, dim=(2, 3), keepdim=True, correction=0)
    scaled = (own - own_mean) / own_deviation.clamp_min(_SMALLEST_DEVIATION)
    return rgb_of_lab(scaled * deviation + mean)


def lab_of_rgb(images: Tensor) -> Tensor:
    """Convert sRGB (B, 3, H, W) in [0, 1] to CIE L*a*b* with L* in 0..100."""
    linear = torch.where(images > 0.04045, ((images.clamp_min(0) + 0.055) / 1.055) ** 2.4, images / 12.92)
    xyz = _mixed(_XYZ_OF_RGB, linear)
    roots = torch.where(xyz > _BEND**3, xyz.clamp_min(_BEND**3) ** (1 / 3), xyz / (3 * _BEND**2) + 4 / 29)
    return _mixed(_LAB_OF_ROOTS, roots) + _LAB_OFFSET.to(images)


def rgb_of_lab(lab: Tensor) -> Tensor:
    """Convert CIE L*a*b* (B, 3, H, W) to sRGB, clipped to [0, 1]."""
    roots = _mixed(_ROOTS_OF_LAB, lab - _LAB_OFFSET.to(lab))
    xyz = torch.where(roots > _BEND, roots**3, 3 * _BEND**2 * (roots - 4 / 29))
    linear = _mixed(_RGB_OF_XYZ, xyz).clamp(0, 1)
    bright = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, bright, 12.92 * linear).clamp(0, 1)


def _mixed(matrix: Tensor, channels: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix.to(channels), channels)
