"""Load Siamese Checkpoint: load a full model or a base, bundled or from models/checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..siamese_core import shipped
from ..siamese_core.weights.model_file import KIND_NAMES, CheckpointError, load_model
from ..siamese_core.weights.recorded_sampling import own_sampling
from .host.control import build_control
from .host.file_state import FileState, file_fingerprint
from .host.host_models import FILE, OWN_SAMPLING, build_clip, build_model, build_vae
from .host.notices import warn
from .host.own_sampling import tell_of_training
from .host.refusals import refusing
from .host.schema import searchable

BUNDLED = {f"{path.name} (bundled)": path for path in (shipped.MODEL, shipped.BASE)}
"""Bundled models by their names in the widget."""
_EARLIER = dict(
    zip(("tiny-siamese.safetensors (bundled)", "tiny-base.safetensors (bundled)"), BUNDLED, strict=True)
)
"""Replacements for the bundled models of earlier versions (drawn polyps), by their names in old graphs."""


class LoadSiameseCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="SiameseLoadCheckpoint",
            display_name="Load Siamese Checkpoint",
            category="Siamese-Diffusion",
            description="Load a full Siamese-Diffusion model: UNet, text encoder, VAE and the ControlNet "
            "that reads masks. The bundled model generates 128 x 128 microscopy images of nuclei and needs "
            "no download. A base model to train on has no ControlNet.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=_choices(),
                    default=next(iter(BUNDLED)),
                    tooltip="A model file in models/checkpoints: a full model written by Train Siamese, "
                    "training.train or the paper authors' code, or a base model. Or one of the small models "
                    "bundled with the pack.",
                ),
                io.Int.Input(
                    "heads",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    tooltip="Number of attention heads, for files that do not record it, such as the "
                    "authors'. 0: the recorded number, or Stable Diffusion's if none is recorded.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The UNet with the fine-tuned decoder."),
                io.Clip.Output(tooltip="The text encoder."),
                io.Vae.Output(tooltip="The VAE."),
                io.ControlNet.Output(tooltip="The ControlNet that reads masks; empty for a base model."),
            ],
        )
        return searchable(schema, ("checkpoint", "load model"), rare=("heads",))

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **_: object) -> Any:
        """A value that changes when the file is replaced, so that the host loads it again."""
        return file_fingerprint(None if checkpoint is None else _path(checkpoint))

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        """Replaces the host's own check, which would refuse the names in old graphs."""
        if checkpoint in (None, *_EARLIER, *_choices()):
            return True
        return (
            f"There is no '{checkpoint}' in models/checkpoints; copy the file there and press R, or choose "
            f"another, such as '{next(iter(BUNDLED))}'."
        )

    @classmethod
    def execute(cls, checkpoint: str, heads: int = 0) -> io.NodeOutput:
        warnings = []
        if checkpoint in _EARLIER:
            warnings = [
                f"'{checkpoint}' no longer comes with the pack; '{_EARLIER[checkpoint]}' takes its place. It "
                "knows nuclei, not polyps: give it a prompt such as 'a fluorescence image of nuclei'."
            ]
            warn(warnings)
        return cls._load(checkpoint=_EARLIER.get(checkpoint, checkpoint), heads=heads, warnings=warnings)

    @classmethod
    @refusing
    def _load(cls, checkpoint: str, heads: int, warnings: Sequence[str]) -> io.NodeOutput:
        path = _path(checkpoint)
        state = FileState.of(path)
        model = load_model(path, num_heads=heads or None)
        if model.kind not in ("full", "base"):
            raise CheckpointError(
                f"'{path.name}' is {KIND_NAMES[model.kind]}, not a full model; choose one. Adapters "
                "go into models/controlnet and through Apply Siamese Adapter."
            )
        tell_of_training(model, warnings)
        embeddings = folder_paths.get_folder_paths("embeddings")
        unet = build_model(model)
        unet.set_attachments(FILE, state)
        unet.set_attachments(OWN_SAMPLING, own_sampling(model.training, model.architecture))
        control = build_control(model) if "control" in model.parts else None
        return io.NodeOutput(unet, build_clip(model, embeddings), build_vae(model), control)


def _path(checkpoint: str) -> Path:
    bundled = BUNDLED.get(_EARLIER.get(checkpoint, checkpoint))
    return bundled or Path(folder_paths.get_full_path_or_raise("checkpoints", checkpoint))


def _choices() -> list[str]:
    return [*BUNDLED, *folder_paths.get_filename_list("checkpoints")]
