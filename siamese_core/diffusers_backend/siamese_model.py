"""A finished Siamese-Diffusion model as diffusers networks, ready to sample from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..errors import UserError
from ..weights.key_layouts import to_diffusers
from ..weights.model_file import KIND_NAMES, ModelFile
from .base_model import Base, BaseError, base_from_file, finite
from .networks import DHIControlNet, SiameseNetworks

Precision = Literal["fp32", "fp16", "bf16"]
"""Dtypes of the networks in sampling."""

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


class CompileError(UserError):
    """torch cannot compile the networks on this machine; the message says what may be missing."""


@dataclass
class SiameseModel:
    """Base (VAE, text encoder, UNet with trained decoder) and ControlNet of one training run."""

    base: Base
    networks: SiameseNetworks

    @property
    def device(self) -> torch.device:
        return self.networks.control.device

    def to(self, device: torch.device | str, precision: Precision = "fp32") -> None:
        """Move all networks to ``device``, in ``precision`` except for the text encoder, kept in float32."""
        dtype = DTYPES[precision]
        for module in (self.base.unet, self.base.vae, self.networks.control):
            # diffusers' own `to` warns about modules to be kept in float32 even if there are none.
            nn.Module.to(module, device, dtype)
            module.to(memory_format=torch.channels_last)
        self.base.text_encoder.to(device)
        self.networks = SiameseNetworks.assemble(
            self.base.unet, self.networks.control, self.networks.prediction
        )

    def compile(self) -> None:
        """Compile the functions that run at every sampling step; call it after :meth:`to`.

        Compilation happens at their first call for each image size, which raises CompileError if it fails.
        """
        networks: Any = self.networks
        networks.control.control = _compiled(networks.control.control)
        for module in (networks.encoder, networks.decoder):
            module.forward = _compiled(module.forward)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo.exc import TorchDynamoException  # a slow import, needed only here

    compiled = torch.compile(function)

    def call(*args: Any) -> Any:
        try:
            return compiled(*args)
        except TorchDynamoException as error:
            reason = str(error).partition("\n")[0]
            raise CompileError(
                f"torch cannot compile the networks here ({reason}); leave out --compile, or install what "
                "it needs: a C++ compiler for a CPU, also Triton for a GPU"
            ) from error

    return call


def model_from_file(model: ModelFile) -> SiameseModel:
    """Build the networks of a ``full`` model file in float32 on the CPU.

    Raises BaseError for any other kind of file and for weights that are not finite.
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
    """The ControlNet of a model file that has one, in float32 on the CPU.

    Raises BaseError for weights that are not finite.
    """
    with torch.device("meta"):
        control = DHIControlNet.build(model.architecture)
    weights = to_diffusers("control", model.parts["control"], model.architecture)
    control.load_state_dict(finite(weights), assign=True)
    return control
