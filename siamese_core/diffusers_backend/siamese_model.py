"""A finished Siamese-Diffusion model in memory, ready to sample from, as diffusers networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..weights.key_layouts import to_diffusers
from ..weights.model_file import KIND_NAMES, ModelFile
from .base_model import Base, BaseError, base_from_file, finite
from .networks import DHIControlNet, SiameseNetworks

Precision = Literal["fp32", "fp16", "bf16"]
"""Number formats of the networks."""

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass
class SiameseModel:
    """Base (VAE, text encoder, UNet with trained decoder) and control network of one training run."""

    base: Base
    networks: SiameseNetworks

    @property
    def device(self) -> torch.device:
        return self.networks.control.device

    def to(self, device: torch.device | str, precision: Precision = "fp32") -> None:
        """Move everything to ``device``, in ``precision`` but for the text encoder, run once a prompt."""
        dtype = DTYPES[precision]
        for module in (self.base.unet, self.base.vae, self.networks.control):
            # Not diffusers' own, which warns of modules to be kept in float32 even where there are none.
            nn.Module.to(module, device, dtype)
            module.to(memory_format=torch.channels_last)
        self.base.text_encoder.to(device)
        self.networks = SiameseNetworks.assemble(
            self.base.unet, self.networks.control, self.networks.prediction
        )

    def compile(self) -> None:
        """Have torch compile what runs at every step, at its first call for each size; after :meth:`to`."""
        networks: Any = self.networks
        networks.control.control = torch.compile(networks.control.control)
        for module in (networks.encoder, networks.decoder):
            module.forward = torch.compile(module.forward)


def model_from_file(model: ModelFile) -> SiameseModel:
    """Build the networks of a ``full`` model file, float32, on the CPU.

    Raises BaseError for a base (nothing to control with) and for an adapter (no VAE, no text encoder).
    """
    if model.kind != "full":
        raise BaseError(
            f"this file is {KIND_NAMES[model.kind]}, not a full model; "
            "training.train writes one with --export full"
        )
    base, control = base_from_file(model), control_from_file(model)
    return SiameseModel(
        base, SiameseNetworks.assemble(base.unet, control.eval(), model.architecture.prediction)
    )


def control_from_file(model: ModelFile) -> DHIControlNet:
    """The ControlNet in a model file that has one, float32, on the CPU. Raises BaseError for bad weights."""
    with torch.device("meta"):
        control = DHIControlNet.build(model.architecture)
    weights = to_diffusers("control", model.parts["control"], model.architecture)
    control.load_state_dict(finite(weights), assign=True)
    return control
