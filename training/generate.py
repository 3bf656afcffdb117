"""Generate an image for every mask of a folder, or for random variants of these masks: labelled pairs.

    python -m training.generate --checkpoint FILE --masks DIR --output DIR

No target images are needed. Output: OUTPUT/images and OUTPUT/masks (lossless PNG with the same stems; masks
are 0/255 and exactly those used), prompt.json (which training.train reads) and manifest.jsonl (how each pair
was made; the image files carry it too). --format writes other layouts. --random-masks varies each mask at
random: --per-mask 10 makes ten variants per file, --total 1000 a thousand in all, spread evenly.

Pair i depends only on the settings and i. If a run was stopped or killed, the same command with --resume
continues it. Several machines can share one output folder, or an address such as s3://bucket/set, with
--shard 0/4, --shard 1/4 and so on; several processes on one machine with 'accelerate launch -m
training.generate'. The worker that finishes last writes the lists. Files are identical only with the same
--batch-size, --threads and device.

--backgrounds DIR generates into real frames without a finding: outside the mask and a rim of --blend pixels
around it, a pair's image equals its frame.

--images DIR --image-weight W adds the image prior (images with the masks' stems), for the paper's comparison
of mask and mask + image sampling; the results repeat those images and are not new data. A model of the mask +
image baseline (training.train --branches joint) is always sampled this way; if --masks is a folder of pairs,
it uses the images in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import release_memory
from accelerate.utils.memory import should_reduce_batch_size
from tqdm import tqdm

from siamese_core.cpu_memory import keep_freed_memory
from siamese_core.dataset_generation.finished_pairs import DatasetPlan, begun_plan
from siamese_core.dataset_generation.generation_run import PairMaker, SetRun, Shard
from siamese_core.dataset_generation.mask_source import MaskSource, MaskUse, PairSize
from siamese_core.dataset_generation.storage import DatasetStore, open_store
from siamese_core.diffusers_backend.base_model import BaseError
from siamese_core.diffusers_backend.mask_sampling import DEFAULT_STEPS, Sampler, steps_in_words
from siamese_core.diffusers_backend.siamese_model import Precision, SiameseModel, model_from_file
from siamese_core.errors import CheckpointError
from siamese_core.files import file_digest
from siamese_core.masks.folder_contents import left_out
from siamese_core.masks.mask_files import discover_masks
from siamese_core.masks.random_transforms import TransformSettings
from siamese_core.masks.resizing import ResizeMode
from siamese_core.overlap import places_of
from siamese_core.pairs.export_formats import FORMATS, FinishedPair
from siamese_core.settings import (
    COUNT,
    GUIDANCE,
    SAMPLING_STEPS,
    SEED,
    SIDE,
    THREADS,
    Range,
    option,
)
from siamese_core.stop_requests import Interrupted, stop_requests
from siamese_core.weights.model_file import ModelFile, load_model
from siamese_core.weights.recorded_sampling import recorded_hint_weights

from .command_line.background_options import BackgroundOptions
from .command_line.mask_options import MaskOptions
from .command_line.notes import note
from .command_line.options import (
    OptionError,
    add_flags,
    build,
    command_parser,
    field_names,
    read_toml,
    refuse_unknown,
    run_command,
)
from .command_line.prompt_notes import tell_cut, tell_guidance
from .generation.defaults import (
    chosen_resize_mode,
    default_guidance,
    default_precision,
    default_resolution,
)
from .generation.pair_sampling import PairJob, PairSampler, SamplerSettings
from .generation.prior_images import prior_images
from .generation.prompts import chosen_prompts
from .generation.shares import parse_shard, tell_skipped

_TRANSFORM = "mask_"


@dataclass(frozen=True)
class GenerateSettings(MaskOptions):
    """Input, output and sampling of the pairs."""

    checkpoint: Path = option(
        Path(), "full model file, written by training.train or by the paper authors' code"
    )
    masks: Path = option(Path(), "folder of masks, or one mask file")
    output: str = option("", "folder for the pairs, new or empty, or an address that fsspec knows")
    format: Literal[tuple(FORMATS)] = option("pairs", "layout of the dataset")  # type: ignore[valid-type]
    per_mask: int = option(1, "images per mask", COUNT)
    total: int | None = option(
        None, "total number of images, spread evenly over the masks; not with --per-mask", COUNT
    )
    random_masks: bool = option(
        False, "move, rotate and scale every mask at random, within the limits of --mask-..."
    )
    prompt: str | None = option(
        None,
        "prompt; default: the mask's own (from prompt.json or another list beside masks/), otherwise drawn "
        "from the checkpoint's training prompts",
    )
    negative_prompt: str = option("", "prompt of the unconditional pass")
    sampler: Sampler = option(
        "ddim",
        "the paper's ddim; dpmpp-2m (DPM-Solver++) or unipc, which need fewer steps; or dpmpp-2m-sde, which "
        "adds noise and can follow masks more closely",
    )
    steps: int | None = option(None, f"sampling steps; default: {steps_in_words()}", SAMPLING_STEPS)
    precision: Precision | None = option(
        None,
        "number format of the networks; default: fp16 on CUDA, otherwise fp32; a resumed dataset "
        "keeps its own",
    )
    compile: bool = option(
        False, "compile the networks with torch: takes minutes at the start, pays off in long runs"
    )
    guidance: float | None = option(
        None,
        "guidance scale; 1 turns guidance off; default: the one the checkpoint records, otherwise the "
        "paper's 9, or 3 for a small model; a resumed dataset keeps its own",
        GUIDANCE,
    )
    resolution: int | None = option(
        None, "image side in pixels, a multiple of 64; default: the checkpoint's", SIDE
    )
    resize_mode: ResizeMode | None = option(
        None, "how masks are resized to it; default: as in training; a resumed dataset keeps its own"
    )
    size: PairSize = option("model", "size of the written pair: the model's or the mask file's")
    images: Path | None = option(None, "folder of images with the masks' stems, for the image prior")
    image_weight: float = option(1.0, "weight w_i of the image prior's control", Range(0, 100))
    batch_size: int = option(4, "samples computed at once", COUNT)
    chunk_size: int = option(
        64, "pairs listed together and assigned to a worker together; with webdataset, pairs per file", COUNT
    )
    shard: str = option("0/1", "this machine's share as index/count; the index starts at 0")
    seed: int = option(42, "seed of the first sample; the others' seeds are derived from it", SEED)
    threads: int = option(0, "CPU threads; 0 uses torch's default", THREADS)

    @property
    def sampling_steps(self) -> int:
        """The given number of steps, or else the sampler's default."""
        return DEFAULT_STEPS[self.sampler] if self.steps is None else self.steps


def main(arguments: Sequence[str] | None = None) -> int:
    args, settings, transforms, background = parse(arguments)
    _check_settings(settings, background)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    accelerator = Accelerator()
    shard = parse_shard(settings.shard).part(accelerator.process_index, accelerator.num_processes)
    store = open_store(settings.output, shard.name)
    if args.overwrite and shard.count > 1:
        raise OptionError("--overwrite would remove what other shards have made; remove the folder yourself")
    tell = note if accelerator.is_main_process else (lambda text: None)
    files = discover_masks(settings.masks)
    if settings.masks.is_dir():
        for phrase in left_out(files[0].parent):
            tell(f"not read in '{files[0].parent}': {phrase}")
    frames = background.read_frames(tell)
    checkpoint = load_model(settings.checkpoint)
    image_paths = prior_images(
        settings.images, settings.masks, files, settings.checkpoint, checkpoint.training, tell
    )
    if image_paths and (settings.random_masks or frames):
        raise OptionError("images beside the masks do not go with --random-masks, nor with --backgrounds")
    model = _model(settings.checkpoint, checkpoint)
    try:
        resolution = settings.resolution or default_resolution(settings.checkpoint, checkpoint, tell)
        prompts = chosen_prompts(
            settings.prompt,
            settings.masks,
            files,
            settings.checkpoint,
            checkpoint.training,
            settings.seed,
            tell,
        )
    except CheckpointError as error:
        raise OptionError(f"{settings.checkpoint}: {error}") from error
    begun = None if args.overwrite else begun_plan(store)
    resize_mode = chosen_resize_mode(settings.resize_mode, settings.size, checkpoint, begun)
    masks = _read_masks(settings, transforms, files, resolution, resize_mode)
    tell_cut(model.base.tokenizer, prompts.all | {settings.negative_prompt}, tell)
    guidance = default_guidance(checkpoint, begun) if settings.guidance is None else settings.guidance
    tell_guidance(prompts.all, settings.negative_prompt, guidance, tell)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    precision = settings.precision or default_precision(accelerator.device, begun)
    model.to(accelerator.device, precision)
    if settings.compile:
        model.compile()
    image_weight = settings.image_weight if image_paths else None
    hint_weights = recorded_hint_weights(checkpoint.training)[0], image_weight
    blend = background.blend if frames else None
    pair_sampler = PairSampler(
        model,
        _sampler(settings, masks, precision, guidance, len(prompts.all) == 1, hint_weights, blend),
        masks=masks,
        prompts=prompts,
        images=image_paths,
        checkpoint_digest=file_digest(settings.checkpoint),
        run_id=checkpoint.run_id,
        frames=frames,
    )
    return _run(store, pair_sampler, settings, shard, args)


def _run(
    store: DatasetStore,
    pair_sampler: PairSampler,
    settings: GenerateSettings,
    shard: Shard,
    args: argparse.Namespace,
) -> int:
    plan = DatasetPlan(
        FORMATS[settings.format],
        count=len(pair_sampler.masks),
        batch_size=settings.batch_size,
        chunk_size=settings.chunk_size,
        settings={"command": "generate", **pair_sampler.identity},
    )
    own = sum(len(plan.indices(chunk)) for chunk in shard.chunks(plan))
    print(
        f"{own} of {plan.count} pairs at {pair_sampler.sampler.resolution} px, guidance "
        f"{pair_sampler.sampler.guidance:g}, on {pair_sampler.model.device}"
    )
    with stop_requests() as requests, tqdm(total=own, desc="generating", unit="pair") as progress:

        def on_pairs(pairs: Sequence[FinishedPair], known: int) -> None:
            progress.update(len(pairs) + known)
            progress.initial += known  # pairs from earlier runs do not count in the rate
            if requests:
                raise Interrupted(int(progress.n), requests[0])

        def on_smaller_batch(size: int) -> None:
            progress.write(
                f"note: out of memory; continuing with --batch-size {size}. These pairs equal those of the "
                "larger batch within rounding only"
            )
            release_memory()

        files = pair_sampler.masks.files
        maker = PairMaker[PairJob](
            pair_sampler.job,
            pair_sampler.sample,
            should_reduce_batch_size,
            on_smaller_batch,
            stem=pair_sampler.masks.stem,
            reads=[
                *(files if settings.masks.is_file() else places_of(files)),
                *places_of(pair_sampler.images or ()),
                *places_of(pair_sampler.frames.files if pair_sampler.frames else ()),
            ],
        )
        run = SetRun(store, plan, maker, shard, on_pairs)
        try:
            complete = run.run(resume=args.resume, replace=args.overwrite)
        except Interrupted as stop:
            if shard.count == 1:
                run.list_unfinished()
            progress.close()
            flags = "--resume in place of --overwrite" if args.overwrite else "and --resume"
            print(f"stopped: {run.made} of {own} pairs are there; resume with the same command {flags}")
            return 128 + stop.signal_number
    is_empty = complete and run.made == 0 and run.lists.state().pairs == 0
    tell_skipped(run.skipped, own, store.place, note, is_empty=is_empty)
    if complete:
        print(f"pairs written to {store.place}")
    else:
        print(f"shard {shard.name} is done; the last shard writes the lists, or training.merge")
    return 0


def _read_masks(
    settings: GenerateSettings,
    transforms: TransformSettings | None,
    files: Sequence[Path],
    resolution: int,
    resize_mode: ResizeMode,
) -> MaskSource:
    use = MaskUse(
        size=(resolution, resolution),
        resize_mode=resize_mode,
        written=settings.size,
        rule=settings.mask_rule,
        transforms=transforms,
    )
    with tqdm(total=len(files), desc="reading masks", unit="mask", delay=2.0, leave=False) as progress:

        def on_mask(path: Path, note: str | None) -> None:
            progress.update()

        source = MaskSource(files, use, settings.per_mask, settings.seed, on_mask, total=settings.total)
    for told in source.notes:
        note(told)
    return source


def _sampler(
    settings: GenerateSettings,
    masks: MaskSource,
    precision: Precision,
    guidance: float,
    shares_text: bool,
    hint_weights: tuple[float, float | None],
    blend: int | None,
) -> SamplerSettings:
    return SamplerSettings(
        name=settings.sampler,
        precision=precision,
        compile=settings.compile,
        steps=settings.sampling_steps,
        guidance=guidance,
        negative_prompt=settings.negative_prompt,
        resolution=masks.use.size[0],
        resize_mode=masks.use.resize_mode,
        size=settings.size,
        mask_weight=hint_weights[0],
        image_weight=hint_weights[1],
        shares_text=shares_text,
        threads=torch.get_num_threads(),
        blend=blend,
        **{field.name: getattr(settings, field.name) for field in fields(MaskOptions)},
    )


def _model(path: Path, checkpoint: ModelFile) -> SiameseModel:
    try:
        return model_from_file(checkpoint)
    except BaseError as error:
        raise BaseError(f"{path}: {error}") from error


def _check_settings(settings: GenerateSettings, background: BackgroundOptions) -> None:
    for name in ("checkpoint", "masks", "output"):
        if getattr(settings, name) in (Path(), ""):
            raise OptionError(f"--{name} is needed")
    if settings.random_masks and settings.images:
        raise OptionError("--images shows what the masks were drawn on; it does not go with --random-masks")
    if settings.images and background.backgrounds:
        raise OptionError("--images shows what is to be generated; it does not go with --backgrounds")


def parse(
    arguments: Sequence[str] | None,
) -> tuple[argparse.Namespace, GenerateSettings, TransformSettings | None, BackgroundOptions]:
    """Parse flags, settings, the transforms for random masks (None without) and background options."""
    parser = command_parser("generate", __doc__)
    parser.add_argument("--config", type=Path, help="TOML file with any of the settings")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the dataset of an earlier run; other files are kept"
    )
    parser.add_argument("--resume", action="store_true", help="resume the dataset in --output")
    add_flags(parser, GenerateSettings)
    add_flags(parser.add_argument_group("random masks"), TransformSettings, _TRANSFORM)
    add_flags(parser.add_argument_group("real frames around the masks"), BackgroundOptions)
    args = parser.parse_args(arguments)
    if args.overwrite and args.resume:
        raise OptionError("--overwrite would remove what --resume continues; give one of the two")
    table = read_toml(args.config)
    drawing = field_names(TransformSettings, _TRANSFORM)
    known = field_names(GenerateSettings) | drawing | field_names(BackgroundOptions)
    refuse_unknown(table, known, args.config)
    settings = build(GenerateSettings, args, table)
    if settings.total is not None and (args.per_mask is not None or "per_mask" in table):
        raise OptionError("--total and --per-mask both say how many images are made; give one of them")
    given = [name for name in sorted(drawing) if getattr(args, name) is not None or name in table]
    if given and not settings.random_masks:
        raise OptionError(f"--{given[0].replace('_', '-')} needs --random-masks")
    transforms = build(TransformSettings, args, table, _TRANSFORM)
    background = build(BackgroundOptions, args, table)
    if background.backgrounds is None and (args.blend is not None or "blend" in table):
        raise OptionError("--blend needs --backgrounds")
    return args, settings, transforms if settings.random_masks else None, background


if __name__ == "__main__":
    run_command(main)
