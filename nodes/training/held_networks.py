"""The trained networks under the host's model management, from which they are gone when training ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

from .host_networks import HostNetworks

_OPTIMISER_COPIES = 3  # gradients and AdamW's two moments, each as large as the trained weights


class _Networks(nn.Module):
    """UNet and ControlNet as one model of the host's management."""

    def __init__(self, networks: HostNetworks) -> None:
        super().__init__()
        self.unet = networks.unet
        self.control = networks.control


class HeldNetworks:
    """Brings the networks to the host's device, whole, for which other models make room."""

    def __init__(self, networks: HostNetworks) -> None:
        management = comfy.model_management
        self.device: torch.device = management.get_torch_device()
        if self.device.type == "cuda":  # where convolutions are fastest so
            networks.unet.to(memory_format=torch.channels_last)
            networks.control.to(memory_format=torch.channels_last)
        self._patcher: Any = comfy.model_patcher.ModelPatcher(
            _Networks(networks), load_device=self.device, offload_device=torch.device("cpu")
        )
        trained = sum(weight.nbytes for weight in networks.trained_parameters())
        self._with_optimiser = _OPTIMISER_COPIES * trained

    def bring(self) -> None:
        """Load them again if another model, a preview's VAE for instance, took their place."""
        comfy.model_management.load_models_gpu(
            [self._patcher], memory_required=self._with_optimiser, force_full_load=True
        )

    def release(self) -> None:
        """Take them out of the host's list of loaded models."""
        self._patcher.detach()
        loaded = comfy.model_management.current_loaded_models
        for entry in [entry for entry in loaded if entry.model is self._patcher]:
            entry.model_unload()
            loaded.remove(entry)
        self._patcher = None
        comfy.model_management.soft_empty_cache()


@contextmanager
def held(networks: HostNetworks) -> Iterator[HeldNetworks]:
    """``networks`` on the host's device within the block."""
    holding = HeldNetworks(networks)
    try:
        holding.bring()
        yield holding
    finally:
        holding.release()
