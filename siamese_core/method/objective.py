"""The Siamese objective (paper, sections 3.2 to 3.4): its four loss terms, their gates and gradients.

Notation: c_m and c_i are the ControlNet's outputs for the mask and the image, sg() stops gradients, k is the
training step and N the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..architecture import LATENT_STRIDE, Prediction
from ..settings import SHARE, WEIGHT, Range, option
from .noise_schedule import (
    TRAIN_TIMESTEPS,
    add_noise,
    min_snr_weights,
    predicted_noise,
    renoise,
    snr_weights,
    training_target,
)


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights and gates of the loss terms; the defaults are the paper's.

    Besides ``"siamese"``, ``branches`` selects a baseline that trains on the first term alone, with another
    control: ``"mask"`` with c_m, ``"image"`` with c_i, ``"joint"`` (the paper's mask + image, theta_i of
    Fig. 3) with w_m c_m + c_i. An ``augmentation_weight`` of 0 also skips that term's forward pass.
    ``snr_exponent`` and ``min_snr_gamma`` weigh all terms of a sample; see :meth:`sample_weights`.
    """

    branches: Literal["siamese", "mask", "image", "joint"] = option(
        "siamese", "siamese, or a baseline: mask or image alone, or joint (trained on and sampled with both)"
    )
    mask_weight: float = option(1.0, "w_m, weight of the mask's control in the mixed control", WEIGHT)
    consistency_weight: float = option(
        1.0, "w_c, weight of the noise consistency loss; 0 turns it off", WEIGHT
    )
    augmentation_weight: float = option(
        1.0, "w_a, weight of the online augmentation loss; 0 turns it off", WEIGHT
    )
    augmentation_start: float = option(
        1 / 3, "K_tau as a share of N: step after which augmentation runs", SHARE
    )
    augmentation_max_timestep: int = option(
        200, "T_tau: augmentation uses samples up to this timestep", Range(0, TRAIN_TIMESTEPS - 1)
    )

    snr_exponent: float = option(
        0.0,
        "weight samples by (SNR + 0.01) ** -x for this x: 0 is the paper's, 0.5 suits small latents",
        Range(0, 10),
    )
    min_snr_gamma: float = option(
        0.0, "min-SNR weighting with this gamma (5 is usual); 0 turns it off", WEIGHT
    )
    lesion_balance: float = option(
        0.0,
        "weight pixels so that lesion and background count equally (1) or partly so (below 1); 0 is the "
        "paper's",
        SHARE,
    )

    def image_weight(self, step: int, total_steps: int) -> float:
        """w_i = k / N, the weight of c_i in c_mix at step k of N."""
        return step / total_steps

    @property
    def hint_weights(self) -> tuple[float, float]:
        """Weights of c_m and c_i in the control used to sample from the finished model."""
        if self.branches == "joint":
            return self.mask_weight, 1.0
        return (0.0, 1.0) if self.branches == "image" else (1.0, 0.0)

    def sample_weights(self, timesteps: Tensor, prediction: Prediction = "epsilon") -> Tensor:
        """Loss weights (B,) float32 for ``timesteps`` (B,): the product of the SNR and min-SNR weights."""
        weights = snr_weights(timesteps, self.snr_exponent)
        if not self.min_snr_gamma:
            return weights
        return weights * min_snr_weights(timesteps, self.min_snr_gamma, prediction)

    def pixel_weights(self, mask_hint: Tensor) -> Tensor | None:
        """Loss weights per latent pixel, (P, 1, h, w), for hints (P, 3, 8h, 8w) in [0, 1]; None when uniform.

        Their mean over an image is 1. At ``lesion_balance`` 1, lesion and background each carry half of the
        weight whatever their areas (after the lesion/background ratio of arXiv 2507.23652). An image that is
        all lesion or all background gets uniform weights.
        """
        if not self.lesion_balance:
            return None
        lesion = avg_pool2d(mask_hint[:, :1], LATENT_STRIDE)
        area = lesion.mean(dim=(1, 2, 3), keepdim=True)
        balanced = 0.5 * lesion / area + 0.5 * (1.0 - lesion) / (1.0 - area)
        balanced = torch.where((area > 0) & (area < 1), balanced, torch.ones_like(lesion))
        return 1.0 + self.lesion_balance * (balanced - 1.0)

    def augments(self, step: int, total_steps: int) -> bool:
        """Whether step k runs the online augmentation, which starts at ``k > K_tau`` (strictly)."""
        past_gate = step > total_steps * self.augmentation_start
        return self.branches == "siamese" and self.augmentation_weight != 0 and past_gate


@dataclass(frozen=True)
class TrainingBatch:
    """One batch: P pairs with B / P consecutive samples each, all on the networks' device.

    ``latent`` (scaled) and ``noise`` (B, 4, h, w); ``timesteps`` (B,) int64 in 0..999; ``context``
    (B, tokens, width); ``mask_hint`` and ``image_hint`` (P, 3, 8h, 8w) in [0, 1]. ``host_timesteps``, if
    given, is a copy of ``timesteps`` on the CPU.
    """

    latent: Tensor
    noise: Tensor
    timesteps: Tensor
    context: Tensor
    mask_hint: Tensor
    image_hint: Tensor
    host_timesteps: Tensor | None = None

    def up_to(self, timestep: int) -> Tensor:
        """Indices (n,) of the samples with timesteps up to and including ``timestep``.

        With ``host_timesteps`` they are selected on the CPU, without a device synchronisation.
        """
        known = self.timesteps if self.host_timesteps is None else self.host_timesteps
        chosen = (known <= timestep).nonzero().flatten()
        if self.timesteps.is_cuda and not chosen.is_cuda:
            chosen = chosen.pin_memory()  # or the copy would be synchronous
        return chosen.to(self.timesteps.device, non_blocking=True)

    def parts(self, count: int) -> list[TrainingBatch]:
        """Split the batch, in order, into at most ``count`` parts without dividing a pair."""
        pairs = len(self.mask_hint)
        per_pair = len(self.timesteps) // pairs
        bounds = pairwise(pairs * part // count for part in range(count + 1))
        return [
            TrainingBatch(
                latent=self.latent[first * per_pair : last * per_pair],
                noise=self.noise[first * per_pair : last * per_pair],
                timesteps=self.timesteps[first * per_pair : last * per_pair],
                context=self.context[first * per_pair : last * per_pair],
                mask_hint=self.mask_hint[first:last],
                image_hint=self.image_hint[first:last],
                host_timesteps=None
                if self.host_timesteps is None
                else self.host_timesteps[first * per_pair : last * per_pair],
            )
            for first, last in bounds
            if first < last
        ]


@dataclass(frozen=True)
class StepTerms:
    """Detached results of a step: the weighted batch loss (0-d) and the unweighted terms, each (B,).

    A term is a sample's mean squared error; ``augmentation`` is 0 for samples above T_tau. ``noise_mask`` and
    ``noise_image`` (B, 4, h, w) are the predictions (noise or v) of the two branches.
    """

    loss: Tensor
    mask: Tensor
    image: Tensor
    consistency: Tensor
    augmentation: Tensor
    noise_mask: Tensor
    noise_image: Tensor

    def means(self) -> dict[str, Tensor]:
        """The loss and the batch means of the terms (0-d), under the names used in the log."""
        names = ("mask", "image", "consistency", "augmentation")
        return {"loss": self.loss, **{name: getattr(self, name).mean() for name in names}}


class Networks(Protocol):
    """What the objective needs of the networks; see ``diffusers_backend.networks.SiameseNetworks``."""

    control: Any
    decoder: Any
    shadow: Any
    checkpointing: bool
    prediction: Prediction

    def encode(self, latent: Tensor, timesteps: Tensor, context: Tensor) -> Any: ...


def siamese_step(
    networks: Networks,
    batch: TrainingBatch,
    settings: ObjectiveSettings,
    step: int,
    total_steps: int,
    backward: Callable[[Tensor], None],
) -> StepTerms:
    """Compute the losses of step k of N (paper, sections 3.2 to 3.4) and accumulate their gradients.

    ``loss = mean over B of L_m + L_i + w_c L_c + w_a [t <= T_tau] L_m'``, where each sample is multiplied by
    its weight (1 in the paper). ``backward`` is called once per branch with its part of the sum, so that a
    branch's graph is freed before the next one is built. The image branch sends gradients to the control
    network only, through c_i. The frozen encoder and c_m are computed once for both branches; the online
    augmentation runs only on samples with t <= T_tau. Networks that predict v are compared in v throughout.
    """
    z_t = add_noise(batch.latent, batch.noise, batch.timesteps)
    target = training_target(z_t, batch.noise, batch.timesteps, networks.prediction)
    encoded = networks.encode(z_t, batch.timesteps, batch.context)
    hint = batch.image_hint if settings.branches == "image" else batch.mask_hint
    mask_features = _HintFeatures(networks, hint, len(batch.timesteps))
    control_mask = networks.control.control(z_t, batch.timesteps, batch.context, mask_features.per_sample)
    image_features: _HintFeatures | None = None
    if settings.branches == "joint":
        image_features = _HintFeatures(networks, batch.image_hint, len(batch.timesteps))
        control_mask = _joint_control(networks, batch, settings, z_t, control_mask, image_features)
    weights = settings.sample_weights(batch.timesteps, networks.prediction)
    pixels = settings.pixel_weights(batch.mask_hint)
    if pixels is not None:
        pixels = _per_sample(pixels, len(batch.timesteps))
    zeros = torch.zeros_like(batch.timesteps, dtype=torch.float32)
    image = consistency = augmentation = zeros
    noise_image: Tensor | None = None
    if settings.branches == "siamese":
        image_weight = settings.image_weight(step, total_steps)
        noise_image, image = _image_branch(
            networks, batch, settings, z_t, target, encoded, control_mask, image_weight, pixels, backward
        )

    # Cast once, so that under autocast the gradients of both losses are summed in float32.
    noise_mask = networks.decoder(encoded, batch.context, control_mask).float()
    del control_mask
    mask_loss = per_sample_error(noise_mask, target, pixels)
    part = mask_loss
    if noise_image is not None:
        consistency_loss = per_sample_error(noise_mask, noise_image, pixels)
        consistency = consistency_loss.detach()
        if settings.consistency_weight:
            part = part + settings.consistency_weight * consistency_loss
        del consistency_loss
    backward((weights * part).mean())
    mask, noise_mask = mask_loss.detach(), noise_mask.detach()
    del mask_loss, part, encoded

    if noise_image is not None and settings.augments(step, total_steps):
        augmentation = _augmentation_branch(
            networks, batch, settings, z_t, noise_image, mask_features, pixels, backward
        )
    mask_features.backward()
    if image_features is not None:
        image_features.backward()

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


def per_sample_error(prediction: Tensor, target: Tensor, pixel_weights: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample, (B,) float32, for (B, 4, h, w) inputs.

    ``pixel_weights`` (B, 1, h, w) should have mean 1 over each sample.
    """
    squares = (prediction.float() - target.float()).square()
    if pixel_weights is not None:
        squares = pixel_weights * squares
    return squares.mean(dim=(1, 2, 3))


def _per_sample(values: Tensor, samples: int) -> Tensor:
    """Repeat the values of P pairs, (P, ...), for the samples of each pair: (samples, ...)."""
    return values.repeat_interleave(samples // len(values), dim=0)


class _HintFeatures:
    """Hint block features of ``hint`` (P, 3, H, W), computed once and back-propagated once.

    Branches read ``per_sample`` (B, C, h, w), a leaf that collects their gradients; :meth:`backward` sends
    the sum through the hint block. The block works at full resolution, so its graph is the largest of all:
    with ``networks.checkpointing`` it is not kept but rebuilt pair by pair.
    """

    def __init__(self, networks: Networks, hint: Tensor, samples: int) -> None:
        self._block, self._hint = networks.control.hint_features, hint
        with torch.set_grad_enabled(not networks.checkpointing):
            self._features = self._block(hint)
        self.per_sample = _per_sample(self._features, samples).detach().requires_grad_()

    def backward(self) -> None:
        """Accumulate the hint block's gradients; call it after the last branch that reads the features."""
        if self.per_sample.grad is None:
            return
        gradient = self.per_sample.grad.unflatten(0, (len(self._hint), -1)).sum(dim=1)
        if self._features.requires_grad:
            self._features.backward(gradient)
            return
        for hint, part in zip(self._hint.split(1), gradient.split(1), strict=True):
            self._block(hint).backward(part)


def _joint_control(
    networks: Networks,
    batch: TrainingBatch,
    settings: ObjectiveSettings,
    z_t: Tensor,
    control_mask: list[Tensor],
    image_features: _HintFeatures,
) -> list[Tensor]:
    """w_m c_m + c_i of the joint baseline, with gradients through both."""
    control_image = networks.control.control(z_t, batch.timesteps, batch.context, image_features.per_sample)
    mask_weight, image_weight = settings.hint_weights
    return [
        mask_weight * mask + image_weight * image
        for mask, image in zip(control_mask, control_image, strict=True)
    ]


def _image_branch(
    networks: Networks,
    batch: TrainingBatch,
    settings: ObjectiveSettings,
    z_t: Tensor,
    target: Tensor,
    encoded: Any,
    control_mask: list[Tensor],
    image_weight: float,
    pixels: Tensor | None,
    backward: Callable[[Tensor], None],
) -> tuple[Tensor, Tensor]:
    """Back-propagate L_i for c_mix = w_m sg(c_m) + w_i c_i; return eps_mix and L_i (B,), detached."""
    mix = [settings.mask_weight * part.detach() for part in control_mask]
    if not image_weight:  # at k = 0 the image neither contributes nor receives gradients
        with torch.no_grad():
            prediction = networks.shadow(encoded, batch.context, mix)
        return prediction, per_sample_error(prediction, target, pixels)
    features = _HintFeatures(networks, batch.image_hint, len(batch.timesteps))
    control_image = networks.control.control(z_t, batch.timesteps, batch.context, features.per_sample)
    mix = [mask + image_weight * image for mask, image in zip(mix, control_image, strict=True)]
    del control_image
    prediction = networks.shadow(encoded, batch.context, mix)
    del mix
    error = per_sample_error(prediction, target, pixels)
    backward((settings.sample_weights(batch.timesteps, networks.prediction) * error).mean())
    features.backward()
    return prediction.detach(), error.detach()


def _augmentation_branch(
    networks: Networks,
    batch: TrainingBatch,
    settings: ObjectiveSettings,
    z_t: Tensor,
    noise_image: Tensor,
    features: _HintFeatures,
    pixels: Tensor | None,
    backward: Callable[[Tensor], None],
) -> Tensor:
    """Back-propagate L_m', the mask branch on z_t' (see :func:`renoise`); return L_m' (B,), detached."""
    chosen = batch.up_to(settings.augmentation_max_timestep)
    result = torch.zeros_like(batch.timesteps, dtype=torch.float32)
    if not len(chosen):
        return result
    timesteps, context, noise = batch.timesteps[chosen], batch.context[chosen], batch.noise[chosen]
    believed = predicted_noise(noise_image[chosen], z_t[chosen], timesteps, networks.prediction)
    z_new = renoise(z_t[chosen], noise, believed, timesteps)
    target = training_target(z_new, noise, timesteps, networks.prediction)
    encoded = networks.encode(z_new, timesteps, context)
    control = networks.control.control(z_new, timesteps, context, features.per_sample[chosen])
    prediction = networks.decoder(encoded, context, control)
    error = per_sample_error(prediction, target, None if pixels is None else pixels[chosen])
    weights = settings.sample_weights(timesteps, networks.prediction)
    weighted = settings.augmentation_weight * weights * error
    # The mean divides by the whole batch, not by the number of qualifying samples.
    backward(weighted.sum() / len(batch.timesteps))
    result[chosen] = error.detach()
    return result
