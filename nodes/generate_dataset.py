"""Generate Dataset: generate pairs for the masks of a folder, chunk by chunk, straight to the disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, get_args

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..siamese_core.dataset_generation.finished_pairs import DatasetLists, DatasetPlan, SetState, stored_plan
from ..siamese_core.dataset_generation.generation_run import PairMaker, SetRun, Shard
from ..siamese_core.dataset_generation.mask_source import MaskSource, MaskUse
from ..siamese_core.dataset_generation.storage import open_store
from ..siamese_core.errors import UserError
from ..siamese_core.masks.foreground_rule import ForegroundRule
from ..siamese_core.masks.mask_files import discover_masks
from ..siamese_core.masks.random_transforms import TransformSettings
from ..siamese_core.masks.resizing import ResizeMode
from ..siamese_core.method.background_blending import DEFAULT_BLEND
from ..siamese_core.overlap import places_of
from ..siamese_core.pairs.export_formats import FORMATS
from ..siamese_core.resume_check import ResumeError
from .dataset_differences import other_settings
from .dataset_generator import (
    DatasetGenerator,
    DatasetProgress,
    Job,
    facts_of,
    on_smaller_batch,
    settings_of,
)
from .host.folders import ROOTS_VARIABLE, output_path
from .host.graph import graph_text, made_by, nodes_before, prompt_behind
from .host.memory import is_out_of_memory
from .host.notices import show, warn
from .host.own_sampling import (
    chosen_guidance,
    chosen_side,
    own_sampling_of,
    resize_mode_warnings,
    size_warnings,
)
from .host.refusals import refusing
from .host.schema import searchable
from .host.sheets import preview
from .load_masks import EXAMPLES, mask_folder, unread_in
from .random_masks import TRANSFORM, RandomTransform
from .sampler import Sampling, check_size, network_warnings
from .sampling.background import chosen_frames
from .sampling.conditioning import require_common
from .sampling_inputs import background_inputs, foreground_inputs, network_inputs, sampling_inputs


class GenerateDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="SiameseGenerateDataset",
            display_name="Generate Dataset",
            category="Siamese-Diffusion",
            description="Generate a labelled pair for every mask of a folder, or for many random variants "
            "of those masks, and write it straight to disk. Memory use does not grow with the number of "
            "pairs. A stopped run resumes when it is queued again.",
            inputs=[
                *network_inputs(),
                io.String.Input(
                    "masks",
                    default=EXAMPLES,
                    tooltip="Folder of masks inside ComfyUI's input folder; if it contains masks/, that is "
                    "used. Folders elsewhere are allowed only inside those listed in the environment "
                    f"variable {ROOTS_VARIABLE}.",
                ),
                io.String.Input(
                    "folder",
                    default="siamese_dataset",
                    tooltip="Folder for the dataset, inside ComfyUI's output folder. A new folder, or that "
                    "of a run with the same settings, which is then resumed.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="pairs",
                    tooltip="Layout of the dataset; Train Siamese and training.train read pairs.",
                ),
                io.Int.Input(
                    "per_mask", default=1, min=1, max=1_000_000, tooltip="Pairs generated per mask file."
                ),
                io.Int.Input(
                    "seed",
                    default=42,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,  # resuming a dataset requires the same seed
                    tooltip="Seed of the first sample; the others' seeds are derived from it.",
                ),
                *sampling_inputs(),
                io.Int.Input(
                    "batch_size",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="Samples computed at once. Halved automatically when memory runs out.",
                ),
                io.Int.Input(
                    "chunk_size",
                    default=64,
                    min=1,
                    max=100_000,
                    tooltip="Pairs recorded together; with WebDataset, pairs per file.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=4096,
                    step=64,
                    tooltip="Width in pixels, a multiple of 64; 0: the size the model was trained at.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=4096,
                    step=64,
                    tooltip="Height in pixels, a multiple of 64; 0 works as for width.",
                ),
                io.Combo.Input(
                    "resize_mode",
                    options=list(get_args(ResizeMode)),
                    default="stretch",
                    tooltip="How masks are resized: stretch ignores the aspect ratio (as in the paper), "
                    "crop keeps the centre, pad adds background.",
                ),
                *foreground_inputs(),
                TRANSFORM.Input(
                    "transform",
                    optional=True,
                    tooltip="From Random Mask Transform: generate for random variants of the masks, within "
                    "its limits.",
                ),
                io.String.Input(
                    "prompt",
                    optional=True,
                    default="",
                    multiline=True,
                    tooltip="The prompt recorded in the dataset; if empty, that of the CLIP Text Encode "
                    "node connected to positive.",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    optional=True,
                    tooltip="Swap foreground and background of the mask files.",
                ),
                *background_inputs(),
            ],
            outputs=[
                io.String.Output(
                    id="saved_to", display_name="saved_to", tooltip="The folder that was written."
                ),
                io.Image.Output(id="sheet", display_name="sheet", tooltip="The latest pairs, as one image."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )
        rare = ("strength", "chunk_size", "threshold", "label", "invert")
        return searchable(schema, ("batch", "folder", "augmentation"), rare)

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return time.time()  # always run: files may have been removed from the dataset's folder

    @classmethod
    @refusing
    def execute(
        cls,
        model: Any,
        control_net: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        masks: str,
        folder: str,
        format: str,
        per_mask: int,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        strength: float,
        batch_size: int,
        chunk_size: int,
        width: int,
        height: int,
        resize_mode: ResizeMode,
        threshold: int,
        label: int,
        transform: RandomTransform | None = None,
        prompt: str = "",
        invert: bool = False,
        background: Tensor | None = None,
        background_folder: str = "",
        blend: int = DEFAULT_BLEND,
    ) -> io.NodeOutput:
        root = output_path(folder)
        height, width = chosen_side(model, height), chosen_side(model, width)
        check_size(torch.ones(1, height, width), own_sampling_of(model).resolution)
        use = MaskUse(
            size=(height, width),
            resize_mode=resize_mode,
            rule=ForegroundRule(threshold, label or None, invert=invert),
            transforms=_settings_of(transform),
        )
        place = mask_folder(masks)
        files = discover_masks(place)
        source = MaskSource(files, use, per_mask, transform.seed if transform else seed, _on_mask)
        frames = chosen_frames(background, background_folder)
        warnings = [
            *network_warnings(model, control_net),
            *size_warnings(model, height, width),
            *resize_mode_warnings(model, resize_mode),
            *unread_in(place, files),
            *source.notes,
            *(frames.notes if frames else ()),
        ]
        warn(warnings)
        guidance = chosen_guidance(model, cfg)
        sampling = Sampling(
            model, control_net, positive, negative, vae, steps, guidance, sampler_name, scheduler, strength
        )
        # Refused before the folder holds a dataset of such settings.
        sampling.noise_levels(sampler_name)
        require_common((positive, negative), height, width)
        store = open_store(str(root), Shard().name)
        begun = settings_of(store)
        begun_before = "nodes_before" in begun
        if not begun_before:
            prompt = prompt or prompt_behind(cls.hidden, "positive")
        facts = facts_of(sampling, use)
        nodes = made_by(cls.hidden, [facts["checkpoint"]], begun.get("nodes"))
        generator = DatasetGenerator(
            source, sampling, seed, prompt, facts, graph_text(cls.hidden), nodes, frames, blend
        )
        noted = {"nodes_before": nodes_before(cls.hidden)} if begun_before else {"nodes": nodes}
        plan = DatasetPlan(
            FORMATS[format], len(source), batch_size, chunk_size, {**generator.identity, **noted}
        )
        progress = DatasetProgress(len(source))
        reads = [
            *(files if place.is_file() else places_of(files)),
            *places_of(frames.files if frames else ()),
        ]
        maker = PairMaker[Job](
            generator.job, generator.generate, is_out_of_memory, on_smaller_batch, source.stem, reads
        )
        run = SetRun(store, plan, maker, Shard(), progress.on_pairs)
        try:
            _run_or_resume(run, progress)
        except ResumeError as error:
            if not error.differences:
                raise
            there = DatasetLists(store, stored_plan(store))
            raise UserError(other_settings(folder, error.differences, source, there)) from error
        report = show(_report(run.lists.state(), folder, width, height, guidance, prompt), warnings)
        sheet = progress.sheet(run.lists)
        return io.NodeOutput(str(root), sheet, ui={**preview(sheet, cls), "text": (report,)})


def _settings_of(transform: RandomTransform | None) -> TransformSettings | None:
    if transform is None:
        return None
    if transform.has_union:
        raise UserError(
            "Random Mask Transform has a union connected, which Generate Dataset cannot draw by itself; "
            "disconnect it, or write the masks to a folder first."
        )
    return transform.settings


def _run_or_resume(run: SetRun[Job], progress: DatasetProgress) -> None:
    """Generate the missing pairs; if the user interrupts, list those that are finished."""
    try:
        run.run(resume=True)
    except comfy.model_management.InterruptProcessingException:
        if progress.begun:
            run.list_unfinished()
        raise


def _report(state: SetState, folder: str, width: int, height: int, guidance: float, prompt: str) -> str:
    lines = [
        f"{state.pairs} pairs in output/{folder}",
        f"{width} x {height} pixels, cfg {guidance:g}, prompt: {prompt or '(none)'}",
    ]
    if state.skipped:
        lines.append(f"{state.skipped} pairs left out, see skipped.jsonl")
    return "\n".join(lines)


def _on_mask(path: Path, note: str | None) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
