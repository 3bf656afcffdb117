"""Train a small base model (VAE, text encoder, UNet) from scratch on any folder of images.

    python -m training.make_base --images DIR --output DIR

DIR is a folder of images, a folder with images/ and masks/, or one with a prompt.json (then each image
has its own prompt). Output: OUTPUT/diffusers (a diffusers model folder), OUTPUT/base.safetensors (the
single file), and sample images of the VAE and the UNet. A good VAE takes hours on a CPU: stop at any time
with Ctrl-C and continue with --resume. --init starts from another base instead of random weights; then
--vae-steps 0 keeps its VAE and --unet-steps 0 its UNet. --vae-decoder-only improves only the VAE's decoder,
so that any UNet and any Siamese model trained on that base can use the result.

Runs in a single process: `accelerate launch` with several is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from siamese_core.architecture import LATENT_SCALE, TINY, Architecture
from siamese_core.contact_sheet import grid
from siamese_core.diffusers_backend.accelerate_engine import AccelerateEngine, tracked
from siamese_core.diffusers_backend.base_model import Base, build_base, load_base, local_base, save_base
from siamese_core.diffusers_backend.mask_sampling import free_noise_predictor, sample_latents
from siamese_core.diffusers_backend.networks import UNetDecoder, UNetEncoder
from siamese_core.diffusers_backend.pair_encoding import encode_moments
from siamese_core.diffusers_backend.prompt_encoding import encode_prompts
from siamese_core.diffusers_backend.small_base import unet_initialisation, vae_initialisation
from siamese_core.diffusers_backend.small_base.training import (
    Discriminator,
    UNetSettings,
    VAESettings,
    normalise_latents,
    unet_step_function,
    vae_step_function,
)
from siamese_core.diffusers_backend.training_start import base_digests
from siamese_core.files import file_digest
from siamese_core.learning.averaged_weights import AveragedWeights
from siamese_core.learning.checkpoints import TrainedState
from siamese_core.learning.step_loop import LoopSettings, Report
from siamese_core.learning.training_run import TrainingRun
from siamese_core.masks.folder_contents import left_out
from siamese_core.masks.resizing import resize_image
from siamese_core.method.ddim import to_uint8
from siamese_core.pairs.captions import read_captions
from siamese_core.pairs.image_files import ImageSurvey, read_image
from siamese_core.pairs.pair_files import find_pairs, images_without_masks
from siamese_core.resume_check import IMAGE_PROMPTS_KEY, INIT_WEIGHTS_KEY
from siamese_core.settings import COUNT, SEED, SIDE, Range, option, recorded
from siamese_core.stop_requests import Interrupted
from siamese_core.weights.training_record import prompt_shares

from .command_line.memory import memory_advised
from .command_line.notes import note
from .command_line.options import (
    OptionError,
    add_flags,
    build,
    command_parser,
    field_names,
    read_toml,
    refuse_unknown,
    require_empty,
    run_command,
)
from .command_line.prompt_notes import tell_cut, tell_shares
from .pretrained.perceptual_features import efficientnet_features


@dataclass(frozen=True)
class MakeBaseSettings:
    """Settings of the command besides those of VAE and UNet training."""

    prompt: str = option("", "prompt for images that have none of their own")
    resolution: int = option(128, "image side in pixels, a multiple of 64; images are stretched to it", SIDE)
    unet_widths: tuple[int, ...] = option(
        TINY.unet.widths,
        "UNet widths, multiples of 32 and of the first width",
        Range(32, 4096, multiple_of=32),
    )
    vae_widths: tuple[int, ...] = option(
        TINY.vae.widths,
        "VAE widths, multiples of 32; below 64, colours are learnt slowly",
        Range(32, 4096, multiple_of=32),
    )
    restart_unet: bool = option(
        False, "with --init: use only its VAE; UNet and text encoder start from scratch"
    )
    seed: int = option(42, "seed of weights, data order and noise", SEED)
    save_every: int = option(500, "steps between checkpoints", COUNT)
    threads: int = option(1, "CPU threads; small models are fastest with one", Range(1, 1024))


# Settings that determine the result; resuming requires equal ones.
_IDENTITY = ("prompt", "resolution", "unet_widths", "vae_widths", "restart_unet", "seed")


@memory_advised("lower --vae-batch-size, --unet-batch-size, --vae-crop or --resolution, in a new run")
def main(arguments: Sequence[str] | None = None) -> int:
    args, settings, vae_settings, unet_settings = _parse(arguments)
    torch.set_num_threads(settings.threads)
    accelerator = Accelerator(log_with="tensorboard", project_dir=str(args.output))
    engine = AccelerateEngine(accelerator)
    if engine.processes > 1:
        raise OptionError("make_base runs in one process; start it without accelerate launch")
    _check_settings(settings, vae_settings, unet_settings, continued=args.init is not None)
    # Input is checked before the folder is created, so that a refusal leaves nothing behind.
    paths, prompts = _find_images(args.images, settings.prompt)
    base = _start(args.init, settings)
    widths = {"unet_widths": base.architecture.unet.widths, "vae_widths": base.architecture.vae.widths}
    for name, own in widths.items():
        if getattr(settings, name) not in (own, getattr(MakeBaseSettings, name)):
            note(f"--{name.replace('_', '-')} has no effect: {args.init} has {' '.join(map(str, own))}")
    shares = prompt_shares(prompts)
    tell_shares(settings.prompt, shares, note)
    tell_cut(base.tokenizer, shares, note)
    images = _read_images(paths, settings.resolution)
    print(f"{len(images)} images at {settings.resolution} px")
    if not args.resume:
        require_empty(args.output, "give another --output, or --resume to continue that run")
    record = {
        "images": len(images),
        "images_digest": hashlib.sha256(images.numpy().tobytes()).hexdigest(),
        IMAGE_PROMPTS_KEY: hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        **_init_record(args.init),
        **{name: getattr(settings, name) for name in _IDENTITY},
        "vae": recorded(vae_settings),
        "unet": recorded(unet_settings),
    }
    run = TrainingRun(args.output, record, engine, args.resume, note=note)
    with run.opened() as run_id:
        accelerator.init_trackers("tensorboard")
        for module in (base.vae, base.unet, base.text_encoder):
            module.to(engine.device)
        try:
            if vae_settings.steps:
                loop = LoopSettings(vae_settings.steps, settings.save_every, is_last=unet_settings.steps == 0)
                _train_vae(run, loop, base, images, vae_settings, settings.seed, tracked(accelerator, "vae"))
                _save_reconstructions(base, images, args.output / "reconstructions.png")
            # If the encoder was not trained, the latents keep the scale that the UNet was trained on.
            fold_scale = vae_settings.steps > 0 and not vae_settings.decoder_only
            if fold_scale or unet_settings.steps:
                moments = encode_moments(base.vae, torch.cat([images, images.flip(-1)]))
            if fold_scale:
                moments = normalise_latents(base.vae, moments)
            if unet_settings.steps:
                loop = LoopSettings(unet_settings.steps, settings.save_every)
                both = [*prompts, *prompts]  # for the images and their mirrored copies
                _train_unet(
                    run, loop, base, moments, both, unet_settings, settings.seed, tracked(accelerator, "unet")
                )
                _save_samples(base, prompts, settings, args.output / "samples.png")
        except Interrupted as stop:
            print(f"\nstopped after {stop.step} steps, all saved; resume with the same command and --resume")
            return 128 + stop.signal_number
        folder, file = save_base(base, args.output, {"command": "make_base", **record, **widths}, run_id)
    print(f"base written: {folder} (diffusers) and {file} (single file)")
    return 0


def _train_vae(
    run: TrainingRun,
    loop: LoopSettings,
    base: Base,
    images: Tensor,
    settings: VAESettings,
    seed: int,
    report: Report,
) -> None:
    device = run.engine.device
    vae = base.vae.train().to(memory_format=torch.channels_last)
    if settings.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0)
    state = TrainedState([vae], [optimizer])
    features = efficientnet_features(device) if settings.perceptual_weight else None
    discriminator = None
    if settings.adversarial_weight:
        discriminator = Discriminator.create(settings.learning_rate, seed, device)
        state = TrainedState([vae, discriminator.network], [optimizer, discriminator.optimizer])
    step = vae_step_function(vae, optimizer, images, settings, seed, device, features, discriminator)
    first = run.restored(state, loop.steps, "vae")
    run.train(step, loop, state, first, part="vae", label="vae", report=report)
    vae.eval().requires_grad_(True)


def _train_unet(
    run: TrainingRun,
    loop: LoopSettings,
    base: Base,
    moments: Tensor,
    prompts: Sequence[str],
    settings: UNetSettings,
    seed: int,
    report: Report,
) -> None:
    device = run.engine.device
    unet = base.unet.train().to(memory_format=torch.channels_last)
    text_encoder = base.text_encoder.train()
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    average = AveragedWeights(parameters, settings.ema_decay, warmup_power=0.75)
    state = TrainedState([unet, text_encoder], [optimizer], average)
    step = unet_step_function(
        unet, text_encoder, optimizer, average, base, moments, prompts, settings, seed, device
    )
    first = run.restored(state, loop.steps, "unet")
    run.train(step, loop, state, first, part="unet", label="unet", report=report)
    average.copy_to_parameters()
    unet.eval()
    text_encoder.eval()


def _start(init: Path | None, settings: MakeBaseSettings) -> Base:
    """The base to train, from ``init`` (at the requested resolution) or with new weights."""
    if init is not None:
        base = load_base(init)
        if base.architecture.prediction != "epsilon":
            raise OptionError(
                f"{init}: predicts v, and bases made here predict the noise; give another --init"
            )
        base.architecture = replace(base.architecture, resolution=settings.resolution)
        if not settings.restart_unet:
            return base
        architecture = replace(base.architecture, unet=replace(TINY.unet, widths=settings.unet_widths))
        fresh = _new_base(replace(architecture, text=TINY.text), settings)
        return replace(fresh, vae=base.vae)
    architecture = replace(
        TINY,
        unet=replace(TINY.unet, widths=settings.unet_widths),
        vae=replace(TINY.vae, widths=settings.vae_widths),
        resolution=settings.resolution,
    )
    base = _new_base(architecture, settings)
    if min(settings.vae_widths) >= vae_initialisation.NARROWEST:
        vae_initialisation.start_from_block_means(base.vae)
    return base


def _init_record(init: Path | None) -> dict[str, Any]:
    if init is None or init.is_file():
        return {"init": file_digest(init) if init else ""}
    return {"init": str(init), INIT_WEIGHTS_KEY: base_digests(local_base(init))}


def _new_base(architecture: Architecture, settings: MakeBaseSettings) -> Base:
    """A base with random weights and, if its width allows, a UNet initialised to copy its input."""
    base = build_base(architecture, settings.seed)
    if architecture.unet.widths[0] >= unet_initialisation.NARROWEST:
        unet_initialisation.start_from_identity(base.unet)
    return base


def _check_settings(
    settings: MakeBaseSettings, vae: VAESettings, unet: UNetSettings, continued: bool
) -> None:
    for name, widths in (("unet-widths", settings.unet_widths), ("vae-widths", settings.vae_widths)):
        if len(widths) != 4 or any(width % 32 for width in widths):
            raise OptionError(
                f"--{name} needs four positive multiples of 32, not {' '.join(map(str, widths))}"
            )
        if any(width % widths[0] for width in widths):
            raise OptionError(f"--{name}: every width must be a multiple of the first, {widths[0]}")
    if settings.unet_widths[-1] < 64:
        raise OptionError(
            f"--unet-widths: the last must be at least 64, not {settings.unet_widths[-1]}: one channel per "
            "normalisation group has no variance on a 1 x 1 feature map"
        )
    if settings.restart_unet and not continued:
        raise OptionError("--restart-unet needs --init, the base whose VAE is to be taken")
    if vae.steps == 0 and not continued:
        raise OptionError(f"--vae-steps must be at least 1, or 0 with --init, not {vae.steps}")
    if unet.steps == 0 and (not continued or settings.restart_unet):
        raise OptionError(f"--unet-steps must be at least 1, or 0 with --init and its UNet, not {unet.steps}")
    if vae.steps == unet.steps == 0:
        raise OptionError("--vae-steps 0 with --unet-steps 0 trains nothing")
    if vae.decoder_only and not continued:
        raise OptionError("--vae-decoder-only needs --init, the base whose encoder is to stay")


def _find_images(source: Path, prompt: str) -> tuple[list[Path], list[str]]:
    """The image files in ``source`` and the prompt of each."""
    if (source / "prompt.json").exists():
        pairs = find_pairs(source, default_prompt=prompt, tell=note)
        return [pair.image for pair in pairs], [pair.prompt or prompt for pair in pairs]
    folder = next((source / name for name in ("images", "image") if (source / name).is_dir()), source)
    if not folder.is_dir():
        raise OptionError(f"{folder}: no such folder of images")
    paths = images_without_masks(folder, note)
    if not paths:
        others = "".join(f", but {phrase}" for phrase in left_out(folder))
        raise OptionError(f"{folder}: no image files (png, jpg, bmp, tif) in it{others}")
    for phrase in left_out(folder):
        note(f"not read in '{folder}': {phrase}")
    captions = read_captions(source, folder, paths)
    for place, count in captions.sources.items():
        note(f"the prompts of {count} of {len(paths)} images come from {place}")
    return paths, [captions.of(path) or prompt for path in paths]


def _read_images(paths: Sequence[Path], resolution: int) -> Tensor:
    """Read the images, stretched to ``resolution``: ``(N, 3, R, R)`` uint8."""
    survey = ImageSurvey()
    for path in paths:
        survey.add(path)
    for text in survey.notes():
        note(text)
    rows = [resize_image(read_image(path), (resolution, resolution)) for path in paths]
    return torch.stack([torch.from_numpy(row).permute(2, 0, 1) for row in rows])


@torch.no_grad()
def _save_reconstructions(base: Base, images: Tensor, path: Path, count: int = 8) -> None:
    chosen = images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]
    pixels = chosen.to(base.vae.device).float() / 127.5 - 1.0
    decoded = to_uint8(base.vae.decode(base.vae.encode(pixels).latent_dist.mode()).sample)
    originals = [image.permute(1, 2, 0).numpy() for image in chosen]
    Image.fromarray(grid([originals, list(decoded)])).save(path)


@torch.no_grad()
def _save_samples(base: Base, prompts: Sequence[str], settings: MakeBaseSettings, path: Path) -> None:
    shown = [prompts[index * len(prompts) // 16] for index in range(16)]
    predict = free_noise_predictor(
        UNetEncoder(base.unet),
        UNetDecoder(base.unet),
        encode_prompts(base.text_encoder, base.tokenizer, shown),
        encode_prompts(base.text_encoder, base.tokenizer, [""] * 16),
        guidance_scale=3.0,
    )
    side = settings.resolution
    seeds = range(settings.seed, settings.seed + 16)
    latents = sample_latents(predict, seeds, side, side, device=base.unet.device)
    images = to_uint8(base.vae.decode(latents / LATENT_SCALE).sample)
    Image.fromarray(grid([list(images[:8]), list(images[8:])])).save(path)


def _parse(
    arguments: Sequence[str] | None,
) -> tuple[argparse.Namespace, MakeBaseSettings, VAESettings, UNetSettings]:
    parser = command_parser("make_base", __doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--output", type=Path, required=True, help="folder for the run, empty or new")
    parser.add_argument("--init", type=Path, help="base to start from instead of random weights")
    parser.add_argument("--resume", action="store_true", help="resume the run in --output")
    parser.add_argument("--config", type=Path, help="TOML file with any of the settings below")
    add_flags(parser, MakeBaseSettings)
    add_flags(parser.add_argument_group("VAE"), VAESettings, "vae_")
    add_flags(parser.add_argument_group("UNet and text encoder"), UNetSettings, "unet_")
    args = parser.parse_args(arguments)
    table = read_toml(args.config)
    known = (
        field_names(MakeBaseSettings) | field_names(VAESettings, "vae_") | field_names(UNetSettings, "unet_")
    )
    refuse_unknown(table, known, args.config)
    return (
        args,
        build(MakeBaseSettings, args, table),
        build(VAESettings, args, table, "vae_"),
        build(UNetSettings, args, table, "unet_"),
    )


if __name__ == "__main__":
    run_command(main)
