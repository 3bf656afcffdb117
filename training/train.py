"""Train Siamese-Diffusion on a folder of image/mask pairs.

    python -m training.train --pairs DIR --prompt TEXT --base PATH --output DIR --steps N

--pairs is a folder with images/ and masks/ (also image/, mask/) or a prompt.json. --base is Stable Diffusion
1.5 or 2.1 as a single file (.safetensors, .ckpt), a diffusers folder or a hub name, or a small base made by
training.make_base. --init FILE starts from a trained model instead: a full model, or an adapter with --base.
The defaults are the paper's; every setting can also be set in a TOML file given by --config (flags win).

Output: log.jsonl and TensorBoard logs (losses by term), samples/ (images for fixed masks), checkpoints/, and
at the end model.safetensors. Stop with Ctrl-C at any time and continue with --resume: the resumed run repeats
the uninterrupted one exactly. On several GPUs: accelerate launch -m training.train ...
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from PIL import Image

from siamese_core.architecture import HintBlock
from siamese_core.cpu_memory import return_freed_memory
from siamese_core.diffusers_backend.accelerate_engine import AccelerateEngine, tracked
from siamese_core.diffusers_backend.base_model import Base
from siamese_core.diffusers_backend.mask_sampling import Sampler, steps_in_words
from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.diffusers_backend.pair_encoding import BaseEncoder
from siamese_core.diffusers_backend.siamese_training import (
    finished_model,
    frozen_on_device,
    start_networks,
)
from siamese_core.diffusers_backend.training_start import read_start
from siamese_core.learning.encoded_pairs import encode_pairs, load_training_set, wait_for_training_set
from siamese_core.learning.engine import Engine, is_main
from siamese_core.learning.optimiser_step import Trainer
from siamese_core.learning.preview import preview_pairs
from siamese_core.learning.settings import BatchSettings, ExecutionSettings, OptimiserSettings, Precision
from siamese_core.learning.step_loop import LoopSettings
from siamese_core.learning.training_run import TrainingRun
from siamese_core.learning.training_set import TrainingSet
from siamese_core.masks.resizing import ResizeMode
from siamese_core.method.objective import ObjectiveSettings
from siamese_core.pairs.pair_checks import PairCheck
from siamese_core.pairs.pair_files import Pair, find_pairs, pairs_fingerprint, prompts_digest
from siamese_core.resume_check import CHANGES_KEY, READ_DIFFERENTLY
from siamese_core.settings import (
    COUNT,
    COUNT_OR_NONE,
    GUIDANCE,
    SEED,
    SIDE,
    THREADS,
    option,
    recorded,
)
from siamese_core.stop_requests import Interrupted
from siamese_core.weights.model_file import save_model
from siamese_core.weights.recorded_sampling import usual_guidance
from siamese_core.weights.training_record import PROMPTS_KEY, prompt_shares

from .command_line.base_notes import tell_misfit
from .command_line.change_flags import add_change_flags, changeable, flags_advised
from .command_line.mask_options import MaskOptions
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
from .command_line.pair_checking import checked
from .command_line.prompt_notes import tell_cut, tell_shares
from .generation.sample_pictures import SAMPLE_STEPS, sample_sheet


@dataclass(frozen=True)
class TrainSettings(MaskOptions):
    """Data, base and run settings; objective and optimiser have settings of their own."""

    pairs: Path = option(Path(), "folder of pairs or prompt.json")
    base: Path = option(Path(), "base model: single file, diffusers folder or hub name")
    init: Path | None = option(
        None, "trained model to start from: a full model (without --base) or an adapter for --base"
    )
    output: Path = option(Path(), "folder for the run, new or empty")
    prompt: str = option("", "prompt for pairs that have none of their own, e.g. 'a photo of polyps'")
    steps: int = option(3000, "N, optimiser steps; w_i = k / N depends on it", COUNT)
    resolution: int = option(384, "image side in pixels, a multiple of 64", SIDE)
    resize_mode: ResizeMode = option("stretch", "how pairs are resized to it")
    hint_block: HintBlock = option(
        "dense", "hint block: dense is DHI, sparse is ControlNet's own, for the ablation"
    )
    seed: int = option(42, "seed of weights, data order and noise", SEED)
    mixed_precision: Precision = option("no", "autocast of the training step")
    save_every: int = option(500, "steps between checkpoints", COUNT)
    keep_checkpoints: int = option(2, "number of newest checkpoints to keep", COUNT)
    log_every: int = option(10, "steps between log entries", COUNT)
    sample_every: int = option(500, "steps between sample images; 0 for none", COUNT_OR_NONE)
    sample_count: int = option(4, "number of fixed masks per sample image", COUNT)
    sampler: Sampler = option("ddim", f"sampler of sample images; steps: {steps_in_words(SAMPLE_STEPS)}")
    sample_guidance: float | None = option(
        None, "guidance scale of sample images; default: the paper's 9, or 3 for a small base", GUIDANCE
    )
    threads: int = option(0, "CPU threads; 0 uses torch's default", THREADS)
    export: Literal["full", "adapter", "both"] = option("full", "model files to write when training ends")
    export_precision: Literal["fp16", "fp32"] = option("fp16", "number format of the exported file")


# Settings that determine the result; resuming requires equal ones.
_IDENTITY = ("steps", "resolution", "resize_mode", "hint_block", "seed", "mixed_precision")


@memory_advised(
    "--gradient-checkpointing and --micro-batches need less for the same result, also with --resume; else "
    "begin a run with a smaller --batch-size or --resolution, or with --mixed-precision bf16 "
    "--weight-precision bf16"
)
def main(arguments: Sequence[str] | None = None) -> int:
    args, settings, objective, batches, optimiser, execution = parse(arguments)
    _check_settings(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    accelerator = Accelerator(log_with="tensorboard", project_dir=str(settings.output))
    engine = AccelerateEngine(accelerator)
    if settings.mixed_precision == "fp16" and engine.device.type == "cpu":
        raise OptionError("--mixed-precision fp16 needs a GPU; use bf16 or no on a CPU")
    if optimiser.weight_precision == "bf16" and settings.mixed_precision != "bf16":
        raise OptionError(
            f"--weight-precision bf16 needs --mixed-precision bf16, not {settings.mixed_precision}: such "
            "weights are computed with in bf16"
        )

    tell = note if is_main(engine) else (lambda text: None)
    pairs = find_pairs(settings.pairs, default_prompt=settings.prompt, tell=tell)
    size = (settings.resolution, settings.resolution)
    check = checked(pairs, settings.mask_rule, size, settings.resize_mode, is_told=is_main(engine))
    if is_main(engine) and not args.resume:
        require_empty(settings.output, "give another --output, or --resume to continue that run")
    # Before the folder is created, so that a refusal leaves nothing behind.
    given = None if settings.base == Path() else settings.base
    start = read_start(given, settings.init, settings.hint_block)
    base = start.base
    shares = prompt_shares(pair.prompt or "" for pair in pairs)
    tell_shares(settings.prompt, shares, tell)
    tell_cut(base.tokenizer, shares, tell)
    trained = start.control is not None
    tell_misfit(optimiser.learning_rate, settings.resolution, base.architecture, trained, tell)
    record = _run_record(settings, pairs, check, objective, batches, optimiser, engine.processes)
    record |= start.record
    run = TrainingRun(
        settings.output,
        record,
        engine,
        resume=args.resume,
        may_differ=changeable(args),
        keep_checkpoints=settings.keep_checkpoints,
        note=note,
    )
    with flags_advised(), run.opened() as run_id:
        accelerator.init_trackers("tensorboard")
        networks = start_networks(
            base,
            settings.hint_block,
            settings.seed,
            engine.device,
            execution.gradient_checkpointing,
            start.control,
            optimiser.weight_precision == "bf16",
        )
        trainer = Trainer.create(networks, optimiser, engine, settings.mixed_precision)
        # Before encoding, so that a refusal costs no time and replaces no encoded set.
        first = run.restored(trainer.state, settings.steps)
        trainer.use_rates(optimiser)
        if first:
            accelerator.print(f"resuming after step {first}")
        data = _encoded(base, engine, pairs, settings, record)
        del pairs  # the only memory that grows with the number of pairs
        return_freed_memory()
        accelerator.print(
            f"{len(data)} pairs at {settings.resolution} px, {batches.batch_size * engine.processes} a step, "
            f"steps {first} to {settings.steps} on {engine.processes} x {engine.device.type}"
        )
        try:
            run.train(
                trainer.step_function(
                    data,
                    objective,
                    batches,
                    optimiser,
                    settings.steps,
                    settings.seed,
                    execution.micro_batches,
                ),
                LoopSettings(settings.steps, settings.save_every, settings.log_every),
                trainer.state,
                first,
                report=tracked(accelerator, "train"),
                after_step=_preview(
                    trainer, base, networks, data, settings, objective.hint_weights, accelerator
                ),
            )
        except Interrupted as stop:
            accelerator.print(
                f"\nstopped after step {stop.step}, all saved; resume with the same command and --resume"
            )
            return 128 + stop.signal_number
        if is_main(engine):
            told = {PROMPTS_KEY: shares, **({CHANGES_KEY: run.changes} if run.changes else {})}
            with trainer.averaged_weights():
                _export(base, networks, settings, {**record, **told}, run_id)
    accelerator.end_training()
    return 0


def _check_settings(settings: TrainSettings) -> None:
    for name in ("pairs", "base", "output"):
        if getattr(settings, name) == Path() and not (name == "base" and settings.init):
            raise OptionError(f"--{name} is needed")


def _run_record(
    settings: TrainSettings,
    pairs: list[Pair],
    check: PairCheck,
    objective: ObjectiveSettings,
    batches: BatchSettings,
    optimiser: OptimiserSettings,
    processes: int,
) -> dict[str, Any]:
    """The record that identifies the run, stored in checkpoints and in the finished model file.

    ``batch_size`` is the global one, so that the number of processes and micro batches may change.
    """
    return {
        "command": "train",
        **{name: getattr(settings, name) for name in _IDENTITY},
        **settings.mask_record,
        **({READ_DIFFERENTLY: check.changes} if check.changes else {}),
        **recorded(objective),
        **recorded(batches),
        "batch_size": batches.batch_size * processes,
        **recorded(optimiser),
        "prompt": settings.prompt or Counter(pair.prompt or "" for pair in pairs).most_common(1)[0][0],
        "pairs": len(pairs),
        "pairs_fingerprint": pairs_fingerprint(pairs),
        "prompts_digest": prompts_digest(pairs),
    }


def _encoded(
    base: Base, engine: Engine, pairs: list[Pair], settings: TrainSettings, record: Mapping[str, Any]
) -> TrainingSet:
    """The encoded training set, reused from the run's folder if made from the same data, settings and base.

    The main process encodes it; the others wait.
    """
    folder = settings.output / "encoded"
    made_from = ("pairs_fingerprint", "base", "prompt", "prompts_digest", "resolution", "resize_mode")
    key = json.dumps([record[name] for name in (*made_from, *settings.mask_record)])
    if is_main(engine) and load_training_set(folder, key) is None:
        with frozen_on_device(base, engine.device):
            encode_pairs(
                folder,
                key,
                BaseEncoder(base),
                pairs,
                settings.resolution,
                settings.resize_mode,
                settings.mask_rule,
                settings.prompt,
            )
        if load_training_set(folder, key) is None:
            raise OptionError(f"{folder}: the encoded pairs are not there as they were written; start again")
    return wait_for_training_set(folder, key)


def _preview(
    trainer: Trainer,
    base: Base,
    networks: SiameseNetworks,
    data: TrainingSet,
    settings: TrainSettings,
    hint_weights: tuple[float, float],
    accelerator: Accelerator,
) -> Callable[[int], None]:
    """An ``after_step`` hook that samples images for the same few masks every ``sample_every`` steps."""
    chosen = preview_pairs(data, settings.sample_count)
    folder = settings.output / "samples"
    own, given = usual_guidance(base.architecture), settings.sample_guidance

    def after_step(done: int) -> None:
        due = settings.sample_every and (done % settings.sample_every == 0 or done == settings.steps)
        if not due or not is_main(trainer.engine):
            return
        folder.mkdir(exist_ok=True)
        sheet = sample_sheet(
            trainer,
            base,
            networks,
            data,
            chosen,
            settings.resolution,
            sampler=settings.sampler,
            guidance=own if given is None else given,
            hint_weights=hint_weights,
            seed=settings.seed,
        )
        Image.fromarray(sheet).save(folder / f"step-{done:08d}.png")
        tracker = accelerator.get_tracker("tensorboard", unwrap=True)
        tracker.add_image("samples", sheet, done, dataformats="HWC")

    return after_step


def _export(
    base: Base,
    networks: SiameseNetworks,
    settings: TrainSettings,
    record: Mapping[str, Any],
    run_id: str,
) -> None:
    training = {**record, "step": settings.steps, "versions": _versions()}
    dtype = torch.float16 if settings.export_precision == "fp16" else torch.float32
    names = {"full": ("model", "checkpoints"), "adapter": ("adapter", "controlnet")}
    for kind, (name, comfy_folder) in names.items():
        if settings.export not in (kind, "both"):
            continue
        path = settings.output / f"{name}.safetensors"
        model = finished_model(base, networks, "full" if kind == "full" else "adapter", training, run_id)
        save_model(path, model, dtype=dtype)
        print(f"written: {path} ({kind} model); in ComfyUI it goes to models/{comfy_folder}/")
    print(
        "Before you share it: a model trained on patients' images can reproduce them; treat the file and "
        "what it generates with the same care as the images it was trained on."
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in ("siamese-diffusion", "torch", "diffusers", "transformers", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def parse(
    arguments: Sequence[str] | None,
) -> tuple[
    argparse.Namespace,
    TrainSettings,
    ObjectiveSettings,
    BatchSettings,
    OptimiserSettings,
    ExecutionSettings,
]:
    parser = command_parser("train", __doc__)
    parser.add_argument("--config", type=Path, help="TOML file with any of the settings")
    parser.add_argument("--resume", action="store_true", help="resume from the newest checkpoint in --output")
    add_change_flags(parser)
    add_flags(parser, TrainSettings)
    add_flags(parser.add_argument_group("objective (paper, section 3)"), ObjectiveSettings)
    add_flags(parser.add_argument_group("batch"), BatchSettings)
    add_flags(parser.add_argument_group("optimiser"), OptimiserSettings)
    add_flags(parser.add_argument_group("execution (the result is the same)"), ExecutionSettings)
    args = parser.parse_args(arguments)
    table = read_toml(args.config)
    groups = (TrainSettings, ObjectiveSettings, BatchSettings, OptimiserSettings, ExecutionSettings)
    refuse_unknown(table, set().union(*map(field_names, groups)), args.config)
    return (
        args,
        build(TrainSettings, args, table),
        build(ObjectiveSettings, args, table),
        build(BatchSettings, args, table),
        build(OptimiserSettings, args, table),
        build(ExecutionSettings, args, table),
    )


if __name__ == "__main__":
    run_command(main)
