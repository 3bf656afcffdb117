"""Preview sheets during training: samples for the same few masks each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...siamese_core.architecture import LATENT_STRIDE
from ...siamese_core.learning.preview import preview_pairs, preview_sheet
from ...siamese_core.learning.training_set import TrainingSet, mask_hint
from ...siamese_core.method.ddim import NoisePredictor, ddim_sample, guided
from ...siamese_core.method.noise_schedule import predicted_noise
from ...siamese_core.seeds import starting_noise
from .frozen_networks import decode_latents
from .host_networks import HostNetworks

_MASKS = 4
_STEPS = 20


@dataclass(frozen=True)
class Preview:
    """Samples for up to four fixed masks of ``data``, always from the same noise."""

    networks: HostNetworks
    data: TrainingSet
    vae: Any
    guidance: float
    seed: int
    device: torch.device

    @torch.no_grad()
    def sheet(self, on_step: Callable[[], None] = lambda: None) -> NDArray[np.uint8]:
        """A sheet (H, W, 3) of masks, real images, samples, and samples with mask outlines."""
        chosen = preview_pairs(self.data, _MASKS)
        masks = self.data.masks[chosen]
        contexts = self.data.contexts[self.data.prompt_index[chosen]]
        empty = self.data.contexts[-1:].expand_as(contexts)
        height, width = (side // LATENT_STRIDE for side in masks.shape[-2:])
        noise = torch.cat([starting_noise(self.seed + i, height, width) for i in range(len(chosen))])
        predict = _noise_predictor(
            self.networks,
            mask_hint(masks).to(self.device),
            contexts.to(self.device),
            empty.to(self.device),
            self.guidance,
        )
        latents = ddim_sample(predict, noise.to(self.device), _STEPS, lambda *_: on_step())
        return preview_sheet(self.data, chosen, np.stack(decode_latents(self.vae, latents)))


def _noise_predictor(
    networks: HostNetworks, hint: Tensor, context: Tensor, unconditional: Tensor, guidance: float
) -> NoisePredictor:
    """Guided noise prediction for ``hint`` (B, 3, H, W) in [0, 1]; texts are (B, 77, width).

    Both guidance passes run as one batch.
    """
    passes = 1 if guidance == 1.0 else 2
    texts = context if passes == 1 else torch.cat([context, unconditional])
    features = networks.control.hint_features(hint).repeat(passes, 1, 1, 1)

    def predict(latent: Tensor, timestep: int) -> Tensor:
        repeated = latent.repeat(passes, 1, 1, 1)
        timesteps = torch.full((len(repeated),), timestep, device=latent.device)
        control = networks.control.control(repeated, timesteps, texts, features)
        output = networks.decoder(networks.encode(repeated, timesteps, texts), texts, control)
        output = output.to(latent.dtype)  # or guidance would be computed in half precision
        if passes == 2:
            output = guided(output, guidance)
        return predicted_noise(output, latent, timesteps[: len(latent)], networks.prediction)

    return predict
