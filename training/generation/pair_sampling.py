"""Sampling the pairs of a dataset with the diffusers-backed networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from siamese_core.architecture import LATENT_STRIDE
from siamese_core.dataset_generation.background_frames import Frame, Frames, frame_of_pair
from siamese_core.dataset_generation.mask_source import MaskSource, PairMask, PairSize
from siamese_core.diffusers_backend.image_decoding import decode_images
from siamese_core.diffusers_backend.mask_sampling import (
    Sampler,
    controlled_noise_predictor,
    sample_latents,
)
from siamese_core.diffusers_backend.pair_encoding import encode_frame
from siamese_core.diffusers_backend.prompt_encoding import encode_prompts
from siamese_core.diffusers_backend.siamese_model import Precision, SiameseModel
from siamese_core.files import file_digest
from siamese_core.learning.training_set import image_hint, mask_hint
from siamese_core.masks.foreground_rule import ForegroundRule, ForegroundSource
from siamese_core.masks.resizing import ResizeMode, resize_image
from siamese_core.method.background_blending import (
    KeptLatents,
    blend_weights,
    generated_latents,
    over_frame,
)
from siamese_core.pairs.export_formats import FinishedPair
from siamese_core.pairs.image_files import read_image
from siamese_core.pairs.manifest import PairRecord, record_text
from siamese_core.resume_check import READ_DIFFERENTLY
from siamese_core.seeds import sample_seed
from siamese_core.settings import option, recorded

from .prompts import Prompts


@dataclass(frozen=True)
class SamplerSettings:
    """The manifest's record of a pair's sampling; ``batch_size`` is that of the batch it was computed in."""

    steps: int
    guidance: float
    negative_prompt: str
    resolution: int
    resize_mode: ResizeMode
    size: PairSize
    mask_threshold: int
    mask_label: int | None
    image_weight: float | None
    shares_text: bool
    threads: int
    name: Sampler = "ddim"
    precision: Precision = option("fp32", "number format of the networks", added_later=True)
    compile: bool = option(False, "whether torch compiled the networks", added_later=True)
    mask_weight: float = option(1.0, "weight of the mask's control, of the joint baseline", added_later=True)
    batch_size: int = 0
    image_digest: str | None = None
    device: str = "cpu"
    mask_from: ForegroundSource = option("auto", "as the flag", added_later=True)
    mask_colour: str | None = option(None, "as the flag", added_later=True)
    invert: bool = option(False, "as the flag", added_later=True)
    blend: int | None = option(None, "width of the rim around the mask, over a frame", added_later=True)
    background: str | None = option(None, "file name of the pair's frame", added_later=True)
    background_digest: str | None = option(None, "SHA-256 of that file", added_later=True)

    @property
    def mask_rule(self) -> ForegroundRule:
        """The rule that the mask file was read with. Raises UserError for recorded values out of range."""
        return ForegroundRule(
            self.mask_threshold, self.mask_label, self.mask_from, self.mask_colour, self.invert
        )

    def reading_by(self, rule: ForegroundRule) -> SamplerSettings:
        """A copy with ``rule`` as the rule that the mask file was read with."""
        return replace(
            self,
            mask_threshold=rule.threshold,
            mask_label=rule.label,
            mask_from=rule.source,
            mask_colour=rule.colour,
            invert=rule.invert,
        )


_OF_A_PAIR = ("batch_size", "image_digest", "background", "background_digest")
"""Fields of SamplerSettings that differ between the pairs of a dataset."""


@dataclass(frozen=True)
class PairJob:
    """A pair to sample: its record, its mask, and the image prior (H, W, 3) uint8 if there is one.

    ``frame`` is the real frame around the mask, if any, at the written size.
    """

    record: PairRecord
    mask: PairMask
    image: NDArray[np.uint8] | None
    frame: Frame | None = None


@dataclass(frozen=True)
class PairSampler:
    """Samples the pairs of ``masks``; ``images[k]`` is the image prior for mask file k."""

    model: SiameseModel
    sampler: SamplerSettings
    masks: MaskSource
    prompts: Prompts
    images: Sequence[Path] | None
    checkpoint_digest: str
    run_id: str
    frames: Frames | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the pairs besides the batch size."""
        sampler = recorded(replace(self.sampler, device=self.model.device.type))
        transforms = self.masks.use.transforms
        return {
            **{name: value for name, value in sampler.items() if name not in _OF_A_PAIR},
            "masks": self.masks.digest,
            "per_mask": self.masks.per_mask,
            "transforms": None if transforms is None else recorded(transforms),
            "prompts": self.prompts.digest,
            "images": _digest([file_digest(path) for path in self.images]) if self.images else None,
            "seed": self.masks.seed,
            "checkpoint": self.checkpoint_digest,
            "run_id": self.run_id,
            **({READ_DIFFERENTLY: self.masks.changes} if self.masks.changes else {}),
            **({"backgrounds": self.frames.digest} if self.frames else {}),
        }

    def job(self, index: int) -> PairJob:
        """The job for pair ``index``. Raises TransformError when no mask for it can be drawn."""
        mask, number = self.masks.mask(index), self.masks.number(index)
        image, image_digest = None, None
        if self.images is not None:
            image = resize_image(
                read_image(self.images[number]), self.masks.use.size, self.sampler.resize_mode
            )
            image_digest = file_digest(self.images[number])
        frame = None
        if self.frames is not None:
            height, width = mask.written.shape
            frame = frame_of_pair(
                self.frames, self.masks.seed, index, (height, width), self.sampler.resize_mode
            )
        sampler = replace(
            self.sampler.reading_by(mask.rule),
            image_digest=image_digest,
            device=self.model.device.type,
            background=None if frame is None else frame.name,
            background_digest=None if frame is None else frame.digest,
        )
        record = PairRecord(
            index=index,
            stem=mask.stem,
            seed=sample_seed(self.masks.seed, index),
            mask_file=mask.file.name,
            mask_digest=mask.digest,
            prompt=self.prompts.of(number, index),
            sampler=recorded(sampler),
            checkpoint_digest=self.checkpoint_digest,
            run_id=self.run_id,
            transform=mask.transform,
            versions=versions(),
        )
        return PairJob(record, mask, image, frame)

    def sample(self, jobs: Sequence[PairJob]) -> list[FinishedPair]:
        """Sample the ``jobs`` as one batch."""
        return sample_pairs(self.model, jobs, self._texts, self._note_overflow)

    def _note_overflow(self) -> None:
        own = self.sampler.precision
        self._say(f"note: images are not finite when decoded in {own}; such batches are decoded in fp32")

    @cached_property
    def _say(self) -> Callable[[str], None]:
        return cache(tqdm.write)  # each text once

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self.model)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that affect an image's last bits."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers")}


class Texts:
    """Cached conditionings (1, 77, width), each encoded separately so that it does not depend on a batch."""

    def __init__(self, model: SiameseModel) -> None:
        base = model.base
        self.of = lru_cache(maxsize=1024)(
            lambda prompt: encode_prompts(base.text_encoder, base.tokenizer, [prompt])
        )


@torch.no_grad()
def sample_pairs(
    model: SiameseModel,
    jobs: Sequence[PairJob],
    texts: Texts,
    on_overflow: Callable[[], None] = lambda: None,
) -> list[FinishedPair]:
    """Sample ``jobs``, which have one size and equal sampling settings, as one batch by their records.

    Calls ``on_overflow`` and raises NotFiniteError like :func:`decode_images`.
    """
    records = [replace(job.record, sampler={**job.record.sampler, "batch_size": len(jobs)}) for job in jobs]
    sampler = SamplerSettings(**records[0].sampler)
    contexts = torch.cat([texts.of(record.prompt) for record in records])
    unconditional = texts.of(sampler.negative_prompt).expand_as(contexts)
    masks = torch.from_numpy(np.stack([job.mask.for_model for job in jobs]))
    hints = [(mask_hint(masks).to(model.device), sampler.mask_weight)]
    images = [job.image for job in jobs if job.image is not None]
    if images:
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        hints.append((image_hint(pixels).to(model.device), sampler.image_weight or 0.0))
    predict = controlled_noise_predictor(
        model.networks, hints, contexts, unconditional, sampler.guidance, sampler.shares_text
    )
    kept = _kept_latents(model, jobs)
    seeds = [record.seed or 0 for record in records]
    height, width = masks.shape[-2:]
    latents = sample_latents(
        predict if kept is None else kept.around(predict),
        seeds,
        height,
        width,
        sampler.steps,
        device=model.device,
        sampler=sampler.name,
        prediction=model.networks.prediction,
    )
    if kept is not None:
        latents = kept.restored_in(latents)
    pixels_of = decode_images(model.base.vae, latents, on_overflow)
    return [
        _finished(replace(job, record=record), image)
        for record, job, image in zip(records, jobs, pixels_of, strict=True)
    ]


def _kept_latents(model: SiameseModel, jobs: Sequence[PairJob]) -> KeptLatents | None:
    """The latents of the frames of ``jobs`` that sampling keeps; None without frames."""
    latents, generated = [], []
    for job in jobs:
        if job.frame is not None:
            height, width = job.mask.for_model.shape
            latents.append(encode_frame(model.base.vae, resize_image(job.frame.pixels, (height, width))))
            stride = LATENT_STRIDE
            generated.append(generated_latents(_blend_weights(job), (height // stride, width // stride)))
    return KeptLatents(torch.cat(latents), torch.cat(generated).to(model.device)) if latents else None


def _blend_weights(job: PairJob) -> Tensor:
    """The generated share of each pixel, (1, H, W) in 0..1, at the written size."""
    return blend_weights(torch.from_numpy(job.mask.written)[None], job.record.sampler["blend"])


def _finished(job: PairJob, image: NDArray[np.uint8]) -> FinishedPair:
    """The pair at the size of the written mask, with its record as text for the PNG."""
    mask = job.mask.written
    height, width = mask.shape
    image = resize_image(image, (height, width))
    if job.frame is not None:
        pixels, frame = (torch.from_numpy(one) for one in (image, job.frame.pixels))
        image = over_frame(pixels, frame, _blend_weights(job)[0]).numpy()
    return FinishedPair(job.record, image, mask, record_text(job.record))
