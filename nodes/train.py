"""Train Siamese: train a model on a folder of pairs inside ComfyUI."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from ..siamese_core import shipped
from ..siamese_core.architecture import LATENT_STRIDE
from ..siamese_core.errors import UserError
from ..siamese_core.learning.recipes import Recipe, recipe_notes, with_recipe
from ..siamese_core.learning.settings import BatchSettings, ExecutionSettings, OptimiserSettings, Precision
from ..siamese_core.masks.folder_contents import Tell
from ..siamese_core.masks.foreground_rule import ForegroundRule
from ..siamese_core.pairs.pair_checks import check_pairs
from ..siamese_core.pairs.pair_files import Pair, find_pairs
from ..siamese_core.weights.model_file import ModelFile, load_model, save_model
from ..siamese_core.weights.recorded_sampling import own_sampling
from .host.control import build_control
from .host.file_state import FileState, files_fingerprint, never_equal
from .host.folders import ROOTS_VARIABLE, input_path, output_path
from .host.host_models import FILE, OWN_SAMPLING, apply_decoder
from .host.notices import show, warn
from .host.own_sampling import chosen_guidance, chosen_side
from .host.refusals import refusing
from .host.schema import searchable
from .host.sheets import preview
from .sampling_inputs import foreground_inputs
from .training.host_base import HostBase, read_base
from .training.run_folder import IfExists, RunPlace, check_name, find_place, resumed_or_anew
from .training.training_run import FinishedTraining, TrainingSettings, train

Files = Literal["adapter", "adapter and whole model"]

SAMPLE_PAIRS = "(bundled sample pairs)"
_RUNS = "siamese_training"
_SIDE_STEP = 8 * LATENT_STRIDE


class TrainSiamese(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="SiameseTrain",
            display_name="Train Siamese",
            category="Siamese-Diffusion",
            description="Train a ControlNet and the model's decoder on a folder of image/mask pairs, so "
            "that the model generates an image for any mask. A training run that was stopped or killed "
            "resumes when it is queued again.",
            inputs=[
                io.Model.Input("model", tooltip="A base model: Stable Diffusion 1.x or 2.x, or a small one."),
                io.Clip.Input("clip", tooltip="The base model's text encoder."),
                io.Vae.Input("vae", tooltip="The base model's VAE."),
                io.String.Input(
                    "pairs",
                    default=SAMPLE_PAIRS,
                    tooltip="Folder with images/ and masks/, or with a prompt.json, inside ComfyUI's input "
                    "folder. Folders elsewhere are allowed only inside those listed in the environment "
                    f"variable {ROOTS_VARIABLE}.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    tooltip="The prompt for pairs that have none of their own, for example: a photo of "
                    "polyps.",
                ),
                io.String.Input(
                    "name",
                    default="my_model",
                    tooltip="Name of the training run and its model files.",
                ),
                io.Int.Input(
                    "steps",
                    default=3000,
                    min=1,
                    max=1_000_000,
                    tooltip="Optimiser steps; the image's weight grows to 1 over the run.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=2048,
                    step=_SIDE_STEP,
                    tooltip="Image side in pixels, a multiple of 64; 0: the model's own, 384 for Stable "
                    "Diffusion and 128 for the bundled base.",
                ),
                io.Int.Input("batch_size", default=6, min=1, max=1024, tooltip="Pairs per step."),
                io.Int.Input(
                    "micro_batches",
                    default=1,
                    min=1,
                    max=1024,
                    tooltip="Number of parts in which a batch is processed; more parts need less memory. "
                    "Doubled automatically when memory runs out.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-5,
                    min=1e-8,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="Learning rate of AdamW: 1e-5 for Stable Diffusion (as in the paper), 6e-4 with "
                    "the recipe small base, 1e-4 to train a small model further.",
                ),
                io.Int.Input(
                    "seed",
                    default=42,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,  # resuming a run requires the same seed
                    tooltip="Seed of the initial weights, the order of the pairs and the noise.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(get_args(Precision)),
                    default="no",
                    tooltip="Autocast of the training step; no is float32. bf16 and fp16 are faster on a "
                    "GPU.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=False,
                    tooltip="Save memory by recomputing activations: a third slower.",
                ),
                io.Int.Input(
                    "save_every",
                    default=500,
                    min=1,
                    max=1_000_000,
                    tooltip="Steps between checkpoints. A killed run resumes from the newest one.",
                ),
                io.Int.Input(
                    "preview_every",
                    default=500,
                    min=0,
                    max=1_000_000,
                    tooltip="Steps between preview sheets; 0: no previews.",
                ),
                io.Float.Input(
                    "preview_cfg",
                    default=0.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance scale of the previews; 0: the model's own, 9 for Stable Diffusion and "
                    "3 for small bases.",
                ),
                io.Combo.Input(
                    "if_exists",
                    options=list(get_args(IfExists)),
                    default="resume",
                    tooltip="If a run with that name exists: resume it, replace it with a new one unless its "
                    "settings and data are the same, or refuse.",
                ),
                io.Combo.Input(
                    "files",
                    options=list(get_args(Files)),
                    default="adapter",
                    tooltip="What to write: the adapter to models/controlnet, and optionally the full model "
                    "to models/checkpoints.",
                ),
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="The ControlNet of a trained model, to continue from its weights and its "
                    "decoder.",
                ),
                io.Float.Input(
                    "ema_decay",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=0.99999,
                    step=0.0001,
                    round=False,
                    tooltip="Decay of the moving average of the weights, which is used for previews and "
                    "written to the model file; 0 uses the weights themselves.",
                ),
                *foreground_inputs(optional=True),
                io.Combo.Input(
                    "recipe",
                    options=list(get_args(Recipe)),
                    optional=True,
                    default="paper",  # graphs saved without this input were trained so
                    tooltip="Settings that suit the base: the paper's for Stable Diffusion; small base, with "
                    "learning_rate 6e-4, for the bundled base.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the trained decoder."),
                io.ControlNet.Output(tooltip="The trained ControlNet."),
                io.String.Output(
                    id="adapter",
                    display_name="adapter",
                    tooltip="The adapter's file name in models/controlnet.",
                ),
                io.Image.Output(
                    id="samples",
                    display_name="samples",
                    tooltip="Images the trained model generates for a few masks, on one sheet.",
                ),
                io.Custom("LOSS_MAP").Output(
                    id="loss", display_name="loss", tooltip="The loss of every step, for Plot Loss Graph."
                ),
            ],
            is_output_node=True,
        )
        rare = ("micro_batches", "gradient_checkpointing", "save_every", "ema_decay", "threshold", "label")
        return searchable(schema, ("train", "fine-tune", "controlnet"), rare)

    @classmethod
    def fingerprint_inputs(
        cls, pairs: str | None = None, prompt: str | None = None, **_: object
    ) -> str | float:
        if pairs is None:  # it comes from another node; the host does not pass linked values here
            return never_equal()
        try:
            found = _find_pairs(pairs, prompt or "")
            files = files_fingerprint(path for pair in found for path in (pair.image, pair.mask))
        except (UserError, OSError) as error:
            return f"unreadable: {error}"
        facts = [(pair.stem, pair.prompt) for pair in found], files
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @classmethod
    @refusing
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        pairs: str,
        prompt: str,
        name: str,
        steps: int,
        resolution: int,
        batch_size: int,
        micro_batches: int,
        learning_rate: float,
        seed: int,
        precision: Precision,
        gradient_checkpointing: bool,
        save_every: int,
        preview_every: int,
        preview_cfg: float,
        if_exists: IfExists,
        files: Files,
        control_net: Any = None,
        ema_decay: float = 0.0,
        threshold: int = 127,
        label: int = 0,
        recipe: Recipe = "paper",
    ) -> io.NodeOutput:
        side = chosen_side(model, resolution)
        if side % _SIDE_STEP:
            raise UserError(f"'resolution' is {side}; give a multiple of {_SIDE_STEP}, or 0.")
        objective, batches, optimiser = with_recipe(
            recipe,
            BatchSettings(batch_size=batch_size),
            OptimiserSettings(learning_rate=learning_rate, ema_decay=ema_decay),
        )
        settings = TrainingSettings(
            steps=steps,
            resolution=side,
            seed=seed,
            precision=precision,
            rule=ForegroundRule(threshold, label or None),
            prompt=prompt.strip(),
            save_every=save_every,
            preview_every=preview_every,
            preview_cfg=chosen_guidance(model, preview_cfg),
            own_guidance=chosen_guidance(model, 0),
            objective=objective,
            batches=batches,
            optimiser=optimiser,
            execution=ExecutionSettings(micro_batches, gradient_checkpointing),
        )
        name = check_name(name)
        _check_precision(precision)
        with torch.inference_mode(False):
            unread: list[str] = []
            found = _find_pairs(pairs, settings.prompt, unread.append)
            notes = [*unread, *check_pairs(found, settings.rule, size=(side, side)).notes]
            base = read_base(model, clip, vae, control_net)
            better = recipe_notes(
                recipe, learning_rate, base.architecture, is_trained=base.control is not None
            )
            notes = [*better, *notes]
            warn(notes)
            base = replace(base, architecture=replace(base.architecture, resolution=side))
            record = settings.record(found, base)
            place = find_place(output_path(f"{_RUNS}/{name}"), record, if_exists)
            paths = _model_paths(name, files)
            for path in paths.values():  # fail now, not after hours of training
                place.check_file(path)
            finished = resumed_or_anew(
                place, lambda at: train(base, clip, vae, found, settings, at, record, better)
            )
            _write(paths, finished, base, place)
        path = paths["adapter"]
        place_told = f"models/{path.parent.name}"  # the full path would be too long for the node
        show(f"{settings.steps} steps, loss {finished.losses[-1]:.4f}: {path.name} is in {place_told}", notes)
        return _outputs(cls, model, finished, path)


def _find_pairs(pairs: str, prompt: str, tell: Tell = lambda note: None) -> list[Pair]:
    """The pairs in the folder; ``tell`` is called with what in it is not read.

    Raises UserError for files outside the folders that a graph may read.
    """
    if not pairs.strip():
        raise UserError("There is no folder of pairs; give its name below ComfyUI's input folder.")
    folder = shipped.TRAIN if pairs.strip() == SAMPLE_PAIRS else input_path(pairs)
    found = find_pairs(folder, default_prompt=prompt, tell=tell)
    for pair in found if folder != shipped.TRAIN else ():
        for path in (pair.image, pair.mask):  # a prompt.json is untrusted, too
            input_path(str(path.absolute()))
    return found


def _check_precision(precision: Precision) -> None:
    if precision == "fp16" and comfy.model_management.get_torch_device().type == "cpu":
        raise UserError("The precision fp16 needs a GPU; set precision to bf16 or no on a CPU.")


def _model_paths(name: str, files: Files) -> dict[str, Path]:
    """Paths of the model files to write, by kind."""
    folders = {"adapter": "controlnet"}
    if files != "adapter":
        folders["full"] = "checkpoints"
    return {
        kind: Path(folder_paths.get_folder_paths(folder)[0]) / f"{name}.safetensors"
        for kind, folder in folders.items()
    }


def _write(paths: dict[str, Path], finished: FinishedTraining, base: HostBase, place: RunPlace) -> None:
    for kind, path in paths.items():
        model = finished.adapter if kind == "adapter" else _whole(finished.adapter, base)
        place.check_file(path, model.run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(path, model)
        logging.info(
            "Siamese-Diffusion: written: %s. A model trained on patients' images can reproduce them; treat "
            "it with the same care as the images.",
            path,
        )


def _whole(adapter: ModelFile, base: HostBase) -> ModelFile:
    unet = {**base.unet, **adapter.parts["unet"]}
    parts = {"unet": unet, "control": adapter.parts["control"], "vae": base.vae, "text": base.text}
    return replace(adapter, kind="full", parts=parts)


def _outputs(cls: type[TrainSiamese], model: Any, finished: FinishedTraining, path: Path) -> io.NodeOutput:
    file = load_model(path)  # what Apply Siamese Adapter will load, with weights rounded to the file's dtype
    trained = apply_decoder(model, file, 1.0)
    trained.set_attachments(FILE, FileState.of(path))
    trained.set_attachments(OWN_SAMPLING, own_sampling(file.training, file.architecture))
    sheet = torch.from_numpy(finished.sheet).float()[None] / 255
    return io.NodeOutput(
        trained,
        build_control(file),
        path.name,
        sheet,
        {"loss": finished.losses},
        ui=preview(sheet, cls),
    )
