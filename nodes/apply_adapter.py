"""Apply Siamese Adapter: apply the trained ControlNet and decoder of a run to any checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..siamese_core.architecture import Prediction
from ..siamese_core.weights.model_file import CheckpointError, ModelFile, load_model
from ..siamese_core.weights.recorded_sampling import own_sampling
from .host.control import build_control
from .host.file_state import FileState, file_fingerprint
from .host.host_models import FILE, HOST_PREFIX, OWN_SAMPLING, apply_decoder, prediction_of
from .host.own_sampling import tell_of_training
from .host.refusals import refusing
from .host.schema import searchable

_NO_ADAPTER = "(no file in models/controlnet)"
_PREDICTED: dict[Prediction, str] = {"epsilon": "the noise", "v_prediction": "v"}


class ApplySiameseAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="SiameseApplyAdapter",
            display_name="Apply Siamese Adapter",
            category="Siamese-Diffusion",
            description="Apply the parts that Siamese training changes (the ControlNet and the UNet's "
            "decoder) to a Stable Diffusion checkpoint. Place it before LoRAs. If the file has only a "
            "ControlNet, the model is unchanged.",
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint that the adapter was trained on."),
                io.Combo.Input(
                    "adapter",
                    options=folder_paths.get_filename_list("controlnet") or [_NO_ADAPTER],
                    tooltip="An adapter written by Train Siamese or training.train, in models/controlnet.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the fine-tuned decoder replaces the model's own: 1 fully, 0 not at all.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the fine-tuned decoder."),
                io.ControlNet.Output(tooltip="The ControlNet that reads masks."),
                io.String.Output(id="note", display_name="note", tooltip="What was applied."),
            ],
        )
        return searchable(schema, ("controlnet", "adapter", "lora"))

    @classmethod
    def fingerprint_inputs(cls, adapter: str | None = None, **_: object) -> Any:
        """A value that changes when the file is replaced, so that the host loads it again."""
        return file_fingerprint(adapter and folder_paths.get_full_path("controlnet", adapter))

    @classmethod
    @refusing
    def execute(cls, model: Any, adapter: str, strength: float) -> io.NodeOutput:
        if adapter == _NO_ADAPTER:
            raise CheckpointError(
                "There is no adapter in models/controlnet; put one there and refresh the page (key R)."
            )
        path = Path(folder_paths.get_full_path_or_raise("controlnet", adapter))
        state = FileState.of(path)
        file = load_model(path)
        if "control" not in file.parts:
            raise CheckpointError(f"'{path.name}' is a base without a ControlNet; give an adapter.")
        _refuse_stock_control(path, file)
        host_shapes = {key: tuple(value.shape) for key, value in model.model.state_dict().items()}
        _check_base(path, file, host_shapes)
        _check_prediction(path, file, prediction_of(model))
        tell_of_training(file)
        if file.kind == "control":
            note = f"'{path.name}' holds a ControlNet alone: the model stays as it is."
            same = model.clone()
            same.set_attachments(OWN_SAMPLING, own_sampling(file.training, file.architecture))
            return io.NodeOutput(same, build_control(file), note)
        patched = apply_decoder(model, file, strength)
        patched.set_attachments(FILE, state)
        patched.set_attachments(OWN_SAMPLING, own_sampling(file.training, file.architecture))
        note = f"'{path.name}': tuned decoder at strength {strength:g}, and its ControlNet."
        return io.NodeOutput(patched, build_control(file), note)


def _refuse_stock_control(path: Path, file: ModelFile) -> None:
    if file.architecture.hint_block == "sparse" and not file.training:
        raise CheckpointError(
            f"'{path.name}' is an ordinary ControlNet, not a Siamese one (it has no dense hint block); load "
            "it with Load ControlNet Model, or choose an adapter written by Train Siamese or training.train."
        )


def _check_base(path: Path, file: ModelFile, host: dict[str, tuple[int, ...]]) -> None:
    """Compare shapes with the model's UNet, because the host would silently skip weights that do not fit."""
    found = {**file.parts["control"], **file.parts.get("unet", {})}
    for key, value in found.items():
        wanted = host.get(HOST_PREFIX + key)
        if wanted is not None and wanted != tuple(value.shape):
            raise CheckpointError(
                f"'{path.name}' was trained on a model of another size: '{key}' is {tuple(value.shape)} "
                f"there and {wanted} in this model; load the checkpoint that it was trained on."
            )


def _check_prediction(path: Path, file: ModelFile, host: Prediction) -> None:
    """Refuse weights trained for another prediction type: they have the same shapes but would give noise."""
    own = file.architecture.prediction
    told = file.training or "unet" in file.parts  # a foreign ControlNet alone does not imply a type
    if told and own != host:
        raise CheckpointError(
            f"'{path.name}' was trained on a model that predicts {_PREDICTED[own]}, and this model predicts "
            f"{_PREDICTED[host]}; load the checkpoint that it was trained on, or, if the host is mistaken "
            f"about the checkpoint, put ModelSamplingDiscrete with {'eps' if own == 'epsilon' else own} "
            "before this node."
        )
