"""A starting point for training a small UNet: one that passes its input on, instead of random weights.

At high timesteps a noisy latent is almost all noise, so the best noise prediction is nearly the latent
itself. With 32 normalisation groups a narrow UNet is normalised almost channel by channel and takes
thousands of steps to learn to copy. Started like this it copies from the first step on, and training adds
what is in the latent besides noise.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

NARROWEST = 64
"""The least first width, in channels, of a UNet that can start like this: two channels per group."""


@torch.no_grad()
def start_from_identity(unet: UNet2DConditionModel) -> None:
    """Make ``unet``, in place, return its input over the input's root mean square of each channel.

    Input channel c travels as the pair (z, -z) in channels 2c and 2c + 1: through the first skip connection,
    the last block's shortcut and the last normalisation, whose group the pair has to itself (its mean is 0,
    its SiLU's difference is z again). All other weights of the body keep their random values.

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
            # The block's input is its own stream followed by the skip connection.
            _centre(resnet.conv_shortcut.weight)[carrier, carrier - width] = 1.0
            _centre(unet.conv_out.weight)[channel, carrier] = sign


def _centre(weight: Tensor) -> Tensor:
    """The middle tap (out, in) of a convolution's or linear layer's ``weight``, as a view."""
    return weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
