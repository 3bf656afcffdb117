"""SANet: "Shallow Attention Network for Polyp Segmentation" (Wei et al., MICCAI 2021, arXiv 2108.00882).

Its third part, the probability correction strategy, divides positive and negative logits by their share of
the pixels. It is left out, because it preserves signs and therefore masks at a threshold of 0.5, the only
ones that are scored here.
"""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batches import IMAGENET_MEAN, IMAGENET_STD, normalised
from .colour_exchange import exchange_colours
from .interface import SegmentationNetwork, check_sides
from .losses import bce_dice_loss

_WIDTH = 64
_BACKBONE = "res2net50d"  # Res2Net-50 v1b, 26w 4s
_WIDTHS = 512, 1024, 2048  # channels of the backbone's maps at strides 8, 16 and 32


class SANet(SegmentationNetwork):
    """Res2Net-50 whose shallow features are gated by the deeper ones; one output.

    The loss draws the colour exchange within the batch from PyTorch's global generator.
    """

    def __init__(self, *, pretrained: bool) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            _BACKBONE, pretrained=pretrained, features_only=True, out_indices=(2, 3, 4)
        )
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, _WIDTH, 1), nn.BatchNorm2d(_WIDTH), nn.ReLU(inplace=True))
            for width in _WIDTHS
        )
        self.predict = nn.Conv2d(3 * _WIDTH, 1, 1)
        for module in (*self.reduce.modules(), self.predict):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map of logits (B, 1, H, W)."""
        check_sides(images)
        features = [block(map_) for block, map_ in zip(self.reduce, self.backbone(images), strict=True)]
        shallow, middle, deep = (_resized(map_, features[0].shape[-2:]) for map_ in features)
        # Paper, equations 1 and 2: each map is gated by all deeper ones.
        gated = torch.cat([deep, middle * deep, shallow * middle * deep], dim=1)
        return (_resized(self.predict(gated), images.shape[-2:]),)

    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Cross-entropy plus Dice loss, with each image in the colours of a random image of the batch."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = (images * std + mean).clamp(0, 1)
        donors = torch.randperm(len(images), device=images.device)
        (logits,) = self(normalised(exchange_colours(pixels, pixels[donors])))
        return bce_dice_loss(logits, masks)


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
