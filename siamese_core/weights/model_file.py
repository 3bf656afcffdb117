"""A finished model as one ``.safetensors`` file in the merged ldm layout; pickled files can be read, too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .. import advice
from ..architecture import Architecture, Prediction
from ..errors import CheckpointError
from ..json_lines import parse_json
from .deepspeed_folder import refuse_deepspeed
from .key_layouts import (
    PREFIXES,
    check_ldm,
    decoder_keys,
    detect_architecture,
    merge_parts,
    shapes_of,
    split_parts,
    unused_text_keys,
)
from .key_names import Part, Shape
from .renamed_keys import familiar_names
from .tensor_files import SAFETENSORS, read_weights, require_floating, write_safetensors
from .unsupported_models import LayoutError, refuse_other_files

FileKind = Literal["full", "adapter", "control", "base"]
"""``full``: a whole model. ``adapter``: the networks that training changes, ControlNet and UNet decoder.
``control``: the ControlNet alone. ``base``: a model before training, without a ControlNet."""

KIND_NAMES: Mapping[FileKind, str] = {
    "full": "a full model",
    "adapter": "an adapter",
    "control": "a ControlNet alone",
    "base": "a base",
}
"""Names of the kinds of files in messages."""

_PARTS: Mapping[FileKind, Mapping[str, Part]] = {
    "full": {"unet": "unet", "control": "control", "vae": "vae", "text": "text"},
    "adapter": {"unet": "decoder", "control": "control"},
    "control": {"control": "control"},
    "base": {"unet": "unet", "vae": "vae", "text": "text"},
}
_V_PREDICTION_SPREAD = 0.09
_SHOWN = 300  # most characters of foreign text quoted in a message


@dataclass(frozen=True)
class ModelFile:
    """The content of a model file.

    ``parts`` maps ``unet``, ``control``, ``vae`` and ``text`` (those that ``kind`` includes) to weights by
    prefix-free ldm name; the ``unet`` of an adapter is its decoder alone. ``training`` is a JSON object:
    settings, steps, prompts, fingerprint of the data. ``run_id`` identifies the training run, so that files
    of different runs are not combined. ``ignored`` lists keys of a foreign file that were not read.
    ``heads_recorded``: the number of heads comes from the file, not from an assumption.
    """

    kind: FileKind
    architecture: Architecture
    training: dict[str, Any]
    run_id: str
    parts: dict[str, dict[str, Tensor]]
    ignored: tuple[str, ...] = ()
    heads_recorded: bool = True


def save_model(path: Path, model: ModelFile, *, dtype: torch.dtype | None = torch.float16) -> None:
    """Write ``model`` to ``path`` atomically, its weights cast to ``dtype`` (None: unchanged).

    A missing folder is created. Raises :class:`CheckpointError` when the name does not end in
    ``.safetensors``, when the weights do not fit kind and architecture or are not finite after the cast, and
    OSError when the file cannot be written.
    """
    require_safetensors(path)
    shapes = {part: shapes_of(weights) for part, weights in model.parts.items()}
    with _explained(f"'{path}' was not written"):
        _check_parts(model.kind, shapes, model.architecture)
    write_weights(path, merge_parts(used_parts(model)), model_metadata(model), dtype)


def model_metadata(model: ModelFile) -> dict[str, str]:
    """The safetensors metadata of ``model``: kind, architecture, training record and run id."""
    return {
        "format": "pt",
        "siamese.kind": model.kind,
        "siamese.architecture": model.architecture.to_json(),
        "siamese.training": json.dumps(model.training, sort_keys=True),
        "siamese.run_id": model.run_id,
    }


def used_parts(model: ModelFile) -> dict[str, dict[str, Tensor]]:
    """The parts of ``model`` without the text encoder's unused weights."""
    unused = set(unused_text_keys(model.parts.get("text", {}), model.architecture))
    return {
        part: {key: value for key, value in weights.items() if part != "text" or key not in unused}
        for part, weights in model.parts.items()
    }


def write_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None,
    constants: Mapping[str, Tensor] = {},
) -> None:
    """Write ``tensors`` as ``dtype`` (None: unchanged), one at a time, and ``constants`` unchanged.

    Raises :class:`CheckpointError` when a value is not finite and OSError when the file cannot be written;
    ``path`` is then left as it was.
    """

    def check(key: str, tensor: Tensor, cast: Tensor) -> None:
        _require_finite(path, key, tensor, cast)

    types = {key: dtype or tensor.dtype for key, tensor in tensors.items()}
    types |= {key: tensor.dtype for key, tensor in constants.items()}
    write_safetensors(path, {**tensors, **constants}, metadata, types, check)


def load_model(
    path: Path, *, num_heads: int | None = None, prediction: Prediction | None = None
) -> ModelFile:
    """Read a model file; weights keep the file's dtype and are views of the mapped file on the CPU.

    A file written by :func:`save_model` must hold exactly the weights of its architecture. Any other file
    (``.safetensors``, or ``.pth``, ``.ckpt``, ``.pt``, ``.bin`` through :func:`read_pickled`) is taken for a
    Stable Diffusion 1.x or 2.x model in the ldm layout, with or without a ControlNet, as the published
    implementation writes it. Its architecture is inferred from the shapes, with ``num_heads`` (default 8)
    for SD 1.x; weights outside the four networks are ignored. ``prediction``, if not given, is guessed from
    an SD 2.x decoder as in ComfyUI. Values recorded in a file take precedence over both arguments.

    Raises :class:`CheckpointError` when the file is damaged, has an unknown suffix or does not hold such a
    model, and OSError when it cannot be opened.
    """
    if path.is_dir():
        refuse_deepspeed(path)
        raise CheckpointError(f"'{path}' is a folder; {advice.ONE_FILE}")
    file = read_weights(path)
    recorded = "siamese.architecture" in file.metadata
    with _explained(f"'{path}' does not hold a model that can be used here"):
        if "siamese.kind" in file.metadata:
            parts, ignored = split_parts(file.tensors)
            if ignored:
                raise LayoutError(f"{len(ignored)} unexpected keys ({', '.join(ignored[:5])[:_SHOWN]})")
            kind, architecture, training = _read_record(file.metadata)
        else:
            tensors = familiar_names(file.tensors, PREFIXES)
            parts, ignored = split_parts(tensors)
            refuse_other_files(tensors, parts)
            kind = infer_kind(parts)
            if kind == "adapter":  # a UNet encoder in the file is the base's, which training leaves unchanged
                unet = parts["unet"]
                parts["unet"] = {key: unet[key] for key in decoder_keys(unet)}
                ignored += tuple(PREFIXES["unet"] + key for key in unet if key not in parts["unet"])
            if recorded:  # written by training.convert in the published layout
                _, architecture, training = _read_record({**file.metadata, "siamese.kind": kind})
            else:
                training = {}
                architecture = detect_architecture(shapes_of(tensors), num_heads=num_heads or 8)
                predicts = prediction or detect_prediction(parts.get("unet", {}), architecture)
                architecture = replace(architecture, prediction=predicts)
        run_id = file.metadata.get("siamese.run_id", "")
        model = ModelFile(kind, architecture, training, run_id, parts, heads_recorded=recorded)
        used = used_parts(model)
        # Before names and shapes: those of a quantised file differ, and their message would hide the cause.
        require_floating(path, merge_parts(used))
        _check_parts(kind, {part: shapes_of(weights) for part, weights in parts.items()}, architecture)
    unused = unused_text_keys(parts.get("text", {}), architecture)
    ignored = (*ignored, *(PREFIXES["text"] + key for key in unused), *file.others)
    return replace(model, parts=used, ignored=ignored)


def detect_prediction(unet: Mapping[str, Tensor], architecture: Architecture) -> Prediction:
    """What the UNet predicts, by ComfyUI's heuristic: in SD 2.x one bias has a larger spread if it is v."""
    last = (architecture.unet.layers_per_block + 1) * len(architecture.unet.widths) - 1
    bias = unet.get(f"output_blocks.{last}.1.transformer_blocks.0.norm1.bias")
    if not architecture.unet.linear_projection or bias is None:
        return "epsilon"
    return "v_prediction" if float(bias.float().std(unbiased=False)) > _V_PREDICTION_SPREAD else "epsilon"


@contextmanager
def _explained(start: str) -> Iterator[None]:
    """Turn a :class:`LayoutError` into a :class:`CheckpointError` that begins with ``start``."""
    try:
        yield
    except LayoutError as error:
        raise CheckpointError(f"{start}: {error}.") from error


def require_safetensors(path: Path) -> None:
    """Raise :class:`CheckpointError` unless ``path`` ends in ``.safetensors``, the only format written."""
    if path.suffix.lower() != SAFETENSORS:
        raise CheckpointError(
            f"'{path}' does not end in {SAFETENSORS}, the only format that is written, because pickled files "
            "(.ckpt, .pth, .pt, .bin) can run code; give another name."
        )


def _check_parts(
    kind: FileKind, shapes: Mapping[str, Mapping[str, Shape]], architecture: Architecture
) -> None:
    expected = _PARTS[kind]
    if shapes.keys() != expected.keys():
        raise LayoutError(f"a model of kind '{kind}' holds {_listed(expected)}, this one {_listed(shapes)}")
    for name, part in expected.items():
        check_ldm(part, shapes[name], architecture)


def _read_record(metadata: Mapping[str, str]) -> tuple[FileKind, Architecture, dict[str, Any]]:
    """Kind, architecture and training record from the metadata of :func:`model_metadata`."""
    kinds: dict[str, FileKind] = {kind: kind for kind in get_args(FileKind)}
    try:
        kind = kinds[metadata["siamese.kind"]]
        architecture = Architecture.from_json(metadata["siamese.architecture"])
        training = training_record(metadata["siamese.training"])
    except (KeyError, ValueError) as error:
        reason = str(error)[:_SHOWN]
        raise LayoutError(f"its metadata cannot be read ({reason}); save the model again") from error
    return kind, architecture, training


def training_record(text: str) -> dict[str, Any]:
    """Parse ``siamese.training`` of a file's metadata. Raises ValueError when it is not a JSON object."""
    training = parse_json(text)
    if not isinstance(training, dict):
        raise ValueError("siamese.training is no JSON object")
    return training


def infer_kind(parts: Mapping[str, object]) -> FileKind:
    """The kind of a file with these ``parts``. Raises LayoutError when there are none."""
    if not parts:
        raise LayoutError(f"no key starts with {', '.join(PREFIXES.values())}")
    if "control" not in parts:
        return "base"
    if "vae" in parts or "text" in parts:
        return "full"
    return "adapter" if "unet" in parts else "control"


def _listed(parts: Mapping[str, object]) -> str:
    return ", ".join(sorted(parts)) or "nothing"


def _require_finite(path: Path, key: str, tensor: Tensor, cast: Tensor) -> None:
    if not cast.is_floating_point() or cast.dtype.itemsize == 1 or torch.isfinite(cast).all():
        return
    if torch.isfinite(tensor).all():
        name = str(cast.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"'{path}' was not written: '{key}' has values too large for {name}; save as fp32."
        )
    raise CheckpointError(
        f"'{path}' was not written: '{key}' has values that are not finite, so the training has diverged; "
        "go back to an earlier checkpoint."
    )
