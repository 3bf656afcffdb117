"""The diffusers-backed networks: DHI ControlNet, and a UNet split into frozen encoder and trained decoder."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..architecture import Architecture, HintBlock, Prediction
from ..method.dhi import dense_hint_block, sparse_hint_block
from .guidance_passes import TextAttnProcessor, expand_passes, first_down_block


class DHIControlNet(ControlNetModel):
    """A diffusers ControlNet whose hint block is DHI (``"dense"``) or ControlNet's original (``"sparse"``).

    Hints are ``(B, 3, H, W)`` in [0, 1] for latents ``(B, 4, H/8, W/8)``. With SD 1.x topology it has 13
    outputs: twelve for the skip connections, shallow to deep, then one for the middle block.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        conditioning_channels: int = 3,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        cross_attention_dim: int = 768,
        attention_head_dim: int | tuple[int, ...] = 8,
        use_linear_projection: bool = False,
        hint_block: HintBlock = "dense",
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            conditioning_channels=conditioning_channels,
            down_block_types=down_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=attention_head_dim,
            use_linear_projection=use_linear_projection,
        )
        build = dense_hint_block if hint_block == "dense" else sparse_hint_block
        self.controlnet_cond_embedding = nn.Sequential(
            *build(block_out_channels[0], hint_channels=conditioning_channels)
        )

    @classmethod
    def build(cls, architecture: Architecture) -> DHIControlNet:
        """A ControlNet for ``architecture`` with random weights and zero output convolutions."""
        unet = architecture.unet
        return cls(
            in_channels=unet.latent_channels,
            down_block_types=("CrossAttnDownBlock2D",) * (len(unet.widths) - 1) + ("DownBlock2D",),
            block_out_channels=unet.widths,
            layers_per_block=unet.layers_per_block,
            cross_attention_dim=unet.context_dim,
            attention_head_dim=unet.heads,
            use_linear_projection=unet.linear_projection,
            hint_block=architecture.hint_block,
        )

    @classmethod
    def initialised_from(cls, unet: UNet2DConditionModel, architecture: Architecture) -> DHIControlNet:
        """A ControlNet whose encoder starts as a copy of ``unet``'s (arXiv 2302.05543, section 3.1)."""
        control = cls.build(architecture)
        for name in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
            getattr(control, name).load_state_dict(getattr(unet, name).state_dict())
        return control

    def hint_features(self, hint: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [0, 1] -> ``(B, width, H/8, W/8)``; depends on neither timestep nor text."""
        return self.controlnet_cond_embedding(hint)

    def control(
        self, latent: Tensor, timesteps: Tensor, context: Tensor, features: Tensor, passes: int = 1
    ) -> list[Tensor]:
        """The 13 outputs for ``latent`` (B, 4, h, w) at ``timesteps`` (B,), given :meth:`hint_features`.

        ``context`` holds the texts, (B, tokens, width). For several guidance ``passes`` it has passes * B
        rows, pass by pass, or one row per pass, and the outputs have passes * B rows.
        """
        embedding = self.time_embedding(self.time_proj(timesteps).to(latent.dtype))
        encoded = _run_encoder(self, self.conv_in(latent) + features, embedding, context, passes)
        outputs = [conv(x) for x, conv in zip(encoded.skips, self.controlnet_down_blocks, strict=True)]
        return [*outputs, self.controlnet_mid_block(encoded.middle)]


class Encoded(NamedTuple):
    """Output of the UNet encoder for the decoder: skips (twelve in SD 1.x), middle and time embedding."""

    skips: tuple[Tensor, ...]
    middle: Tensor
    embedding: Tensor


class UNetEncoder(nn.Module):
    """The frozen half of a UNet: ``input_blocks``, ``middle_block``, ``time_embed`` of the ldm layout."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.time_proj = unet.time_proj
        self.time_embedding = unet.time_embedding
        self.conv_in = unet.conv_in
        self.down_blocks = unet.down_blocks
        self.mid_block = unet.mid_block

    def forward(self, latent: Tensor, timesteps: Tensor, context: Tensor, passes: int = 1) -> Encoded:
        """Encode ``latent`` (B, 4, h, w) at ``timesteps`` (B,) under ``context`` (B, tokens, width).

        ``passes`` as in :meth:`DHIControlNet.control`.
        """
        embedding = self.time_embedding(self.time_proj(timesteps).to(latent.dtype))
        return _run_encoder(self, self.conv_in(latent), embedding, context, passes)


class UNetDecoder(nn.Module):
    """The trained half of a UNet: ``output_blocks`` and ``out`` of the ldm layout."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.up_blocks = unet.up_blocks
        self.conv_norm_out = unet.conv_norm_out
        self.conv_act = unet.conv_act
        self.conv_out = unet.conv_out

    def forward(self, encoded: Encoded, context: Tensor, control: list[Tensor] | None = None) -> Tensor:
        """The prediction (B, 4, h, w), of noise or v; ``control`` is added to the skips and the middle."""
        skips, sample = list(encoded.skips), encoded.middle
        if control is not None:
            skips = [skip + extra for skip, extra in zip(skips, control[:-1], strict=True)]
            sample = sample + control[-1]
        for block in self.up_blocks:
            count = len(block.resnets)
            arguments: dict[str, Any] = {
                "hidden_states": sample,
                "temb": encoded.embedding,
                "res_hidden_states_tuple": tuple(skips[-count:]),
            }
            del skips[-count:]
            if getattr(block, "has_cross_attention", False):
                arguments["encoder_hidden_states"] = context
            sample = block(**arguments)
        return self.conv_out(self.conv_act(self.conv_norm_out(sample)))

    def shadow(self) -> UNetDecoder:
        """A decoder that shares storage with this one's weights but accumulates no gradients for them.

        In-place updates of the weights show in both. Create it after the module has been moved to its device.
        """
        shared = {
            id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in self.parameters()
        }
        return copy.deepcopy(self, shared)


@dataclass
class SiameseNetworks:
    """The networks of a Siamese-Diffusion model in the form that objective and sampler use.

    ``shadow`` is the decoder of the image branch. ``prediction``: what the decoder outputs, noise or v.
    """

    control: DHIControlNet
    encoder: UNetEncoder
    decoder: UNetDecoder
    shadow: UNetDecoder
    checkpointing: bool = False
    prediction: Prediction = "epsilon"

    @classmethod
    def assemble(
        cls, unet: UNet2DConditionModel, control: DHIControlNet, prediction: Prediction = "epsilon"
    ) -> SiameseNetworks:
        """Freeze ``unet``'s encoder half and create the decoder's shadow.

        ``unet`` and ``control`` must be on their device already. Sets :class:`TextAttnProcessor` in both.
        """
        encoder, decoder = UNetEncoder(unet), UNetDecoder(unet)
        encoder.requires_grad_(False)
        decoder.requires_grad_(True)
        control.requires_grad_(True)
        for module in (*control.modules(), *unet.modules()):
            if isinstance(module, Attention):
                module.set_processor(TextAttnProcessor())
        return cls(control, encoder, decoder, decoder.shadow(), prediction=prediction)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the control network (with hint block), then of the decoder."""
        return [*self.control.parameters(), *self.decoder.parameters()]

    def hint_parameters(self) -> list[nn.Parameter]:
        """The subset of :meth:`trained_parameters` that belongs to the hint block."""
        return list(self.control.controlnet_cond_embedding.parameters())

    def checkpoint_gradients(self) -> None:
        """Enable gradient checkpointing of the hint block and of residual and transformer blocks.

        Their forward passes are repeated in the backward pass: a third more work for a fraction of the
        memory.
        """
        self.checkpointing = True
        for network in (self.control, self.decoder, self.shadow):
            for block in network.modules():
                if hasattr(block, "gradient_checkpointing"):
                    block.gradient_checkpointing = True
                    block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    @torch.no_grad()
    def encode(self, latent: Tensor, timesteps: Tensor, context: Tensor, passes: int = 1) -> Encoded:
        """The frozen encoder's forward pass, without gradients."""
        return self.encoder(latent, timesteps, context, passes)


def _run_encoder(network: Any, sample: Tensor, embedding: Tensor, context: Tensor, passes: int) -> Encoded:
    """Run the down blocks and the middle block, which UNet and ControlNet have in common."""
    skips: tuple[Tensor, ...] = (expand_passes(sample, passes),)
    blocks = list(network.down_blocks)
    if passes > 1:
        skips += first_down_block(blocks.pop(0), sample, embedding, context, passes)
        sample, embedding = skips[-1], expand_passes(embedding, passes)
    for block in blocks:
        arguments: dict[str, Any] = {"hidden_states": sample, "temb": embedding}
        if getattr(block, "has_cross_attention", False):
            arguments["encoder_hidden_states"] = context
        sample, outputs = block(**arguments)
        skips += outputs
    middle = network.mid_block(sample, embedding, encoder_hidden_states=context)
    return Encoded(skips, middle, embedding)
