"""Writing a model file as a diffusers folder, weights one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..files import whole_folder
from ..weights.diffusers_folder import FOLDERS
from ..weights.key_layouts import to_diffusers
from ..weights.model_file import ModelFile, model_metadata, used_parts, write_weights
from .base_model import Base, build_text_encoder, build_unet, build_vae, pipeline
from .networks import DHIControlNet
from .prompt_encoding import load_tokenizer, pad_token

_KINDS = ("full", "base", "control")


def write_folder(path: Path, model: ModelFile, dtype: torch.dtype | None = None) -> None:
    """Write ``model`` (full, base or a ControlNet alone) to the folder ``path``, replacing it as a whole.

    A full model becomes a pipeline with its ControlNet in ``controlnet/``; a ControlNet alone is written to
    ``path`` itself. Weights are cast to ``dtype`` (None: unchanged), one at a time. Raises CheckpointError
    for an adapter, which lacks half of the UNet, and for values that are not finite, and OSError.
    """
    if model.kind not in _KINDS:
        raise CheckpointError(
            f"'{path}' was not written: an adapter has only a UNet's decoder; give the base it was trained "
            "on as well (--base)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(path) as temporary:
        for part, weights in used_parts(model).items():
            folder = temporary if model.kind == "control" else temporary / FOLDERS[part]  # type: ignore[index]
            stem, added = ("model", "text_model.") if part == "text" else ("diffusion_pytorch_model", "")
            # Every version of transformers reads text encoder names with the old prefix "text_model.".
            renamed = to_diffusers(part, weights, model.architecture)  # type: ignore[arg-type]
            tensors = {added + key: value for key, value in renamed.items()}
            write_weights(folder / f"{stem}.safetensors", tensors, model_metadata(model), dtype)
        _write_configs(temporary, model)


def _write_configs(folder: Path, model: ModelFile) -> None:
    arch = model.architecture
    with torch.device("meta"):  # built only for their configurations
        if "control" in model.parts:
            control = DHIControlNet.build(arch)
            control.save_config(str(folder if model.kind == "control" else folder / FOLDERS["control"]))
        if model.kind == "control":
            return
        base = Base(
            unet=build_unet(arch.unet, arch.resolution // 8),
            vae=build_vae(arch.vae, arch.resolution),
            text_encoder=build_text_encoder(arch.text),
            tokenizer=load_tokenizer(pad=pad_token(arch.text)),
            architecture=arch,
        )
    parts: dict[Any, Any] = {"unet": base.unet, "vae": base.vae}
    for part, module in parts.items():
        module.save_config(str(folder / FOLDERS[part]))
    base.text_encoder.config.architectures = ["CLIPTextModel"]
    # Without it transformers would load the file's dtype, while diffusers loads everything else as float32.
    base.text_encoder.config.dtype = torch.float32
    base.text_encoder.config.save_pretrained(str(folder / FOLDERS["text"]))
    whole = pipeline(base)
    whole.tokenizer.save_pretrained(str(folder / "tokenizer"))
    whole.scheduler.save_pretrained(str(folder / "scheduler"))
    whole.save_config(str(folder))
