"""What every segmentation network here offers, whatever it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

STRIDE = 32
"""Of the coarsest feature map of every network: the sides of an image must be multiples of it."""

SMALLEST_SIDE = 2 * STRIDE  # CTNet pools its coarsest map once more


class SegmentationNetwork(nn.Module, ABC):
    """A network that marks one foreground class in images normalised by ImageNet's mean and deviation.

    ``network(images)`` takes (B, 3, H, W), sides multiples of 32 and at least 64, and returns logits
    (B, 1, H, W). There may be several; **the last one is the prediction**, in training as in evaluation.
    Modules draw from PyTorch's global generators (dropout, stochastic depth, and where a class says so the
    loss): seed a fork of them around training for reproducible runs.
    """

    stride = STRIDE
    backbone: nn.Module

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, 1, H, W), the prediction last. Raises ValueError for sides that do not fit."""

    @abstractmethod
    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """The loss (0-d) the network is published with, for masks (B, 1, H, W) of 0 and 1."""

    def backbone_names(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """``state``, the weights of a published backbone, under the names that ``self.backbone`` has."""
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
    """Convolution that keeps the size, without bias, and batch normalisation; no activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )
