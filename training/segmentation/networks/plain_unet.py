"""The original U-Net: "Convolutional Networks for Biomedical Image Segmentation" (MICCAI 2015).

Widths, two convolutions per level and learnt upsampling are those of Ronneberger et al. (arXiv 1505.04597,
Fig. 1). As in today's U-Nets, convolutions are padded, so that the output has the size of the image, and
followed by batch normalisation.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .interface import SegmentationNetwork, check_sides, conv_bn
from .losses import bce_dice_loss

_WIDTHS = 64, 128, 256, 512, 1024  # channels of the feature maps at strides 1, 2, 4, 8 and 16


class PlainUNet(SegmentationNetwork):
    """Five levels down, four up, without a pretrained backbone; cross-entropy plus Dice loss, one output."""

    backbone: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleList(_two_convolutions(*widths) for widths in pairwise((3, *_WIDTHS)))
        upward = list(pairwise(reversed(_WIDTHS)))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(*widths, 2, stride=2) for widths in upward)
        self.expand = nn.ModuleList(_two_convolutions(*widths) for widths in upward)
        self.predict = nn.Conv2d(_WIDTHS[0], 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map of logits (B, 1, H, W)."""
        check_sides(images)
        features = images
        skipped: list[Tensor] = []
        for level, block in enumerate(self.backbone):
            features = block(F.max_pool2d(features, 2) if level else features)
            skipped.append(features)
        skipped.pop()
        for enlarge, block in zip(self.enlarge, self.expand, strict=True):
            features = block(torch.cat([skipped.pop(), enlarge(features)], dim=1))
        return (self.predict(features),)

    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Cross-entropy plus Dice loss."""
        (logits,) = self(images)
        return bce_dice_loss(logits, masks)


def _two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        conv_bn(inputs, outputs, 3),
        nn.ReLU(inplace=True),
        conv_bn(outputs, outputs, 3),
        nn.ReLU(inplace=True),
    )
