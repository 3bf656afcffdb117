"""Paint an image for every mask of a folder: a labelled pair for each.

    python -m training.generate --checkpoint FILE --masks DIR --output DIR

Needs no target images. Written: OUTPUT/images and OUTPUT/masks (lossless PNG of the same stems, masks 0/255
and equal to what was used, pixel for pixel), prompt.json (what training.train reads) and manifest.jsonl (how
each pair was made). Sample i depends on --seed and i alone, not on the batch size.

--images DIR --image-weight W adds the image prior (images of the masks' stems), for the paper's comparison of
mask and mask + image sampling; the results repeat those images and are no new data.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from siamese_core.architecture import LATENT_SCALE
from siamese_core.base import BaseError
from siamese_core.checkpoint import load_model
from siamese_core.cpu_memory import keep_freed_memory
from siamese_core.files import file_digest
from siamese_core.generation import controlled_noise_predictor, sample_latents
from siamese_core.masks import (
    ResizeMode,
    discover_masks,
    list_images,
    read_mask,
    resize_image,
    resize_mask,
)
from siamese_core.model import SiameseModel, model_from_file
from siamese_core.pair_writer import PairRecord, PairWriter, pair_stem
from siamese_core.pairs import PROMPT_FILE, find_pairs, read_image
from siamese_core.sampling import to_uint8
from siamese_core.schedule import ddim_timesteps
from siamese_core.seeds import sample_seed
from siamese_core.settings import option
from siamese_core.text import encode_prompts
from siamese_core.training_set import image_hint, mask_hint

from .options import OptionError, add_flags, command_parser, run_command, settings_of


@dataclass(frozen=True)
class GenerateSettings:
    """What is painted, and how; sampling defaults are the paper's."""

    checkpoint: Path = option(Path(), "full model file (.safetensors) of training.train")
    masks: Path = option(Path(), "folder of masks, or one mask file")
    output: Path = option(Path(), "folder for the pairs, new or empty")
    per_mask: int = option(1, "images per mask")
    prompt: str | None = option(
        None, "prompt; default: the mask's in a prompt.json beside masks/, else the checkpoint's"
    )
    negative_prompt: str = option("", "prompt of the unconditional pass")
    steps: int = option(50, "DDIM steps")
    guidance: float = option(9.0, "guidance scale; 1 switches guidance off")
    resolution: int | None = option(None, "side in pixels, a multiple of 64; without it the checkpoint's")
    resize_mode: ResizeMode = option("stretch", "how masks are brought to it")
    size: Literal["model", "source"] = option(
        "model", "size of the written pair: the model's or the mask file's"
    )
    mask_threshold: int = option(127, "foreground is what exceeds this (0..255)")
    mask_label: int | None = option(None, "the class that counts as foreground, for multi-class masks")
    images: Path | None = option(None, "folder of images of the masks' stems, for the image prior")
    image_weight: float = option(1.0, "weight w_i of the image prior's control")
    batch_size: int = option(4, "samples computed at once")
    seed: int = option(42, "seed of the first sample; the others' are derived")
    threads: int = option(0, "CPU threads, 0 leaves torch's choice")


@dataclass(frozen=True)
class Job:
    """One sample: the mask as read and as used by the model, both bool, and its place in the set."""

    record: PairRecord
    source_mask: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    image: NDArray[np.uint8] | None


def main(arguments: Sequence[str] | None = None) -> int:
    args, settings = parse(arguments)
    _check_settings(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    paths = discover_masks(settings.masks)
    image_paths = _matching_images(settings, paths)
    _check_masks(settings, paths)
    checkpoint = load_model(settings.checkpoint)
    try:
        model = model_from_file(checkpoint)
    except BaseError as error:
        raise BaseError(f"{settings.checkpoint}: {error}") from error
    resolution = settings.resolution or int(
        checkpoint.training.get("resolution", model.base.architecture.resolution)
    )
    prompts = _prompts(settings, paths, str(checkpoint.training.get("prompt", "")))
    device = Accelerator().device
    if device.type == "cpu":
        keep_freed_memory()
    model.to(device)
    writer = PairWriter(settings.output, overwrite=args.overwrite)
    digest = file_digest(settings.checkpoint)
    jobs = _jobs(settings, paths, image_paths, prompts, resolution, digest, checkpoint.run_id)
    print(f"{len(paths) * settings.per_mask} pairs at {resolution} px on {device}, prompt: {prompts[0]!r}")
    with tqdm(total=len(paths) * settings.per_mask, desc="painting", unit="pair") as progress:
        for chunk in _chunks(jobs, settings.batch_size):
            for job, image in zip(chunk, paint(model, chunk, settings, resolution), strict=True):
                write_pair(writer, job, image, settings)
                progress.update()
    print(f"pairs written to {settings.output}")
    return 0


@torch.no_grad()
def paint(
    model: SiameseModel, jobs: Sequence[Job], settings: GenerateSettings, resolution: int
) -> NDArray[np.uint8]:
    """Sample one batch: ``(B, R, R, 3)`` uint8."""
    device = model.device
    base = model.base
    prompts = [*(job.record.prompt for job in jobs), settings.negative_prompt]
    contexts = encode_prompts(base.text_encoder, base.tokenizer, prompts)
    masks = torch.from_numpy(np.stack([job.mask for job in jobs]))
    hints: list[tuple[Tensor, float]] = [(mask_hint(masks).to(device), 1.0)]
    images = [job.image for job in jobs if job.image is not None]
    if images:
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        hints.append((image_hint(pixels).to(device), settings.image_weight))
    predict = controlled_noise_predictor(
        model.networks,
        hints,
        contexts[:-1],
        contexts[-1:].expand(len(jobs), -1, -1),
        settings.guidance,
    )
    seeds = [sample_seed(settings.seed, job.record.index) for job in jobs]
    latents = sample_latents(predict, seeds, resolution, resolution, settings.steps, device)
    return to_uint8(base.vae.decode(latents / LATENT_SCALE).sample)


def write_pair(writer: PairWriter, job: Job, image: NDArray[np.uint8], settings: GenerateSettings) -> None:
    """Write one pair at the size asked for; the mask is the one used, or the source's own at its own size."""
    if settings.size == "source":
        height, width = job.source_mask.shape
        writer.write(job.record, resize_image(image, (height, width)), job.source_mask)
    else:
        writer.write(job.record, image, job.mask)


def _jobs(
    settings: GenerateSettings,
    paths: Sequence[Path],
    image_paths: Sequence[Path | None],
    prompts: Sequence[str],
    resolution: int,
    checkpoint_digest: str,
    run_id: str,
) -> Iterator[Job]:
    side = (resolution, resolution)
    sampler = {
        "name": "ddim",
        "steps": settings.steps,
        "guidance": settings.guidance,
        "negative_prompt": settings.negative_prompt,
        "resolution": resolution,
        "resize_mode": settings.resize_mode,
        "size": settings.size,
        "mask_threshold": settings.mask_threshold,
        "mask_label": settings.mask_label,
        "image_weight": settings.image_weight if settings.images else None,
        "batch_size": settings.batch_size,
    }
    sources = zip(paths, image_paths, prompts, strict=True)
    for number, (path, image_path, prompt) in enumerate(sources):
        reading = read_mask(path, threshold=settings.mask_threshold, label=settings.mask_label)
        image = None
        if image_path is not None:
            image = resize_image(read_image(image_path), side, settings.resize_mode)
        digest = file_digest(path)
        for variant in range(settings.per_mask):
            index = number * settings.per_mask + variant
            record = PairRecord(
                index=index,
                stem=pair_stem(path.stem, variant, settings.per_mask),
                seed=sample_seed(settings.seed, index),
                mask_file=path.name,
                mask_digest=digest,
                prompt=prompt,
                sampler=sampler,
                checkpoint_digest=checkpoint_digest,
                run_id=run_id,
            )
            mask = resize_mask(reading.mask, side, settings.resize_mode)
            yield Job(record, reading.mask, mask, image)


def _chunks(jobs: Iterator[Job], size: int) -> Iterator[list[Job]]:
    chunk: list[Job] = []
    for job in jobs:
        chunk.append(job)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _prompts(settings: GenerateSettings, masks: Sequence[Path], stored: str) -> list[str]:
    """The prompt of each mask: --prompt, else its own in the masks' prompt.json, else the checkpoint's."""
    if settings.prompt is not None:
        return [settings.prompt] * len(masks)
    own: dict[Path, str] = {}
    if (settings.masks / PROMPT_FILE).exists():
        pairs = find_pairs(settings.masks, default_prompt=stored)
        own = {pair.mask.resolve(): pair.prompt or "" for pair in pairs}
    return [own.get(path.resolve(), stored) for path in masks]


def _check_masks(settings: GenerateSettings, masks: Sequence[Path]) -> None:
    """Read every mask once, so that a bad one is refused before hours of painting; print each new note."""
    noted: set[str] = set()
    for path in masks:
        note = read_mask(path, threshold=settings.mask_threshold, label=settings.mask_label).note
        if note and note not in noted:
            noted.add(note)
            print(f"note: {path.name}: {note}")


def _matching_images(settings: GenerateSettings, masks: Sequence[Path]) -> list[Path | None]:
    """The image of each mask's stem, or None for all when no image prior is asked for."""
    if settings.images is None:
        return [None] * len(masks)
    by_stem = {path.stem: path for path in list_images(settings.images)}
    missing = [path.name for path in masks if path.stem not in by_stem]
    if missing:
        raise OptionError(
            f"{settings.images}: no image with the stem of {missing[0]} ({len(missing)} of {len(masks)} "
            "masks have none); leave --images away to paint from the masks alone"
        )
    return [by_stem[path.stem] for path in masks]


def _check_settings(settings: GenerateSettings) -> None:
    for name in ("checkpoint", "masks", "output"):
        if getattr(settings, name) == Path():
            raise OptionError(f"--{name} is needed")
    for name in ("per_mask", "batch_size"):
        if getattr(settings, name) < 1:
            raise OptionError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(settings, name)}")
    if settings.resolution is not None and (settings.resolution <= 0 or settings.resolution % 64):
        raise OptionError(f"--resolution must be a positive multiple of 64, not {settings.resolution}")
    if settings.size == "source" and settings.resize_mode != "stretch":
        raise OptionError(
            f"--size source cannot undo --resize-mode {settings.resize_mode}: image and mask would no longer "
            "match; use --resize-mode stretch"
        )
    try:
        ddim_timesteps(settings.steps)
    except ValueError as error:
        raise OptionError(f"--steps: {error}") from error


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, GenerateSettings]:
    parser = command_parser("generate", __doc__)
    parser.add_argument("--config", type=Path, help="TOML file with any of the settings")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the pairs of a folder that has some"
    )
    add_flags(parser, GenerateSettings)
    args = parser.parse_args(arguments)
    return args, settings_of(GenerateSettings, args)


if __name__ == "__main__":
    run_command(main)
