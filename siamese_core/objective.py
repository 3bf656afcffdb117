"""The Siamese objective (paper, sections 3.2 to 3.4): four terms, their gates and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .schedule import add_noise, renoise, snr_weights
from .settings import option


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights and gates; the defaults are the paper's.

    ``branches="mask"`` trains on the mask alone (the ablation's baseline): only the first term remains.
    A weight of 0 for consistency or augmentation removes that term and its work. ``snr_exponent`` weighs
    all terms of a sample as :func:`schedule.snr_weights` says.
    """

    branches: Literal["siamese", "mask"] = option("siamese", "siamese, or the mask branch alone (ablation)")
    mask_weight: float = option(1.0, "w_m, weight of the mask's control in the mix")
    consistency_weight: float = option(1.0, "w_c, weight of the noise consistency; 0 leaves it out")
    augmentation_weight: float = option(1.0, "w_a, weight of the online augmentation; 0 leaves it out")
    augmentation_start: float = option(1 / 3, "K_tau as a share of N: augmentation runs after it")
    augmentation_max_timestep: int = option(200, "T_tau: augmentation takes samples up to this timestep")

    snr_exponent: float = option(
        0.0, "weigh samples by (SNR + 0.01) ** -this: 0 is the paper, 0.5 what small latents want"
    )

    def image_weight(self, step: int, total_steps: int) -> float:
        """w_i = k / N, weight of the image's control in the mix."""
        return step / total_steps

    def sample_weights(self, timesteps: Tensor) -> Tensor:
        """Weight of each sample's terms, (B,) float32, for ``timesteps`` (B,)."""
        return snr_weights(timesteps, self.snr_exponent)

    def augments(self, step: int, total_steps: int) -> bool:
        """Whether step k is past the gate: ``k > K_tau``, strictly."""
        past_gate = step > total_steps * self.augmentation_start
        return self.branches == "siamese" and self.augmentation_weight != 0 and past_gate


@dataclass(frozen=True)
class TrainingBatch:
    """One batch, all tensors on the networks' device.

    ``latent`` and ``noise`` (B, 4, h, w), latents scaled; ``timesteps`` (B,) in 0..999; ``context``
    (B, tokens, width); ``mask_hint`` and ``image_hint`` (P, 3, 8h, 8w) in [0, 1]: P pairs with B / P
    samples each, those of a pair one after the other.
    """

    latent: Tensor
    noise: Tensor
    timesteps: Tensor
    context: Tensor
    mask_hint: Tensor
    image_hint: Tensor


@dataclass(frozen=True)
class StepTerms:
    """Detached per-sample means of the squared errors, each (B,), unweighted; and the batch loss (0-d).

    ``augmentation`` is 0 where a sample does not take part. ``noise_mask`` and ``noise_image`` are the
    predictions of the two branches.
    """

    loss: Tensor
    mask: Tensor
    image: Tensor
    consistency: Tensor
    augmentation: Tensor
    noise_mask: Tensor
    noise_image: Tensor

    def means(self) -> dict[str, Tensor]:
        """Batch means of loss and terms, as logged."""
        names = ("mask", "image", "consistency", "augmentation")
        return {"loss": self.loss, **{name: getattr(self, name).mean() for name in names}}


class Networks(Protocol):
    """What the objective needs of the networks; see ``networks.SiameseNetworks``."""

    control: Any
    decoder: Any
    shadow: Any

    def encode(self, latent: Tensor, timesteps: Tensor, context: Tensor) -> Any: ...


def siamese_step(
    networks: Networks,
    batch: TrainingBatch,
    settings: ObjectiveSettings,
    step: int,
    total_steps: int,
    backward: Callable[[Tensor], None],
) -> StepTerms:
    """Losses of training step k of N; gradients are accumulated by calling ``backward`` on their parts.

    Each branch is back-propagated and freed before the next one is built. The parts sum up to
    ``loss = mean over B of L_m + L_i + w_c L_c + w_a [t <= T_tau] L_m'``, each sample's terms times its
    weight (1 in the paper). The image branch reaches the control network only, through c_i. The frozen
    encoder runs once for both branches, c_m once, and the online augmentation on the qualifying samples only.
    """
    z_t = add_noise(batch.latent, batch.noise, batch.timesteps)
    encoded = networks.encode(z_t, batch.timesteps, batch.context)
    # The hint block's graph is shared by mask branch and augmentation: they meet in this leaf, and the
    # gradient collected there goes through the hint block once, at the end.
    mask_features = networks.control.hint_features(batch.mask_hint)
    features = _per_sample(mask_features, batch).detach().requires_grad_()
    control_mask = networks.control.control(z_t, batch.timesteps, batch.context, features)

    weights = settings.sample_weights(batch.timesteps)
    zeros = torch.zeros_like(batch.timesteps, dtype=torch.float32)
    image = consistency = augmentation = zeros
    noise_image: Tensor | None = None
    if settings.branches == "siamese":
        noise_image, image_loss = _image_branch(
            networks, batch, settings, z_t, encoded, control_mask, settings.image_weight(step, total_steps)
        )
        if image_loss.requires_grad:
            backward((weights * image_loss).mean())
        image = image_loss.detach()
        del image_loss

    noise_mask = networks.decoder(encoded, batch.context, control_mask)
    del control_mask
    mask_loss = per_sample_error(noise_mask, batch.noise)
    part = mask_loss
    if noise_image is not None:
        consistency_loss = per_sample_error(noise_mask, noise_image)
        consistency = consistency_loss.detach()
        if settings.consistency_weight:
            part = part + settings.consistency_weight * consistency_loss
        del consistency_loss
    backward((weights * part).mean())
    mask, noise_mask = mask_loss.detach(), noise_mask.detach()
    del mask_loss, part, encoded

    if noise_image is not None and settings.augments(step, total_steps):
        augmentation = _augmentation_branch(networks, batch, settings, z_t, noise_image, features, backward)
    if features.grad is not None:
        _per_sample(mask_features, batch).backward(features.grad)

    total = mask + image + settings.consistency_weight * consistency
    total = total + settings.augmentation_weight * augmentation
    return StepTerms(
        loss=(weights * total).mean(),
        mask=mask,
        image=image,
        consistency=consistency,
        augmentation=augmentation,
        noise_mask=noise_mask,
        noise_image=noise_mask if noise_image is None else noise_image,
    )


def per_sample_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, (B,), in float32."""
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))


def _per_sample(features: Tensor, batch: TrainingBatch) -> Tensor:
    """Hint features of P pairs (P, C, h, w), repeated for the samples of each pair: (B, C, h, w)."""
    return features.repeat_interleave(len(batch.timesteps) // len(features), dim=0)


def _image_branch(
    networks: Networks,
    batch: TrainingBatch,
    settings: ObjectiveSettings,
    z_t: Tensor,
    encoded: Any,
    control_mask: list[Tensor],
    image_weight: float,
) -> tuple[Tensor, Tensor]:
    """eps_mix, detached, and L_i (B,) with its graph, from c_mix = w_m sg(c_m) + w_i c_i."""
    mix = [settings.mask_weight * part.detach() for part in control_mask]
    if image_weight:  # at k = 0 the image has no say and gets no gradient
        features = _per_sample(networks.control.hint_features(batch.image_hint), batch)
        control_image = networks.control.control(z_t, batch.timesteps, batch.context, features)
        mix = [mask + image_weight * image for mask, image in zip(mix, control_image, strict=True)]
    prediction = networks.shadow(encoded, batch.context, mix)
    return prediction.detach(), per_sample_error(prediction, batch.noise)


def _augmentation_branch(
    networks: Networks,
    batch: TrainingBatch,
    settings: ObjectiveSettings,
    z_t: Tensor,
    noise_image: Tensor,
    features: Tensor,
    backward: Callable[[Tensor], None],
) -> Tensor:
    """L_m' (B,), detached: the mask branch on latents re-noised from the image branch's clean prediction."""
    chosen = (batch.timesteps <= settings.augmentation_max_timestep).nonzero().flatten()
    result = torch.zeros_like(batch.timesteps, dtype=torch.float32)
    if not len(chosen):
        return result
    timesteps, context, noise = batch.timesteps[chosen], batch.context[chosen], batch.noise[chosen]
    z_new = renoise(z_t[chosen], noise, noise_image[chosen], timesteps)
    encoded = networks.encode(z_new, timesteps, context)
    control = networks.control.control(z_new, timesteps, context, features[chosen])
    error = per_sample_error(networks.decoder(encoded, context, control), noise)
    weighted = settings.augmentation_weight * settings.sample_weights(timesteps) * error
    # The mean divides by the whole batch, not by the number of qualifying samples.
    backward(weighted.sum() / len(batch.timesteps))
    result[chosen] = error.detach()
    return result
