"""The host's UNet and ControlNet classes as networks of the Siamese objective.

The host's forward pass is written for sampling: it adds the control in place and consumes it. Here the same
modules run as two halves, the frozen encoder and the trained decoder, without modifying their inputs.
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
"""``run(block, *arguments)``: a plain call, a checkpointed one, or one without weight gradients."""


def _attend(_own_choice: Any, *args: Any, **kwargs: Any) -> Tensor:
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _options() -> dict[str, Any]:
    """The ``transformer_options`` of a forward pass: PyTorch's attention instead of the host's choice.

    Without a GPU the host splits attention by the free memory, which makes the backward pass slow and changes
    the last bits from step to step.
    """
    return {"optimized_attention_override": _attend}


class _Operations(comfy.ops.disable_weight_init):
    """The host's plain layers."""

    class Linear(comfy.ops.disable_weight_init.Linear):
        # Some hosts create a layer's weights only on loading, unless it overrides this method.
        def _load_from_state_dict(self, *arguments: Any) -> None:
            nn.Linear._load_from_state_dict(self, *arguments)


class Encoded(NamedTuple):
    """Output of the UNet encoder for the decoder: skips from shallow to deep, middle, time embedding."""

    skips: tuple[Tensor, ...]
    middle: Tensor
    embedding: Tensor


class HostControl(nn.Module):
    """The host's ControlNet with the interface that the objective expects."""

    def __init__(self, network: DHIControlNet) -> None:
        super().__init__()
        # The sampler's HintBlock caches its features, which in training change with every step.
        network.input_hint_block = TimestepEmbedSequential(*network.input_hint_block)
        self.network = network
        self.checkpointing = False

    def hint_features(self, hint: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [0, 1] -> ``(B, width, H/8, W/8)``; depends on neither timestep nor text."""
        features: Tensor = nn.Sequential.forward(self.network.input_hint_block, hint)
        return features

    def control(self, latent: Tensor, timesteps: Tensor, context: Tensor, features: Tensor) -> list[Tensor]:
        """The outputs for ``latent`` (B, 4, h, w) at ``timesteps`` (B,), given :meth:`hint_features`.

        ``context`` is (B, tokens, width). The last output is the middle block's.
        """
        network, run = self.network, _runner(self.checkpointing)
        encoded = _encode(network, latent, timesteps, context, run, features)
        # The host wraps zero convolutions in blocks that expect timestep and text, which they do not need.
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
        """The prediction (B, 4, h, w), of noise or v; ``control`` is added to the skips and the middle."""
        return self._decode(encoded, context, control, _call)

    def without_weight_gradients(
        self, encoded: Encoded, context: Tensor, control: list[Tensor] | None = None
    ) -> Tensor:
        """Like :meth:`forward`, but without gradients for the weights.

        The weights are detached in each call, because the host may have moved them to another device.
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
            size = skips[-1].shape if skips else None  # the target shape of an upsampler at the block's end
            h = run(block, h, encoded.embedding, context, options, size)
        return call(self.out, h)


@dataclass
class HostNetworks:
    """The networks of a training run, as an ``objective.Networks``."""

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
        """Freeze ``unet``'s encoder; its decoder and all of ``control`` are trained."""
        decoder = HostDecoder(unet)
        shadow = decoder.without_weight_gradients
        networks = cls(HostControl(control), unet, decoder, shadow, prediction, checkpointing)
        unet.requires_grad_(False)
        for part in (networks.control, networks.decoder):
            part.requires_grad_(True)
            part.checkpointing = checkpointing
        return networks

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the control network (with hint block), then of the decoder."""
        return [*self.control.parameters(), *self.decoder.parameters()]

    def hint_parameters(self) -> list[nn.Parameter]:
        """The subset of :meth:`trained_parameters` that belongs to the hint block."""
        return list(self.control.network.input_hint_block.parameters())

    @torch.no_grad()
    def encode(self, latent: Tensor, timesteps: Tensor, context: Tensor) -> Encoded:
        """The frozen encoder's forward pass, without gradients."""
        return _encode(self.unet, latent, timesteps, context, _call)


def build_unet(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> UNetModel:
    """A new UNet of the host's class, float32 on the CPU, for the host's UNet ``config``.

    ``weights``, by prefix-free ldm name, are copied. Inference mode must be off, because inference tensors
    cannot be trained.
    """
    unet = UNetModel(**_float32(config))
    unet.load_state_dict(_copied(weights), strict=True)
    return unet


def build_control(
    config: Mapping[str, Any], hint_block: HintBlock, weights: Mapping[str, Tensor]
) -> DHIControlNet:
    """A new ControlNet for the UNet ``config``, float32 on the CPU; ``weights`` as in :func:`build_unet`."""
    control = _empty_control(config, hint_block)
    control.load_state_dict(_copied(weights), strict=True)
    return control


def fresh_control(config: Mapping[str, Any], unet: Mapping[str, Tensor], seed: int) -> DHIControlNet:
    """A ControlNet initialised from the encoder in the ``unet`` weights, with a dense hint block.

    The hint block's random weights come from ``seed``; output convolutions are zero.
    """
    control = _empty_control(config, "dense")
    draw_hint_block(control.input_hint_block, seed)
    own = control.state_dict()
    hint = {key: value for key, value in own.items() if key.startswith("input_hint_block.")}
    # The only other weights that the UNet lacks are the output convolutions, which start at zero.
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
    """Run the input blocks and the middle block, which UNet and ControlNet have in common."""
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
    """``call``, wrapped in gradient checkpointing if enabled."""
    if not checkpointing or not torch.is_grad_enabled():
        return call

    def run(block: nn.Module, *arguments: Any) -> Tensor:
        result: Tensor = checkpoint(call, block, *arguments, use_reentrant=False)
        return result

    return run
