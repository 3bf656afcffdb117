"""Initialising a small UNet to copy its input.

At high timesteps a noisy latent is almost pure noise, so the best noise prediction is nearly the latent
itself. With 32 normalisation groups a narrow UNet is normalised almost channel by channel and takes thousands
of steps to learn to copy. Initialised to copy from the start, it only has to learn the image content of the
latent.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

NARROWEST = 64
"""Minimum first width of the UNet in channels: two channels per normalisation group."""


@torch.no_grad()
def start_from_identity(unet: UNet2DConditionModel) -> None:
    """Make ``unet``, in place, return its input divided by each channel's root mean square.

    Input channel c is carried as the pair (z, -z) in channels 2c and 2c + 1 through the first skip
    connection, the last block's shortcut and the last normalisation. A pair has a normalisation group to
    itself, with mean 0, and SiLU(z) - SiLU(-z) = z. All other weights keep their random values.

    Raises ValueError when the first width is below :data:`NARROWEST`.
    """
    width, latents = unet.config.block_out_channels[0], unet.config.in_channels
    if width < NARROWEST:
        raise ValueError(f"the identity needs a first UNet width of at least {NARROWEST}, not {width}")
    carriers = 2 * latents
    block = unet.up_blocks[-1]
    resnet, transformer = block.resnets[-1], block.attentions[-1]
    for layer in (resnet.conv2, resnet.conv_shortcut, transformer.proj_out, unet.conv_in):
        layer.weight[:carriers] = 0
        layer.bias[:carriers] = 0
    unet.conv_out.weight.zero_()
    unet.conv_out.bias.zero_()
    for channel in range(latents):
        for carrier, sign in ((2 * channel, 1.0), (2 * channel + 1, -1.0)):
            _centre(unet.conv_in.weight)[carrier, channel] = sign
            # The block's input channels are the main path's, then the skip connection's.
            _centre(resnet.conv_shortcut.weight)[carrier, carrier - width] = 1.0
            _centre(unet.conv_out.weight)[channel, carrier] = sign


def _centre(weight: Tensor) -> Tensor:
    """The kernel's centre (out, in) of a convolution's ``weight`` (out, in, k, k), as a view."""
    return weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
