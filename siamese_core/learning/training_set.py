"""The training data of Siamese-Diffusion in the form a step needs: everything frozen encoded once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib import format
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..architecture import LATENT_SCALE
from ..diffusers_backend.base_model import Base
from ..diffusers_backend.base_training import encode_moments
from ..diffusers_backend.text_encoder import encode_prompts
from ..files import whole_folder
from ..masks.mask_files import ResizeMode
from ..method.noise_schedule import TRAIN_TIMESTEPS, stratified_timesteps
from ..method.objective import TrainingBatch
from ..pairs.pair_files import Pair, load_pair
from ..seeds import epoch_order, generator, stream_seed
from ..settings import COUNT, SHARE, option

_KEY_FILE = "made_from.json"
_CHUNK = 8  # pairs, or prompts, encoded at a time


@dataclass(frozen=True)
class BatchSettings:
    """What one step trains on; the defaults are the paper's, per device."""

    batch_size: int = option(6, "pairs a step (the paper's global batch is 48 = 8 x 6)", COUNT)
    draws_per_pair: int = option(
        1,
        "timesteps and noises a step draws for each pair; its hints are computed once for all of them",
        COUNT,
    )
    timestep_sampling: Literal["independent", "stratified"] = option(
        "independent", "stratified: a step's timesteps lie evenly over 0..999; same expectation, less noise"
    )
    prompt_dropout: float = option(0.05, "share of samples trained on the empty prompt", SHARE)


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
        self,
        seed: int,
        step: int,
        settings: BatchSettings,
        device: torch.device | str,
        process: int = 0,
        processes: int = 1,
    ) -> TrainingBatch:
        """The batch of step k, a pure function of the set and the arguments; of it, the part of a process.

        Everything is drawn for the batch of all processes together, so that a step's samples are the same
        however many share them. Latents are drawn from the cached posterior anew each step; a share
        ``prompt_dropout`` of the samples gets the empty prompt.
        """
        pairs = epoch_order(seed, step, settings.batch_size * processes, len(self))
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
            mask_hint=mask_hint(self.masks[pairs].to(device)),  # bytes travel, floats are made there
            image_hint=image_hint(self.images[pairs].to(device)),
        )


def mask_hint(masks: Tensor) -> Tensor:
    """``(B, H, W)`` bool -> hint ``(B, 3, H, W)`` of 0 and 1, float32."""
    return masks[:, None].expand(-1, 3, -1, -1).float()


def image_hint(images: Tensor) -> Tensor:
    """``(B, 3, H, W)`` uint8 -> hint in [0, 1], float32: (x + 1) / 2 of the image in [-1, 1]."""
    return images.float() / 255.0


def encode_pairs(
    folder: Path,
    key: str,
    base: Base,
    pairs: Sequence[Pair],
    resolution: int,
    mode: ResizeMode = "stretch",
    threshold: int = 127,
    label: int | None = None,
    default_prompt: str = "",
) -> None:
    """Read, resize and encode ``pairs`` into ``folder`` with ``base``'s VAE and text encoder.

    They run on the device they lie on, on a few pairs at a time. ``key`` says what the set was made from; an
    older set in ``folder`` is replaced when the new one is whole. Raises PairError for a pair that cannot be
    read and OSError when the set cannot be written.
    """
    prompts = [pair.prompt if pair.prompt is not None else default_prompt for pair in pairs]
    distinct = [*sorted(set(prompts)), ""]
    places = {prompt: place for place, prompt in enumerate(distinct[:-1])}
    try:
        with whole_folder(folder) as temporary, contextlib.ExitStack() as files:
            (temporary / _KEY_FILE).write_text(key, "utf-8")

            def rows(name: str, count: int) -> _Rows:
                return files.enter_context(_Rows(temporary / f"{name}.npy", count))

            contexts = rows("contexts", len(distinct))
            for start in range(0, len(distinct), _CHUNK):
                chunk = distinct[start : start + _CHUNK]
                contexts.append(encode_prompts(base.text_encoder, base.tokenizer, chunk).cpu().numpy())
            rows("prompt_index", len(pairs)).append(np.array([places[prompt] for prompt in prompts]))

            images, masks, moments = (rows(name, len(pairs)) for name in ("images", "masks", "moments"))
            size = (resolution, resolution)
            starts = range(0, len(pairs), _CHUNK)
            for start in tqdm(starts, desc="encoding pairs", mininterval=1.0):
                loaded = [
                    load_pair(pair, size=size, mode=mode, threshold=threshold, label=label)
                    for pair in pairs[start : start + _CHUNK]
                ]
                pixels = np.ascontiguousarray(np.stack([pair.image for pair in loaded]).transpose(0, 3, 1, 2))
                images.append(pixels)
                masks.append(np.stack([pair.mask for pair in loaded]))
                moments.append(encode_moments(base.vae, torch.from_numpy(pixels)).numpy())
    except OSError as error:
        if error.filename is None:
            error.filename = str(folder)  # writing to an open file does not say which
        raise


class _Rows:
    """A ``.npy`` file of ``count`` rows, written a few at a time; complete when the block ends."""

    def __init__(self, path: Path, count: int) -> None:
        self._file = path.open("wb")
        self._count = count

    def append(self, rows: NDArray[Any]) -> None:
        """Add ``rows`` (n, ...); all of a file have the shape and type of the first."""
        if not self._file.tell():
            shape = (self._count, *rows.shape[1:])
            header = {"descr": format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
            format.write_array_header_2_0(self._file, header)
        # Not through a memory map: on a full disk that would kill the process instead of raising.
        self._file.write(np.ascontiguousarray(rows).data)

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def load_training_set(folder: Path, key: str) -> TrainingSet | None:
    """The encoded set in ``folder``, memory-mapped, or None when there is none made from ``key``.

    A set that is damaged or of another kind counts as none, because it can be made again.
    """
    try:
        if (folder / _KEY_FILE).read_text("utf-8") != key:
            return None
        names = [field.name for field in fields(TrainingSet)]
        # Copy on write: nothing is ever written, but tensors on read-only memory bring a warning.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in names}
    except (OSError, ValueError, EOFError):
        return None
    return TrainingSet(**{name: torch.from_numpy(array) for name, array in arrays.items()})
