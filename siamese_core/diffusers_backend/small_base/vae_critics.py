"""Perceptual and adversarial losses for VAE training.

With pixel losses alone a small decoder paints blurred images: where it cannot know the texture, the mean of
all plausible ones has the lowest loss. A distance of deep features (Zhang et al. 2018, arXiv 1801.03924) and
a patch discriminator (Isola et al. 2017, arXiv 1611.07004; hinge loss) penalise that mean more than an
invented texture, as in the VAE of latent diffusion (Rombach et al. 2022, arXiv 2112.10752, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import spectral_norm

FeatureMaps = Callable[[Tensor], Sequence[Tensor]]
"""Images (B, 3, H, W) in [-1, 1] -> feature maps (B, C, h, w) of several layers."""


def feature_distance(features: FeatureMaps, images: Tensor, originals: Tensor) -> Tensor:
    """Perceptual distance (0-d) between ``images`` and ``originals``, both (B, 3, H, W) in [-1, 1].

    Feature vectors are normalised to length 1 at each pixel; squared differences are summed over channels,
    averaged over pixels and summed over layers. Gradients flow to ``images`` only.
    """
    with torch.no_grad():
        wanted = [_unit(maps) for maps in features(originals)]
    found = [_unit(maps) for maps in features(images)]
    distances = [(a - b).square().sum(dim=1).mean() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(distances).sum()


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()


class PatchDiscriminator(nn.Sequential):
    """Images (B, 3, H, W) in [-1, 1] -> logits (B, 1, H/4, W/4), one per patch; positive means real.

    Uses spectral normalisation (Miyato et al. 2018, arXiv 1802.05957), because normalisation layers could
    tell real from generated images by the statistics of a small batch.
    """

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for out, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
            layers += [spectral_norm(nn.Conv2d(channels, out, 4 if stride == 2 else 3, stride, 1))]
            layers += [nn.LeakyReLU(0.2)]
            channels = out
        layers += [spectral_norm(nn.Conv2d(channels, 1, 3, 1, 1))]
        super().__init__(*layers)


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss (0-d) of the discriminator, from its logits for ``real`` and ``made`` images."""
    return 0.5 * (relu(1.0 - real).mean() + relu(1.0 + made).mean())


def adversarial_loss(made: Tensor) -> Tensor:
    """Adversarial loss (0-d) of the decoder, from the discriminator's logits for ``made`` images."""
    return -made.mean()
