"""Siamese training on a diffusers base: the networks at the start and the model file at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..architecture import HintBlock
from ..learning.float32_steps import hold_in_bfloat16
from ..method.dhi import draw_hint_block
from ..weights.key_layouts import decoder_keys, to_ldm
from ..weights.model_file import FileKind, ModelFile
from .base_model import Base, base_file
from .networks import DHIControlNet, SiameseNetworks


def start_networks(
    base: Base,
    hint_block: HintBlock,
    seed: int,
    device: torch.device,
    gradient_checkpointing: bool = False,
    control: DHIControlNet | None = None,
    bfloat16_weights: bool = False,
) -> SiameseNetworks:
    """The networks of a new run, on ``device``: ``base``'s UNet and ``control``.

    Without ``control`` a ControlNet is initialised from the UNet: ``base.architecture`` is given
    ``hint_block``, whose random weights come from ``seed``. ``bfloat16_weights`` require autocast to
    bfloat16.
    """
    if control is None:
        base.architecture = replace(base.architecture, hint_block=hint_block)
        control = DHIControlNet.initialised_from(base.unet, base.architecture)
        draw_hint_block(control.controlnet_cond_embedding, seed)
    for module in (base.unet, control):
        if bfloat16_weights:
            hold_in_bfloat16(module)  # before the move, since float32 weights may not fit on the device
        module.to(device, memory_format=_memory_format(device))
    networks = SiameseNetworks.assemble(base.unet, control, base.architecture.prediction)
    if gradient_checkpointing:
        networks.checkpoint_gradients()
    return networks


@contextmanager
def frozen_on_device(base: Base, device: torch.device) -> Iterator[None]:
    """Within the block ``base``'s VAE and text encoder are on ``device``; afterwards they are on the CPU."""
    frozen: tuple[Any, ...] = (base.vae, base.text_encoder)
    for module in frozen:
        module.to(device, memory_format=_memory_format(device))
    try:
        yield
    finally:
        for module in frozen:
            module.to("cpu")


def finished_model(
    base: Base, networks: SiameseNetworks, kind: FileKind, training: dict[str, Any], run_id: str
) -> ModelFile:
    """The current weights as a model file of kind ``full`` or ``adapter`` (ControlNet and decoder only)."""
    whole = base_file(base, training, run_id)
    control = to_ldm("control", networks.control.state_dict(), base.architecture)
    if kind == "full":
        return replace(whole, kind="full", parts={**whole.parts, "control": control})
    unet = whole.parts["unet"]
    decoder = {key: unet[key] for key in decoder_keys(unet)}
    return replace(whole, kind="adapter", parts={"unet": decoder, "control": control})


def _memory_format(device: torch.device) -> torch.memory_format:
    """Channels last on GPUs, where convolutions are fastest; on CPUs it slows down their backward pass."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
