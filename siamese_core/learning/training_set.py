"""The training data in the form that a step needs, with all outputs of frozen networks precomputed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..architecture import LATENT_SCALE
from ..method.noise_schedule import TRAIN_TIMESTEPS, stratified_timesteps
from ..method.objective import TrainingBatch
from ..seeds import epoch_order, generator, shuffled_places, stream_seed
from .settings import BatchSettings


@dataclass(frozen=True)
class TrainingSet:
    """N encoded pairs.

    ``images`` (N, 3, R, R) uint8; ``masks`` (N, R, R) bool; ``moments`` (N, 2, 4, R/8, R/8): mean and
    standard deviation of the VAE's posterior, unscaled; ``contexts`` (P, 77, width): conditioning of the
    distinct prompts, then of ""; ``prompt_index`` (N,): each pair's row of ``contexts``.
    """

    images: Tensor
    masks: Tensor
    moments: Tensor
    contexts: Tensor
    prompt_index: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(
        self,
        seed: int,
        step: int,
        settings: BatchSettings,
        device: torch.device | str,
        process: int = 0,
        processes: int = 1,
    ) -> TrainingBatch:
        """The part of step k's batch that belongs to ``process``, as a pure function of set and arguments.

        All draws are made for the global batch, so that a step's samples do not depend on how many processes
        share it. Latents are drawn from the cached posterior at every step; a share ``prompt_dropout`` of the
        samples gets the empty prompt.
        """
        pairs = self.places(seed, step, settings, processes)
        own_pairs = slice(process * settings.batch_size, (process + 1) * settings.batch_size)
        count = len(pairs) * settings.draws_per_pair
        own = slice(own_pairs.start * settings.draws_per_pair, own_pairs.stop * settings.draws_per_pair)

        rng = generator(stream_seed(seed, "batch", step))
        shape = (count, *self.moments.shape[2:])
        posterior, noise = torch.randn(shape, generator=rng)[own], torch.randn(shape, generator=rng)[own]
        if settings.timestep_sampling == "stratified":
            timesteps = stratified_timesteps(count, rng)[own]
        else:
            timesteps = torch.randint(TRAIN_TIMESTEPS, (count,), generator=rng)[own]
        dropped = (torch.rand(count, generator=rng) < settings.prompt_dropout)[own]

        pairs = pairs[own_pairs]
        chosen = torch.tensor(pairs).repeat_interleave(settings.draws_per_pair)
        mean, std = self.moments[chosen].unbind(dim=1)
        latent = (mean + std * posterior) * LATENT_SCALE
        prompts = self.prompt_index[chosen].masked_fill(dropped, len(self.contexts) - 1)
        return TrainingBatch(
            latent=latent.to(device),
            noise=noise.to(device),
            timesteps=timesteps.to(device),
            context=self.contexts[prompts].to(device),
            mask_hint=mask_hint(self.masks[pairs].to(device)),  # transfer bytes, convert on the device
            image_hint=image_hint(self.images[pairs].to(device)),
            host_timesteps=timesteps,
        )

    def places(self, seed: int, step: int, settings: BatchSettings, processes: int = 1) -> list[int]:
        """Indices of the pairs in step k's global batch.

        Every pair is drawn equally often; with ``balance_prompts``, every prompt is, and within a prompt
        every pair.
        """
        count = settings.batch_size * processes
        if not settings.balance_prompts:
            return epoch_order(seed, step, count, len(self))
        return [self._balanced_place(seed, place) for place in range(step * count, (step + 1) * count)]

    @cached_property
    def _places_by_prompt(self) -> list[Tensor]:
        """The pair indices of each prompt that occurs, in ascending order."""
        order = self.prompt_index.argsort(stable=True)
        return list(order.split(self.prompt_index.unique(return_counts=True)[1].tolist()))

    def _balanced_place(self, seed: int, position: int) -> int:
        """The pair at ``position`` of an endless order in which every round visits all prompts, shuffled.

        In round r each prompt contributes the r-th pair of its own endless shuffled order.
        """
        groups = self._places_by_prompt
        turn = position // len(groups)
        prompt = shuffled_places(seed, position, 1, len(groups), "order-prompts")[0]
        group = groups[prompt]
        return int(group[shuffled_places(seed, turn, 1, len(group), f"order-prompt-{prompt}")[0]])


def mask_hint(masks: Tensor) -> Tensor:
    """``(B, H, W)`` bool -> hint ``(B, 3, H, W)`` float32 of 0 and 1."""
    return masks[:, None].expand(-1, 3, -1, -1).float()


def image_hint(images: Tensor) -> Tensor:
    """``(B, 3, H, W)`` uint8 -> hint of that shape, float32 in [0, 1]: (x + 1) / 2 of the scaled image x."""
    return images.float() / 255.0
