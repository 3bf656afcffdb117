"""A finished model as one ``.safetensors`` file in the merged ldm layout, opened without unpickling."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .architecture import Architecture
from .errors import UserError
from .files import atomic_path
from .json_lines import parse_json
from .layout_names import Part, Shape
from .layouts import (
    POSITION_IDS,
    PREFIXES,
    LayoutError,
    check_ldm,
    detect_architecture,
    merge_parts,
    shapes_of,
    split_parts,
)

FileKind = Literal["full", "adapter", "control", "base"]
"""``full``: a whole model. ``adapter``: what training changes, the ControlNet and the UNet's decoder.
``control``: the ControlNet alone. ``base``: a model before training, without a ControlNet."""

KIND_NAMES: Mapping[FileKind, str] = {
    "full": "a full model",
    "adapter": "an adapter",
    "control": "a ControlNet alone",
    "base": "a base",
}
"""What messages call a file of each kind."""

_PARTS: Mapping[FileKind, Mapping[str, Part]] = {
    "full": {"unet": "unet", "control": "control", "vae": "vae", "text": "text"},
    "adapter": {"unet": "decoder", "control": "control"},
    "control": {"control": "control"},
    "base": {"unet": "unet", "vae": "vae", "text": "text"},
}
_SUFFIX = ".safetensors"
_SHOWN = 300  # characters of somebody else's text in messages
_BARE_CONTROL = "zero_convs.0.0.weight"


class CheckpointError(UserError):
    """A model file that cannot be read or written as one; the message names the file and the fix."""


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds.

    ``parts`` maps ``unet``, ``control``, ``vae`` and ``text`` (as far as ``kind`` has them) to weights by
    prefix-free ldm name; the ``unet`` of an adapter is its decoder alone. ``training`` is anything JSON can
    hold: settings, steps, prompt, fingerprint of the data. ``run_id`` names the training run, so that two
    halves of different runs can be told apart. ``ignored`` lists keys of a foreign file that were not read.
    """

    kind: FileKind
    architecture: Architecture
    training: dict[str, Any]
    run_id: str
    parts: dict[str, dict[str, Tensor]]
    ignored: tuple[str, ...] = ()


def save_model(path: Path, model: ModelFile, *, dtype: torch.dtype = torch.float16) -> None:
    """Write ``model`` with all weights as ``dtype``; ``path`` is replaced as a whole or not at all.

    A missing folder is created. Raises :class:`CheckpointError` when the name does not end in
    ``.safetensors``, when the weights do not fit kind and architecture, or are not finite as ``dtype``.
    """
    _require_suffix(path)
    shapes = {part: shapes_of(weights) for part, weights in model.parts.items()}
    with _explained(f"'{path}' was not written"):
        _check_parts(model.kind, shapes, model.architecture)
    merged = merge_parts(model.parts)
    merged.pop(PREFIXES["text"] + POSITION_IDS, None)
    tensors = {key: _cast(path, key, tensor, dtype) for key, tensor in merged.items()}
    metadata = {
        "format": "pt",
        "siamese.kind": model.kind,
        "siamese.architecture": model.architecture.to_json(),
        "siamese.training": json.dumps(model.training, sort_keys=True),
        "siamese.run_id": model.run_id,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise CheckpointError(f"'{path}' cannot be written ({error}); is the disk full?") from error
        # safetensors makes its files private to their owner; a model is as readable as any other file.
        temporary.chmod(mode)


def load_model(path: Path, *, num_heads: int | None = None) -> ModelFile:
    """Read a model file; weights keep the file's dtype and lie on the CPU.

    A file that :func:`save_model` wrote must hold exactly the weights of its architecture. Any other is
    taken for a Stable Diffusion 1.x model in the ldm layout, with or without a ControlNet: its architecture
    is read from the shapes, with ``num_heads`` attention heads (8 unless given; a recorded number always
    takes precedence), and keys outside of the four networks are ignored.

    Raises :class:`CheckpointError` when the file is not ``.safetensors``, is damaged, or does not hold such
    a model, and OSError when it cannot be opened. Pickled files are never opened.
    """
    with _open(path) as file, _explained(f"'{path}' does not hold a model that can be used here"):
        stored = list(file.keys())
        # A ControlNet is often saved by itself, without the prefix that it has in a merged file.
        added = PREFIXES["control"] if _BARE_CONTROL in stored else ""
        shapes = {added + key: tuple(file.get_slice(key).get_shape()) for key in stored}
        parts, ignored = split_parts(shapes)
        metadata = file.metadata() or {}
        if "siamese.kind" in metadata:
            if ignored:
                raise LayoutError(f"{len(ignored)} unexpected keys ({', '.join(ignored[:5])[:_SHOWN]})")
            kind, architecture, training = _read_record(metadata)
        else:
            kind, training = _infer_kind(parts), {}
            architecture = detect_architecture(shapes, num_heads=num_heads or 8)
        _check_parts(kind, parts, architecture)
        if parts.get("text", {}).pop(POSITION_IDS, None) is not None:
            ignored += (PREFIXES["text"] + POSITION_IDS,)
        return ModelFile(
            kind=kind,
            architecture=architecture,
            training=training,
            run_id=metadata.get("siamese.run_id", ""),
            parts={
                part: {key: file.get_tensor((PREFIXES[part] + key).removeprefix(added)) for key in keys}
                for part, keys in parts.items()
            },
            ignored=ignored,
        )


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a ``.safetensors`` file, from its header alone. Errors as :func:`load_model`."""
    with _open(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    _require_suffix(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file '{path}'; check the name.")
    try:
        # Opening checks the header and that the file holds every byte the header announces.
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"'{path}' is damaged or is not a safetensors file ({error}); download, copy or save it again."
        ) from error


@contextmanager
def _explained(start: str) -> Iterator[None]:
    """Turn a :class:`LayoutError` into the rest of a sentence that begins with ``start``."""
    try:
        yield
    except LayoutError as error:
        raise CheckpointError(f"{start}: {error}.") from error


def _require_suffix(path: Path) -> None:
    if path.suffix.lower() != _SUFFIX:
        raise CheckpointError(
            f"'{path}' does not end in {_SUFFIX}, the only format of models here, because pickled files "
            "(.ckpt, .pth, .pt, .bin) can run code; convert it to safetensors first."
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
    """Kind, architecture and training record of our own metadata."""
    kinds: dict[str, FileKind] = {kind: kind for kind in get_args(FileKind)}
    try:
        kind = kinds[metadata["siamese.kind"]]
        architecture = Architecture.from_json(metadata["siamese.architecture"])
        training: dict[str, Any] = parse_json(metadata["siamese.training"])
        if not isinstance(training, dict):
            raise ValueError("siamese.training is no JSON object")
    except (KeyError, ValueError) as error:
        reason = str(error)[:_SHOWN]
        raise LayoutError(f"its metadata cannot be read ({reason}); save the model again") from error
    return kind, architecture, training


def _infer_kind(parts: Mapping[str, object]) -> FileKind:
    if not parts:
        raise LayoutError(f"no key starts with {', '.join(PREFIXES.values())}")
    if "control" not in parts:
        return "base"
    if "vae" in parts or "text" in parts:
        return "full"
    return "adapter" if "unet" in parts else "control"


def _listed(parts: Mapping[str, object]) -> str:
    return ", ".join(sorted(parts)) or "nothing"


def _cast(path: Path, key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.detach().to(device="cpu", dtype=dtype).contiguous()
    if torch.isfinite(cast).all():
        return cast
    if torch.isfinite(tensor).all():
        name = str(dtype).removeprefix("torch.")
        raise CheckpointError(
            f"'{path}' was not written: '{key}' has values too large for {name}; save as fp32."
        )
    raise CheckpointError(
        f"'{path}' was not written: '{key}' has values that are not finite, so the training has diverged; "
        "go back to an earlier checkpoint."
    )
