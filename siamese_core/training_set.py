"""The training data of Siamese-Diffusion in the form a step needs: everything frozen encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from .architecture import LATENT_SCALE
from .base import Base
from .base_training import encode_moments
from .files import atomic_path
from .masks import ResizeMode
from .objective import TrainingBatch
from .pairs import Pair, load_pair
from .schedule import TRAIN_TIMESTEPS, stratified_timesteps
from .seeds import epoch_order, generator, stream_seed
from .settings import option
from .text import encode_prompts

_KEY = "siamese.cache"  # the metadata entry that says what an encoded set was made from


@dataclass(frozen=True)
class BatchSettings:
    """What one step trains on; the defaults are the paper's, per device."""

    batch_size: int = option(6, "pairs a step (the paper's global batch is 48 = 8 x 6)")
    draws_per_pair: int = option(
        1, "timesteps and noises a step draws for each pair; its hints are computed once for all of them"
    )
    timestep_sampling: Literal["independent", "stratified"] = option(
        "independent", "stratified: a step's timesteps lie evenly over 0..999; same expectation, less noise"
    )
    prompt_dropout: float = option(0.05, "share of samples trained on the empty prompt")


@dataclass(frozen=True)
class TrainingSet:
    """N encoded pairs.

    ``images`` (N, 3, R, R) uint8; ``masks`` (N, R, R) bool; ``moments`` (N, 2, 4, R/8, R/8): mean and
    standard deviation of the VAE's posterior, unscaled; ``contexts`` (P, 77, width): conditioning of the
    distinct prompts, the last one that of ""; ``prompt_index`` (N,) into it.
    """

    images: Tensor
    masks: Tensor
    moments: Tensor
    contexts: Tensor
    prompt_index: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(
        self, seed: int, step: int, settings: BatchSettings, device: torch.device | str
    ) -> TrainingBatch:
        """The batch of step k: a pure function of the set and the arguments.

        Latents are drawn from the cached posterior anew each step; a share ``prompt_dropout`` of the samples
        gets the empty prompt.
        """
        pairs = epoch_order(seed, step, settings.batch_size, len(self))
        rng = generator(stream_seed(seed, "batch", step))
        chosen = torch.tensor(pairs).repeat_interleave(settings.draws_per_pair)
        mean, std = self.moments[chosen].unbind(dim=1)
        latent = (mean + std * torch.randn(mean.shape, generator=rng)) * LATENT_SCALE
        noise = torch.randn(mean.shape, generator=rng)
        if settings.timestep_sampling == "stratified":
            timesteps = stratified_timesteps(len(chosen), rng)
        else:
            timesteps = torch.randint(TRAIN_TIMESTEPS, (len(chosen),), generator=rng)
        dropped = torch.rand(len(chosen), generator=rng) < settings.prompt_dropout
        prompts = self.prompt_index[chosen].masked_fill(dropped, len(self.contexts) - 1)
        return TrainingBatch(
            latent=latent.to(device),
            noise=noise.to(device),
            timesteps=timesteps.to(device),
            context=self.contexts[prompts].to(device),
            mask_hint=mask_hint(self.masks[pairs]).to(device),
            image_hint=image_hint(self.images[pairs]).to(device),
        )


def mask_hint(masks: Tensor) -> Tensor:
    """``(B, H, W)`` bool -> hint ``(B, 3, H, W)`` of 0 and 1, float32."""
    return masks[:, None].expand(-1, 3, -1, -1).float()


def image_hint(images: Tensor) -> Tensor:
    """``(B, 3, H, W)`` uint8 -> hint in [0, 1], float32: (x + 1) / 2 of the image in [-1, 1]."""
    return images.float() / 255.0


def encode_pairs(
    base: Base,
    pairs: Sequence[Pair],
    resolution: int,
    mode: ResizeMode = "stretch",
    threshold: int = 127,
    label: int | None = None,
    default_prompt: str = "",
) -> TrainingSet:
    """Read, resize and encode ``pairs`` with ``base``'s VAE and text encoder, on their device."""
    loaded = [
        load_pair(pair, size=(resolution, resolution), mode=mode, threshold=threshold, label=label)
        for pair in tqdm(pairs, desc="reading pairs", mininterval=1.0)
    ]
    images = torch.from_numpy(np.stack([pair.image for pair in loaded])).permute(0, 3, 1, 2).contiguous()
    masks = torch.from_numpy(np.stack([pair.mask for pair in loaded]))
    prompts = [pair.prompt if pair.prompt is not None else default_prompt for pair in pairs]
    distinct = [*sorted(set(prompts)), ""]
    return TrainingSet(
        images=images,
        masks=masks,
        moments=encode_moments(base.vae, images, batch_size=8),
        contexts=encode_prompts(base.text_encoder, base.tokenizer, distinct).cpu(),
        prompt_index=torch.tensor([distinct.index(prompt) for prompt in prompts]),
    )


def save_training_set(path: Path, data: TrainingSet, key: str) -> None:
    """Write the encoded set to one file; ``key`` says what it was made from."""
    with atomic_path(path) as temporary:
        save_file(vars(data), temporary, {_KEY: key})


def load_training_set(path: Path, key: str) -> TrainingSet | None:
    """The encoded set at ``path``, memory-mapped, or None when there is none made from ``key``.

    A file that is damaged or of another kind counts as none, because it can be made again.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(_KEY) != key:
                return None
            return TrainingSet(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except SafetensorError:
        return None
