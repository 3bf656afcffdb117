"""The published implementation's schedule of a training step and of sampling, on this project's networks.

The mathematics is the same, but its redundant work is reproduced: deep copies, the encoder once per branch,
the mask's control twice, the augmentation for the whole batch, one graph for everything, gradient
checkpointing, and attention that materialises its matrix. Only its sliced attention, even slower on a CPU, is
left out.
"""

from __future__ import annotations

import copy

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor

from siamese_core.architecture import Architecture
from siamese_core.diffusers_backend.base_model import build_unet
from siamese_core.diffusers_backend.networks import DHIControlNet, SiameseNetworks
from siamese_core.method.ddim import ddim_sample, guided
from siamese_core.method.noise_schedule import add_noise, renoise
from siamese_core.method.objective import ObjectiveSettings, TrainingBatch, per_sample_error
from siamese_core.seeds import starting_noise


def random_networks(architecture: Architecture, seed: int = 0) -> SiameseNetworks:
    """Networks with random weights, also in the zero convolutions, so that all terms and gradients count."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = build_unet(architecture.unet)
        control = DHIControlNet.initialised_from(unet, architecture)
        for parameter in control.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return SiameseNetworks.assemble(unet.eval(), control.eval())


def as_published(networks: SiameseNetworks) -> None:
    """Apply the published settings to ``networks`` in place: plain attention and gradient checkpointing."""
    for module in (networks.control, networks.encoder, networks.decoder):
        for part in module.modules():
            if isinstance(part, Attention):
                part.set_processor(AttnProcessor())
    networks.checkpoint_gradients()


def published_step(
    networks: SiameseNetworks, batch: TrainingBatch, settings: ObjectiveSettings, step: int, total_steps: int
) -> Tensor:
    """Accumulate the gradients of training step k of N by the published schedule; return the loss (0-d)."""
    encoder, control, decoder = networks.encoder, networks.control, networks.decoder
    # The published code copies the whole UNet, including its frozen encoder, and the control network.
    encoder_copy, decoder_copy = copy.deepcopy(encoder), copy.deepcopy(decoder)
    control_copy = copy.deepcopy(control)
    timesteps, context = batch.timesteps, batch.context
    z_t = add_noise(batch.latent, batch.noise, timesteps)

    with torch.no_grad():
        encoded = encoder(z_t, timesteps, context)
    control_mask = control.control(z_t, timesteps, context, control.hint_features(batch.mask_hint))
    noise_mask = decoder(encoded, context, control_mask)

    with torch.no_grad():
        encoded = encoder_copy(z_t, timesteps, context)
        features = control_copy.hint_features(batch.mask_hint)
        constant = control_copy.control(z_t, timesteps, context, features)
    control_image = control.control(z_t, timesteps, context, control.hint_features(batch.image_hint))
    weight = settings.image_weight(step, total_steps)
    mix = [mask + weight * image for mask, image in zip(constant, control_image, strict=True)]
    noise_image = decoder_copy(encoded, context, mix)

    loss = per_sample_error(noise_mask, batch.noise) + per_sample_error(noise_image, batch.noise)
    loss = loss + settings.consistency_weight * per_sample_error(noise_mask, noise_image.detach())
    if settings.augments(step, total_steps):
        z_new = renoise(z_t, batch.noise, noise_image.detach(), timesteps)
        with torch.no_grad():
            encoded = encoder(z_new, timesteps, context)
        control_new = control.control(z_new, timesteps, context, control.hint_features(batch.mask_hint))
        error = per_sample_error(decoder(encoded, context, control_new), batch.noise)
        counted = timesteps <= settings.augmentation_max_timestep
        loss = loss + settings.augmentation_weight * counted * error
    total = loss.mean()
    total.backward()
    return total.detach()


@torch.no_grad()
def published_sample(
    networks: SiameseNetworks,
    mask_hint: Tensor,
    context: Tensor,
    unconditional: Tensor,
    guidance_scale: float,
    seed: int,
    steps: int,
) -> Tensor:
    """The latent (1, 4, h, w) for one mask hint (1, 3, 8h, 8w); the hint block runs at every step."""
    both = torch.cat([context, unconditional])
    hints = torch.cat([mask_hint, mask_hint])

    def predict(latent: Tensor, timestep: int) -> Tensor:
        latents = torch.cat([latent, latent])
        timesteps = torch.full((2,), timestep, device=latent.device)
        features = networks.control.hint_features(hints)
        control = networks.control.control(latents, timesteps, both, features)
        encoded = networks.encode(latents, timesteps, both)
        return guided(networks.decoder(encoded, both, control), guidance_scale)

    height, width = mask_hint.shape[-2:]
    start = starting_noise(seed, height // 8, width // 8).to(mask_hint.device)
    return ddim_sample(predict, start, steps)
