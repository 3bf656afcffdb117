"""Sheets of samples for a few fixed masks during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_core.architecture import LATENT_SCALE
from siamese_core.diffusers_backend.base_model import Base
from siamese_core.diffusers_backend.mask_sampling import (
    DEFAULT_STEPS,
    Sampler,
    controlled_noise_predictor,
    sample_latents,
)
from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.diffusers_backend.siamese_training import frozen_on_device
from siamese_core.learning.optimiser_step import Trainer
from siamese_core.learning.preview import preview_sheet
from siamese_core.learning.training_set import TrainingSet, image_hint, mask_hint
from siamese_core.method.ddim import to_uint8

SAMPLE_STEPS: dict[Sampler, int] = {**DEFAULT_STEPS, "ddim": 20}


def sample_sheet(
    trainer: Trainer,
    base: Base,
    networks: SiameseNetworks,
    data: TrainingSet,
    chosen: Sequence[int],
    side: int,
    *,
    sampler: Sampler,
    guidance: float,
    hint_weights: tuple[float, float],
    seed: int,
) -> NDArray[np.uint8]:
    """A sheet with rows of masks, real images, samples, and samples with mask outlines.

    ``chosen`` are indices of pairs in ``data``, which was encoded at ``side`` pixels; samples use the seeds
    ``seed``, ``seed`` + 1, .... ``hint_weights`` are those of the mask's and the image's control.
    """
    device = trainer.engine.device
    both = (mask_hint(data.masks[chosen]), image_hint(data.images[chosen]))
    hints = [(hint.to(device), weight) for hint, weight in zip(both, hint_weights, strict=True) if weight]
    with (
        torch.no_grad(),
        trainer.averaged_weights(),
        frozen_on_device(base, device),
        trainer.autocast(),
    ):
        predict = controlled_noise_predictor(
            networks,
            hints,
            data.contexts[data.prompt_index[chosen]].to(device),
            data.contexts[-1:].expand(len(chosen), -1, -1).to(device),
            guidance_scale=guidance,
        )
        latents = sample_latents(
            predict,
            range(seed, seed + len(chosen)),
            side,
            side,
            steps=SAMPLE_STEPS[sampler],
            device=device,
            sampler=sampler,
            prediction=networks.prediction,
        )
        # One by one, since decoding needs more memory than a training step.
        decoded = [base.vae.decode(one / LATENT_SCALE).sample for one in latents.split(1)]
        images = to_uint8(torch.cat(decoded))
    return preview_sheet(data, chosen, images)
