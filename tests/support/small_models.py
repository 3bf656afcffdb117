"""Networks and a base small enough for tests, and a record of how networks are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from siamese_core.architecture import (
    Architecture,
    Prediction,
    TextArchitecture,
    UNetArchitecture,
    VAEArchitecture,
)
from siamese_core.diffusers_backend.base_model import Base, base_file, build_base, build_unet
from siamese_core.diffusers_backend.networks import DHIControlNet, SiameseNetworks
from siamese_core.weights.key_layouts import to_ldm
from siamese_core.weights.model_file import save_model

SIDE = 64
"""Image side in pixels; latents are 8 x 8."""

PROMPT = "a photo of a polyp"

ARCHITECTURE = Architecture(
    unet=UNetArchitecture(widths=(32, 64, 64, 64), num_heads=4, context_dim=32),
    vae=VAEArchitecture(widths=(32, 32, 32, 32), layers_per_block=1),
    text=TextArchitecture(hidden_size=32, intermediate_size=32, num_layers=1, num_heads=4),
    resolution=SIDE,
)


@cache
def small_base() -> Base:
    """A base with random weights, shared by all tests: to be copied before it is changed."""
    return build_base(ARCHITECTURE, seed=3)


def small_networks(
    architecture: Architecture = ARCHITECTURE, dtype: torch.dtype = torch.float32
) -> SiameseNetworks:
    """Networks with random weights everywhere, in the zero convolutions too, so that every term counts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        unet = build_unet(architecture.unet)
        control = DHIControlNet.build(architecture)
        for parameter in control.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return SiameseNetworks.assemble(unet.to(dtype), control.to(dtype), architecture.prediction)


@contextmanager
def recorded_calls(networks: SiameseNetworks) -> Iterator[list[tuple[str, int]]]:
    """Collect, in order, which part of ``networks`` runs on how many samples."""
    calls: list[tuple[str, int]] = []
    parts = {
        "encoder": networks.encoder,
        "hint": networks.control.controlnet_cond_embedding,
        "control": networks.control.controlnet_mid_block,
        "decoder": networks.decoder,
        "shadow": networks.shadow,
    }

    def recorder(name: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            calls.append((name, len(output if isinstance(output, Tensor) else output.middle)))

        return record

    handles = [module.register_forward_hook(recorder(name)) for name, module in parts.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def write_full(path: Path, prediction: Prediction) -> Path:
    """A full model of random weights whose control matters; one that predicts v is laid out as SD 2.1 is."""
    architecture = replace(ARCHITECTURE, prediction=prediction)
    if prediction == "v_prediction":
        unet = replace(ARCHITECTURE.unet, head_channels=32, linear_projection=True)
        text = replace(ARCHITECTURE.text, family="open_clip")
        architecture = replace(architecture, unet=unet, text=text)
    base = base_file(build_base(architecture, seed=4), {"prompt": PROMPT, "resolution": SIDE}, "run-5")
    control = to_ldm("control", small_networks(architecture).control.state_dict(), architecture)
    save_model(
        path, replace(base, kind="full", parts={**base.parts, "control": control}), dtype=torch.float32
    )
    return path
