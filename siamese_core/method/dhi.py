"""Hint blocks: Dense Hint Input (paper, section 3.3) and the sparse block that it replaces.

Both map a hint ``(B, 3, H, W)`` in [0, 1] to ``(B, model_channels, H/8, W/8)``. Their layers come from the
``operations`` argument (``torch.nn`` in training, ComfyUI's layer classes inside the host), so both use one
definition. Attribute names match the published checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..seeds import generator, stream_seed

STAGE_CHANNELS = (16, 32, 64, 128, 256)
SPARSE_CHANNELS = (16, 32, 96, 256)


class ResidualBlock(nn.Module):
    """``SiLU(x + conv3x3(SiLU(conv3x3(x))))``, ``(B, C, H, W)`` in and out."""

    def __init__(self, channels: int, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1, **factory)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(nn.functional.silu(self.conv1(x)))
        return nn.functional.silu(x + residual)


class PatchMerging(nn.Module):
    """Halve the resolution: ``(B, C, H, W)`` -> ``(B, 2C, H/2, W/2)`` for even H and W.

    Each 2x2 neighbourhood is concatenated in (row, column) order (0,0), (1,0), (0,1), (1,1), layer-normalised
    over the 4C channels and projected to 2C.
    """

    def __init__(self, channels: int, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(4 * channels, **factory)
        self.reduction = operations.Linear(4 * channels, 2 * channels, **factory)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        merged = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
        return self.reduction(self.norm(merged)).permute(0, 3, 1, 2)


class DHI(nn.Module):
    """Dense Hint Input trunk: ``(B, 3, H, W)`` in [0, 1] -> ``(B, 256, H/8, W/8)``.

    H and W must be multiples of 8. 3.26 M parameters with the final convolution at SD 1.5 width.
    """

    def __init__(self, operations: Any = nn, hint_channels: int = 3, **factory: Any) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = STAGE_CHANNELS
        self.initial_conv = operations.Conv2d(hint_channels, c1, 3, padding=1, **factory)
        self.layer1 = ResidualBlock(c1, operations, **factory)
        self.conv_before_res2 = operations.Conv2d(c1, c2, 3, padding=1, **factory)
        self.layer2 = ResidualBlock(c2, operations, **factory)
        self.patch_merge1 = PatchMerging(c2, operations, **factory)
        self.conv_before_res3 = operations.Conv2d(c3, c3, 3, padding=1, **factory)
        self.layer3 = ResidualBlock(c3, operations, **factory)
        self.patch_merge2 = PatchMerging(c3, operations, **factory)
        self.conv_before_res4 = operations.Conv2d(c4, c4, 3, padding=1, **factory)
        self.layer4 = ResidualBlock(c4, operations, **factory)
        self.patch_merge3 = PatchMerging(c4, operations, **factory)
        self.conv_before_res5 = operations.Conv2d(c5, c5, 3, padding=1, **factory)
        self.layer5 = ResidualBlock(c5, operations, **factory)

    def forward(self, hint: Tensor) -> Tensor:
        x = self.layer1(self.initial_conv(hint))
        x = self.layer2(self.conv_before_res2(x))
        x = self.layer3(self.conv_before_res3(self.patch_merge1(x)))
        x = self.layer4(self.conv_before_res4(self.patch_merge2(x)))
        return self.layer5(self.conv_before_res5(self.patch_merge3(x)))


def dense_hint_block(
    model_channels: int, operations: Any = nn, hint_channels: int = 3, **factory: Any
) -> list[nn.Module]:
    """The modules of ``input_hint_block`` with DHI: the trunk, then a zero convolution to ``model_channels``.

    Hints are (B, ``hint_channels``, H, W) with H and W multiples of 8.
    """
    out = operations.Conv2d(STAGE_CHANNELS[-1], model_channels, 3, padding=1, **factory)
    return [DHI(operations, hint_channels, **factory), zero_module(out)]


def sparse_hint_block(
    model_channels: int, operations: Any = nn, hint_channels: int = 3, **factory: Any
) -> list[nn.Module]:
    """The modules of the original ControlNet ``input_hint_block``, for the paper's ablation (Table 5)."""
    c1, c2, c3, c4 = SPARSE_CHANNELS
    plan = [
        (hint_channels, c1, 1),
        (c1, c1, 1),
        (c1, c2, 2),
        (c2, c2, 1),
        (c2, c3, 2),
        (c3, c3, 1),
        (c3, c4, 2),
    ]
    modules: list[nn.Module] = []
    for fan_in, fan_out, stride in plan:
        modules += [operations.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, **factory), nn.SiLU()]
    out = operations.Conv2d(c4, model_channels, 3, padding=1, **factory)
    return [*modules, zero_module(out)]


def zero_module(module: nn.Module) -> nn.Module:
    """Set every parameter of ``module`` to zero and return it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


@torch.no_grad()
def draw_hint_block(block: nn.Module, seed: int) -> None:
    """Initialise a hint block in place from a random stream of ``seed`` used for nothing else.

    The distribution is torch's default: uniform within +-1 / sqrt(fan-in), layer norms with weight 1 and
    bias 0. The last convolution is zeroed. A seed gives the same weights for any layer classes.
    """
    rng = generator(stream_seed(seed, "hint block"))
    *layers, last = [
        layer for layer in block.modules() if isinstance(layer, nn.Conv2d | nn.Linear | nn.LayerNorm)
    ]
    for layer in layers:
        if isinstance(layer, nn.LayerNorm):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
            continue
        bound = layer.weight[0].numel() ** -0.5
        for parameter in layer.parameters():
            drawn = torch.rand(parameter.shape, generator=rng)
            parameter.copy_(bound * (2.0 * drawn - 1.0))
    zero_module(last)
