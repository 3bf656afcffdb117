"""CTNet: "Contrastive Transformer Network for Polyp Segmentation" (Xiao et al., IEEE T. Cybernetics, 2024).

Where paper and published code differ, this follows the code: all three maps share one self-multiscale
interaction module, and the collection information module uses one upsampling block in three places. One bug
is not reproduced: the published contrastive loss takes an argmax over a single channel as the prediction, so
that every lesion pixel counts as misclassified.
"""

from __future__ import annotations

import torch.nn.functional as F
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from .interface import SegmentationNetwork, check_sides, conv_bn
from .losses import pixel_contrast_loss, structure_loss

_WIDTH = 32
_BACKBONE = "mit_b3"
_WIDTHS = 64, 128, 320, 512  # channels of the backbone's maps at strides 4, 8, 16 and 32
_CONTRAST_WEIGHT = 0.1


class CTNet(SegmentationNetwork):
    """MiT-B3 with a self-multiscale interaction (SMIM) and a collection information module (CIM); one output.

    The loss draws the contrasted pixels from PyTorch's global generator.
    """

    def __init__(self, *, pretrained: bool) -> None:
        super().__init__()
        self.backbone = get_encoder(_BACKBONE, weights="imagenet" if pretrained else None)
        self.reduce = nn.ModuleList(conv_bn(width, _WIDTH, 1) for width in _WIDTHS)
        self.embed = EmbeddingHead(_WIDTH)
        self.interaction = MultiscaleInteraction(_WIDTH)
        self.collection = InformationCollection(_WIDTH)
        self.to_stride4 = upsampling(_WIDTH)
        self.predict = nn.Sequential(conv_bn(_WIDTH, _WIDTH, 3), nn.Conv2d(_WIDTH, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map of logits (B, 1, H, W)."""
        return (self._logits(self._features(images)),)

    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Structure loss plus a tenth of the pixel contrast loss on embeddings of the deepest map."""
        features = self._features(images)
        logits = self._logits(features)
        contrast = pixel_contrast_loss(self.embed(features[-1]), logits, masks)
        return structure_loss(logits, masks) + _CONTRAST_WEIGHT * contrast

    def _features(self, images: Tensor) -> list[Tensor]:
        """Four feature maps (B, 32, H/s, W/s) at strides s = 4, 8, 16, 32."""
        check_sides(images)
        return [block(map_) for block, map_ in zip(self.reduce, self.backbone(images)[2:], strict=True)]

    def _logits(self, features: list[Tensor]) -> Tensor:
        stride4, *deeper = features
        # The deepest map goes first, as published, since the order affects the shared running statistics.
        stride32, stride16, stride8 = (self.interaction(map_) for map_ in reversed(deeper))
        collected = self.collection(stride8, stride16, stride32)
        logits = self.predict(stride4 + self.to_stride4(collected))
        return F.interpolate(logits, scale_factor=4, mode="bilinear")


class EmbeddingHead(nn.Sequential):
    """Maps the deepest features (B, C, H/32, W/32) to unit-length embeddings (B, C, H/4, W/4)."""

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.ConvTranspose2d(width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(width, width, 1))

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(super().forward(features), dim=1)


class MultiscaleInteraction(nn.Module):
    """SMIM: a map (B, C, H, W) interacts with its half-size version, twice, plus a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def convolution() -> nn.Conv2d:
            return nn.Conv2d(width, width, 3, padding=1)

        self.high_1, self.low_1 = convolution(), convolution()
        self.high_2, self.low_2, self.down_2, self.up_2 = (convolution() for _ in range(4))
        self.high_3, self.up_3 = convolution(), convolution()
        self.norm_high = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))
        self.norm_low = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        high = self.norm_high[0](self.high_1(features)).relu()
        low = self.norm_low[0](self.low_1(_halved(features))).relu()
        high, low = (
            self.norm_high[1](self.high_2(high) + self.up_2(_enlarged(low, high))).relu(),
            self.norm_low[1](self.low_2(low) + self.down_2(_halved(high))).relu(),
        )
        high = self.norm_high[2](self.high_3(high) + self.up_3(_enlarged(low, high))).relu()
        return features + high


class InformationCollection(nn.Module):
    """CIM: combines three maps (B, C, H, W) at their strides, by gating each other, into one at stride 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = upsampling(width)

    def forward(self, stride8: Tensor, stride16: Tensor, stride32: Tensor) -> Tensor:
        middle = self.up(stride32) * stride16 + stride16
        shallow = self.up(stride16) * stride8 + stride8
        return self.up(middle) * shallow + shallow


def upsampling(width: int) -> nn.Sequential:
    """A learnt upsampling from (B, C, H, W) to (B, C, 2H, 2W)."""
    return nn.Sequential(nn.ConvTranspose2d(width, width, 4, 2, 1), conv_bn(width, width, 3))


def _halved(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 2)


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear")
