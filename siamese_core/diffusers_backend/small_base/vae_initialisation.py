"""Initialising a small VAE as an autoencoder of block means.

With 32 normalisation groups, narrow layers are normalised almost channel by channel, and a randomly
initialised network learns edges long before the colours between them. With this initialisation, the latent's
first three channels are the image's colours averaged over 8 x 8 pixels, and training adds the detail.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

CARRIERS = 6
"""Number of channels that carry the colours: +R, -R, +G, -G, +B, -B.

A pair (x, -x) shares a normalisation group, whose mean is then 0, and SiLU(x) - SiLU(-x) = x. Colours
therefore pass normalisation and SiLU unchanged up to one factor per image.
"""

NARROWEST = 64
"""Minimum width of the VAE in channels: two channels per normalisation group."""

_COLOUR_SPREAD = 0.5  # assumed root mean square of an image in [-1, 1], restored after normalisation
_LOG_VARIANCE = -4.0  # initial log variance of the posterior
_AVERAGE = torch.tensor([[0.25, 0.25, 0.0], [0.25, 0.25, 0.0], [0.0, 0.0, 0.0]])
_SMOOTH = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
_CENTRE = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


@torch.no_grad()
def start_from_block_means(vae: AutoencoderKL) -> None:
    """Set the weights of the :data:`CARRIERS` in place; all other weights keep their random values.

    Raises ValueError when a width is below :data:`NARROWEST`.
    """
    widths = vae.config.block_out_channels
    if min(widths) < NARROWEST:
        raise ValueError(f"block means need VAE widths of at least {NARROWEST}, not {min(widths)}")
    for module in vae.modules():
        if hasattr(module, "conv2") and hasattr(module, "conv_shortcut"):  # a residual block
            _zero(module.conv2)
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut.weight, torch.ones(1, 1))
        if hasattr(module, "to_out"):  # an attention
            _zero(module.to_out[0])
    for block in vae.encoder.down_blocks:
        for sampler in block.downsamplers or ():
            _carry(sampler.conv.weight, _AVERAGE)
            _clear_bias(sampler.conv, CARRIERS)
    for block in vae.decoder.up_blocks:
        for sampler in block.upsamplers or ():
            _carry(sampler.conv.weight, _SMOOTH)
            _clear_bias(sampler.conv, CARRIERS)
    _split(vae.encoder.conv_in)
    _join(vae.encoder.conv_out, 1.0)
    latents = vae.config.latent_channels
    vae.encoder.conv_out.weight[latents:] = 0
    vae.encoder.conv_out.bias[latents:] = _LOG_VARIANCE
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight[:, :, 0, 0] = torch.eye(conv.weight.shape[0])
        conv.bias.zero_()
    _split(vae.decoder.conv_in)
    _join(vae.decoder.conv_out, _COLOUR_SPREAD)


def _clear_bias(conv: nn.Conv2d, count: int) -> None:
    if conv.bias is not None:
        conv.bias[:count] = 0


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.zero_()


def _carry(weight: Tensor, kernel: Tensor) -> None:
    """Make a convolution map every carrier to itself through ``kernel`` (k, k)."""
    weight[:CARRIERS] = 0
    for channel in range(CARRIERS):
        weight[channel, channel] = kernel


def _split(conv: nn.Conv2d) -> None:
    """Make ``conv`` map input channel c to carriers 2c (unchanged) and 2c + 1 (negated)."""
    conv.weight[:CARRIERS] = 0
    _clear_bias(conv, CARRIERS)
    for colour in range(3):
        conv.weight[2 * colour, colour] = _CENTRE
        conv.weight[2 * colour + 1, colour] = -_CENTRE


def _join(conv: nn.Conv2d, factor: float) -> None:
    """Make ``conv`` map carriers 2c and 2c + 1 to output channel c: ``factor`` times their difference."""
    conv.weight[:3] = 0
    _clear_bias(conv, 3)
    for colour in range(3):
        conv.weight[colour, 2 * colour] = factor * _CENTRE
        conv.weight[colour, 2 * colour + 1] = -factor * _CENTRE
