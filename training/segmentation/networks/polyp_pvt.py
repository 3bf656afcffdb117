"""Polyp-PVT: "Polyp Segmentation with Pyramid Vision Transformers" (Dong et al., 2021, arXiv 2108.06932).

Where paper and published code differ (convolution blocks have no final activation), this follows the code.
"""

from __future__ import annotations

from collections.abc import Mapping

import timm
import torch
import torch.nn.functional as F
from timm.models.pvt_v2 import checkpoint_filter_fn
from torch import Tensor, nn

from .interface import SegmentationNetwork, check_sides, conv_bn
from .losses import structure_loss

_WIDTH = 32
_BACKBONE = "pvt_v2_b2"
_WIDTHS = 64, 128, 320, 512  # channels of the backbone's maps at strides 4, 8, 16 and 32
_STOCHASTIC_DEPTH = 0.1


class PolypPVT(SegmentationNetwork):
    """PVTv2-B2 with cascaded fusion (CFM), camouflage identification (CIM) and similarity aggregation (SAM).

    Outputs: the logits of the fused features, those of the aggregated features, and their sum, which is the
    prediction.
    """

    def __init__(self, *, pretrained: bool) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            _BACKBONE, pretrained=pretrained, features_only=True, drop_path_rate=_STOCHASTIC_DEPTH
        )
        self.camouflage = CamouflageIdentification(_WIDTHS[0])
        self.reduce_low = conv_bn(_WIDTHS[0], _WIDTH, 1)
        self.reduce_high = nn.ModuleList(conv_bn(width, _WIDTH, 1) for width in _WIDTHS[1:])
        self.fusion = CascadedFusion(_WIDTH)
        self.aggregation = SimilarityAggregation(_WIDTH)
        self.predict_fused = nn.Conv2d(_WIDTH, 1, 1)
        self.predict_aggregated = nn.Conv2d(_WIDTH, 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Three maps of logits (B, 1, H, W)."""
        check_sides(images)
        low, *high = self.backbone(images)
        stride8, stride16, stride32 = (
            block(map_) for block, map_ in zip(self.reduce_high, high, strict=True)
        )
        fused = self.fusion(stride8, stride16, stride32)
        detail = self.reduce_low(self.camouflage(low))
        aggregated = self.aggregation(fused, _scaled(detail, 0.5))
        first = F.interpolate(self.predict_fused(fused), scale_factor=8, mode="bilinear")
        second = F.interpolate(self.predict_aggregated(aggregated), scale_factor=8, mode="bilinear")
        return first, second, first + second

    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """The structure losses of the two outputs, summed."""
        first, second, _ = self(images)
        return structure_loss(first, masks) + structure_loss(second, masks)

    def backbone_names(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """``state`` of the authors or of timm, with keys renamed to those of timm's feature backbone."""
        renamed = checkpoint_filter_fn(dict(state), self.backbone)
        return {name.replace("stages.", "stages_", 1): tensor for name, tensor in renamed.items()}


class CascadedFusion(nn.Module):
    """CFM: combines the three deep maps (B, C, H, W) at their strides into one at stride 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep_on_middle, self.deep_on_shallow, self.middle_on_shallow, self.deep_beside = (
            conv_bn(width, width, 3) for _ in range(4)
        )
        self.middle = conv_bn(2 * width, 2 * width, 3)
        self.middle_beside = conv_bn(2 * width, 2 * width, 3)
        self.shallow = conv_bn(3 * width, 3 * width, 3)
        self.out = conv_bn(3 * width, width, 3)

    def forward(self, shallow: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        deep_up, middle_up = _doubled(deep), _doubled(middle)
        gated_middle = self.deep_on_middle(deep_up) * middle
        gated_shallow = self.deep_on_shallow(_doubled(deep_up)) * self.middle_on_shallow(middle_up) * shallow
        middle = self.middle(torch.cat([gated_middle, self.deep_beside(deep_up)], dim=1))
        beside = self.middle_beside(_doubled(middle))
        fused: Tensor = self.out(self.shallow(torch.cat([gated_shallow, beside], dim=1)))
        return fused


class CamouflageIdentification(nn.Module):
    """CIM: applies channel attention, then spatial attention to the shallowest map (B, C, H, W)."""

    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        self.channels = nn.Sequential(
            nn.Conv2d(width, width // reduction, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(width // reduction, width, 1, bias=False),
        )
        self.places = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        mean, largest = features.mean((2, 3), keepdim=True), features.amax((2, 3), keepdim=True)
        features = features * (self.channels(mean) + self.channels(largest)).sigmoid()
        mean, largest = features.mean(1, keepdim=True), features.amax(1, keepdim=True)
        return features * self.places(torch.cat([mean, largest], dim=1)).sigmoid()


class SimilarityAggregation(nn.Module):
    """SAM: lets the pixels of ``features`` (B, C, H, W) exchange information through 16 graph nodes.

    The nodes are a 4 x 4 grid of the features, weighted by attention computed from ``detail`` (B, C, H, W).
    """

    def __init__(self, width: int, node_width: int = 16, grid: int = 4) -> None:
        super().__init__()
        self.grid = grid
        self.state = nn.Conv2d(width, node_width, 1)
        self.projection = nn.Conv2d(width, node_width, 1)
        self.between_nodes = nn.Conv1d(grid**2, grid**2, 1)
        self.between_states = nn.Conv1d(node_width, node_width, 1, bias=False)
        self.extend = nn.Conv2d(node_width, width, 1, bias=False)

    def forward(self, features: Tensor, detail: Tensor) -> Tensor:
        attention = detail.softmax(dim=1)[:, 1:2]
        projected = self.projection(features)
        # The border of the pooled grid is dropped.
        pooled = F.adaptive_avg_pool2d(projected * attention, self.grid + 2)[:, :, 1:-1, 1:-1]
        similarity = pooled.flatten(2).transpose(1, 2) @ projected.flatten(2)
        assignment = similarity.softmax(dim=1)  # (B, nodes, H W)
        nodes = self.state(features).flatten(2) @ assignment.transpose(1, 2)  # (B, node width, nodes)
        related = self.between_nodes(nodes.transpose(1, 2)).transpose(1, 2) - nodes
        states = self.between_states(related).relu() @ assignment
        return features + self.extend(states.unflatten(2, features.shape[-2:]))


def _doubled(maps: Tensor) -> Tensor:
    return _scaled(maps, 2)


def _scaled(maps: Tensor, factor: float) -> Tensor:
    return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=True)
