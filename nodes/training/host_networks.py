"""The host's UNet and ControlNet classes as the networks that the Siamese objective trains.

The host's own forward pass serves sampling: it adds the control in place and consumes it. Here the same
modules are run in two halves, the frozen encoder and the trained decoder, without touching their inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.ldm.modules.attention
import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential, UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ...siamese_core.architecture import HintBlock, Prediction
from ...siamese_core.method.dhi import draw_hint_block
from ..host.control import DHIControlNet

Run = Callable[..., Tensor]
"""Calls a block with its arguments: as it is, checkpointed, or with weights that ask for no gradients."""


def _attend(_own_choice: Any, *args: Any, **kwargs: Any) -> Tensor:
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _options() -> dict[str, Any]:
    """The ``transformer_options`` of a pass.

    Without a GPU the host attends in parts whose number follows the free memory: slow to go back through,
    and of other last bits from one step to the next.
    """
    return {"optimized_attention_override": _attend}


class _Operations(comfy.ops.disable_weight_init):
    """Plain layers of the host's."""

    class Linear(comfy.ops.disable_weight_init.Linear):
        # Some hosts leave a layer without weights until a file is loaded, unless it loads in its own way.
        def _load_from_state_dict(self, *arguments: Any) -> None:
            nn.Linear._load_from_state_dict(self, *arguments)


class Encoded(NamedTuple):
    """What the encoder half hands to the decoder half: skips from shallow to deep, middle, time embedding."""

    skips: tuple[Tensor, ...]
    middle: Tensor
    embedding: Tensor


class HostControl(nn.Module):
    """The host's ControlNet with our hint block, its outputs as the list that the objective expects."""

    def __init__(self, network: DHIControlNet) -> None:
        super().__init__()
        # The sampler's hint block remembers its features, which in training change with every step.
        network.input_hint_block = TimestepEmbedSequential(*network.input_hint_block)
        self.network = network
        self.checkpointing = False

    def hint_features(self, hint: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [0, 1] -> ``(B, width, H/8, W/8)``; depends on neither timestep nor text."""
        features: Tensor = nn.Sequential.forward(self.network.input_hint_block, hint)
        return features

    def control(self, latent: Tensor, timesteps: Tensor, context: Tensor, features: Tensor) -> list[Tensor]:
        """The outputs for ``latent`` (B, 4, h, w) under ``features`` of :meth:`hint_features`."""
        network, run = self.network, _runner(self.checkpointing)
        encoded = _encode(network, latent, timesteps, context, run, features)
        # A zero convolution is a block of the host's kind, too, but needs neither time nor text.
        outputs = [zero[0](skip) for zero, skip in zip(network.zero_convs, encoded.skips, strict=True)]
        return [*outputs, network.middle_block_out[0](encoded.middle)]


class HostDecoder(nn.Module):
    """The trained half of the host's UNet: ``output_blocks`` and ``out``."""

    def __init__(self, unet: UNetModel) -> None:
        super().__init__()
        self.output_blocks = unet.output_blocks
        self.out = unet.out
        self.checkpointing = False

    def forward(self, encoded: Encoded, context: Tensor, control: list[Tensor] | None = None) -> Tensor:
        """The UNet's output (B, 4, h, w); ``control`` is added to the skips and the middle."""
        return self._decode(encoded, context, control, _call)

    def without_weight_gradients(
        self, encoded: Encoded, context: Tensor, control: list[Tensor] | None = None
    ) -> Tensor:
        """As :meth:`forward`, through the same weights, which get no gradients.

        They are detached anew in each pass: the host may have moved them to another device since the last.
        """
        return self._decode(encoded, context, control, _call_detached)

    def _decode(self, encoded: Encoded, context: Tensor, control: list[Tensor] | None, call: Run) -> Tensor:
        run = _runner(self.checkpointing, call)
        skips, h = list(encoded.skips), encoded.middle
        if control is not None:
            skips = [skip + extra for skip, extra in zip(skips, control[:-1], strict=True)]
            h = h + control[-1]
        options = _options()
        for block in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            size = skips[-1].shape if skips else None  # what an upsampling at the block's end has to give
            h = run(block, h, encoded.embedding, context, options, size)
        return call(self.out, h)


@dataclass
class HostNetworks:
    """The networks of one training, as ``objective.Networks`` asks for them."""

    control: HostControl
    unet: UNetModel
    decoder: HostDecoder
    shadow: Any
    prediction: Prediction
    checkpointing: bool = False

    @classmethod
    def assemble(
        cls, unet: UNetModel, control: DHIControlNet, prediction: Prediction, checkpointing: bool = False
    ) -> HostNetworks:
        """Freeze ``unet`` but for its decoder half, which is trained with all of ``control``."""
        decoder = HostDecoder(unet)
        shadow = decoder.without_weight_gradients
        networks = cls(HostControl(control), unet, decoder, shadow, prediction, checkpointing)
        unet.requires_grad_(False)
        for part in (networks.control, networks.decoder):
            part.requires_grad_(True)
            part.checkpointing = checkpointing
        return networks

    def trained_parameters(self) -> list[nn.Parameter]:
        """Control network (with hint block) and decoder, in an order that never changes."""
        return [*self.control.parameters(), *self.decoder.parameters()]

    def hint_parameters(self) -> list[nn.Parameter]:
        """The hint block's, which are among the control network's."""
        return list(self.control.network.input_hint_block.parameters())

    @torch.no_grad()
    def encode(self, latent: Tensor, timesteps: Tensor, context: Tensor) -> Encoded:
        """The frozen encoder pass; never part of a graph."""
        return _encode(self.unet, latent, timesteps, context, _call)


def build_unet(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> UNetModel:
    """A UNet of the host's class of its own, float32 on the CPU, for the host's ``config`` of a model.

    ``weights`` by prefix-free ldm name are copied. Inference mode must be off: tensors made in it never take
    part in a gradient.
    """
    unet = UNetModel(**_float32(config))
    unet.load_state_dict(_copied(weights), strict=True)
    return unet


def build_control(
    config: Mapping[str, Any], hint_block: HintBlock, weights: Mapping[str, Tensor]
) -> DHIControlNet:
    """A ControlNet of its own for the UNet ``config``, float32 on the CPU; ``weights`` as there."""
    control = _empty_control(config, hint_block)
    control.load_state_dict(_copied(weights), strict=True)
    return control


def fresh_control(config: Mapping[str, Any], unet: Mapping[str, Tensor], seed: int) -> DHIControlNet:
    """A ControlNet that starts as the encoder of the ``unet`` weights; a dense hint block of ``seed``."""
    control = _empty_control(config, "dense")
    draw_hint_block(control.input_hint_block, seed)
    own = control.state_dict()
    hint = {key: value for key, value in own.items() if key.startswith("input_hint_block.")}
    # All that a UNet's encoder does not have are the output convolutions, which start at zero.
    copied = {key: unet.get(key, torch.zeros_like(value)) for key, value in own.items()}
    control.load_state_dict(_copied({**copied, **hint}), strict=True)
    return control


def _empty_control(config: Mapping[str, Any], hint_block: HintBlock) -> DHIControlNet:
    only_unet = ("out_channels", "transformer_depth_output")
    return DHIControlNet(hint_block, **_float32({k: v for k, v in config.items() if k not in only_unet}))


def _float32(config: Mapping[str, Any]) -> dict[str, Any]:
    own = {"dtype": torch.float32, "device": "cpu", "operations": _Operations}
    return {**{key: value for key, value in config.items() if key != "disable_unet_model_creation"}, **own}


def _copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().to("cpu", torch.float32, copy=True) for key, value in weights.items()}


def _encode(
    network: Any,
    latent: Tensor,
    timesteps: Tensor,
    context: Tensor,
    run: Run,
    hint_features: Tensor | None = None,
) -> Encoded:
    """The input blocks and the middle block, which UNet and ControlNet have in common."""
    options = _options()
    times = timestep_embedding(timesteps, network.model_channels).to(latent.dtype)
    embedding = network.time_embed(times)
    first, *others = network.input_blocks
    h = first(latent, embedding, context, options)
    if hint_features is not None:
        h = h + hint_features
    skips = [h]
    for block in others:
        h = run(block, h, embedding, context, options)
        skips.append(h)
    return Encoded(tuple(skips), run(network.middle_block, h, embedding, context, options), embedding)


def _call(block: nn.Module, *arguments: Any) -> Tensor:
    result: Tensor = block(*arguments)
    return result


def _call_detached(block: nn.Module, *arguments: Any) -> Tensor:
    weights = {name: weight.detach() for name, weight in block.named_parameters()}
    result: Tensor = functional_call(block, weights, arguments)
    return result


def _runner(checkpointing: bool, call: Run = _call) -> Run:
    """``call``, or one that keeps a block's inputs alone and computes the rest again on the way back."""
    if not checkpointing or not torch.is_grad_enabled():
        return call

    def run(block: nn.Module, *arguments: Any) -> Tensor:
        result: Tensor = checkpoint(call, block, *arguments, use_reentrant=False)
        return result

    return run
