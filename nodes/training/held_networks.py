"""Registering the trained networks with the host's memory management for the duration of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

from .host_networks import HostNetworks

_OPTIMISER_COPIES = 3  # gradients and AdamW's two moments, each the size of the trained weights


class _Networks(nn.Module):
    """UNet and ControlNet as one module for the host's model management."""

    def __init__(self, networks: HostNetworks) -> None:
        super().__init__()
        self.unet = networks.unet
        self.control = networks.control


class HeldNetworks:
    """Keeps the networks fully loaded on the host's device, displacing other models."""

    def __init__(self, networks: HostNetworks) -> None:
        management = comfy.model_management
        self.device: torch.device = management.get_torch_device()
        if self.device.type == "cuda":  # channels last is the fastest layout for convolutions there
            networks.unet.to(memory_format=torch.channels_last)
            networks.control.to(memory_format=torch.channels_last)
        self._patcher: Any = comfy.model_patcher.ModelPatcher(
            _Networks(networks), load_device=self.device, offload_device=torch.device("cpu")
        )
        trained = sum(weight.nbytes for weight in networks.trained_parameters())
        self._with_optimiser = _OPTIMISER_COPIES * trained

    def bring(self) -> None:
        """Load the networks, again if another model (a preview's VAE, for instance) has displaced them."""
        comfy.model_management.load_models_gpu(
            [self._patcher], memory_required=self._with_optimiser, force_full_load=True
        )

    def release(self) -> None:
        """Remove the networks from the host's list of loaded models and from its device."""
        self._patcher.detach()
        loaded = comfy.model_management.current_loaded_models
        for entry in [entry for entry in loaded if entry.model is self._patcher]:
            entry.model_unload()
            loaded.remove(entry)
        self._patcher = None
        comfy.model_management.soft_empty_cache()


@contextmanager
def held(networks: HostNetworks) -> Iterator[HeldNetworks]:
    """Within the block ``networks`` are loaded on the host's device."""
    holding = HeldNetworks(networks)
    try:
        holding.bring()
        yield holding
    finally:
        holding.release()
