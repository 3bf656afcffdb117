"""The common interface of the segmentation networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

STRIDE = 32
"""Stride of the coarsest feature map; image sides must be multiples of it."""

SMALLEST_SIDE = 2 * STRIDE  # because CTNet pools its coarsest map once more


class SegmentationNetwork(nn.Module, ABC):
    """A network that segments one foreground class in images normalised by ImageNet's mean and deviation.

    ``network(images)`` takes (B, 3, H, W) with sides that are multiples of 32 and at least 64, and returns
    one or more logits (B, 1, H, W), **of which the last is the prediction**, in training and in evaluation.
    Dropout, stochastic depth and some losses draw from PyTorch's global generators; for reproducible
    training, seed a fork of them.
    """

    backbone: nn.Module

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, 1, H, W), the prediction last. Raises ValueError for invalid image sides."""

    @abstractmethod
    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """The network's published loss (0-d) for masks (B, 1, H, W) of 0 and 1."""

    def backbone_names(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """``state``, the weights of a published backbone, renamed to the keys of ``self.backbone``."""
        return state


def check_sides(images: Tensor) -> None:
    """Raise ValueError unless the sides of ``images`` (B, 3, H, W) are multiples of 32 and at least 64."""
    height, width = images.shape[-2:]
    if height % STRIDE or width % STRIDE or min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"segmentation networks take images whose sides are multiples of {STRIDE} and at least "
            f"{SMALLEST_SIDE}, not {width}x{height}: resize or pad them"
        )


def conv_bn(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A same-size convolution without bias, then batch normalisation; no activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )
