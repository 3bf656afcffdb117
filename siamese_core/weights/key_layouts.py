"""Lossless, strict renaming of weights between model files (ldm) and modules (diffusers, transformers).

Names and shapes follow from the architecture alone; a state dict that does not match them exactly is refused.
No module is built, nothing is cast, and only the tensors that OpenCLIP stacks are copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from ..architecture import (
    Architecture,
    HintBlock,
    TextArchitecture,
    UNetArchitecture,
    VAEArchitecture,
    check_architecture,
)
from .key_names import Entry, Part, Shape, entries, is_decoder_key
from .unsupported_models import LayoutError, refuse_other_families

T = TypeVar("T")

PREFIXES: Mapping[str, str] = {
    "unet": "model.diffusion_model.",
    "control": "control_model.",
    "vae": "first_stage_model.",
    "text": "cond_stage_model.",
}
"""Key prefix of each part in a merged file."""

POSITION_IDS = "transformer.text_model.embeddings.position_ids"
"""A constant (0, 1, 2, ...) that older files store among the text weights."""

_UNUSED_TEXT = (
    POSITION_IDS,
    "logit_scale",
    "transformer.text_projection.weight",
    "model.logit_scale",
    "model.text_projection",
    "model.attn_mask",
)
_SD2_HEAD_CHANNELS = 64
_NAMED = 5
_MOST_DIGITS = 9  # int() raises on numbers of thousands of digits
_LONGEST_NAME = 200  # names in foreign files may be of any length


def to_ldm(part: Part, state_dict: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Rename the state dict of a diffusers or transformers module to prefix-free ldm names.

    Raises :class:`LayoutError` when a key is missing, unexpected or misshapen.
    """
    plan = entries(part, architecture)
    _check(part, shapes_of(state_dict), {entry.diffusers: entry.diffusers_shape for entry in plan})
    renamed: dict[str, Tensor] = {}
    stacks: dict[str, list[Tensor]] = {}
    for entry in plan:
        tensor = state_dict[entry.diffusers]
        if entry.place is None:
            renamed[entry.ldm] = _shaped(tensor, entry.ldm_shape)
        else:
            stacks.setdefault(entry.ldm, []).append(tensor)
    return {**renamed, **{name: torch.cat(parts) for name, parts in stacks.items()}}


def to_diffusers(
    part: Part, state_dict: Mapping[str, Tensor], architecture: Architecture
) -> dict[str, Tensor]:
    """Rename prefix-free ldm names to those of the diffusers or transformers (5 or newer) module.

    Raises :class:`LayoutError` like :func:`to_ldm`.
    """
    plan = entries(part, architecture)
    check_ldm(part, shapes_of(state_dict), architecture)
    return {entry.diffusers: _from_ldm(state_dict[entry.ldm], entry) for entry in plan}


def check_ldm(part: Part, shapes: Mapping[str, Shape], architecture: Architecture) -> None:
    """Raise :class:`LayoutError` unless ``shapes``, by prefix-free ldm key, are exactly those of ``part``."""
    if part == "text":
        unused = set(unused_text_keys(shapes, architecture))
        shapes = {key: shape for key, shape in shapes.items() if key not in unused}
    _check(part, shapes, {entry.ldm: entry.ldm_shape for entry in entries(part, architecture)})


def unused_text_keys(keys: Iterable[str], architecture: Architecture) -> list[str]:
    """Keys of a file's text part that prompt encoding does not use: allowed in files, and dropped.

    They are constants, CLIP's text projection, and the last block of OpenCLIP, which SD 2.x leaves out.
    """
    last = str(architecture.text.num_layers)
    found = []
    for key in keys:
        block = re.match(r"model\.transformer\.resblocks\.(\d+)\.", key)
        if key in _UNUSED_TEXT or (block and block[1] == last):
            found.append(key)
    return found


def shapes_of(state_dict: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def decoder_keys(unet_ldm_keys: Iterable[str]) -> list[str]:
    """The subset of the UNet's prefix-free ldm keys that Siamese training changes, in the given order."""
    return [key for key in unet_ldm_keys if is_decoder_key(key)]


def split_parts(merged: Mapping[str, T]) -> tuple[dict[str, dict[str, T]], tuple[str, ...]]:
    """Split a merged file's items by part, with prefixes removed, and list the keys that belong to no part.

    Parts without keys are absent from the result.
    """
    parts: dict[str, dict[str, T]] = {}
    others: list[str] = []
    for key, value in merged.items():
        for part, prefix in PREFIXES.items():
            if key.startswith(prefix):
                parts.setdefault(part, {})[key.removeprefix(prefix)] = value
                break
        else:
            others.append(key)
    return parts, tuple(others)


def merge_parts(parts: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """The inverse of :func:`split_parts`."""
    return {PREFIXES[part] + key: value for part, items in parts.items() for key, value in items.items()}


def detect_architecture(
    shapes: Mapping[str, Shape], *, num_heads: int = 8, resolution: int = 512
) -> Architecture:
    """Infer widths, depths and sizes from the shapes of a merged file in the ldm layout.

    Shapes do not determine ``num_heads`` and ``resolution`` (pixels), which are arguments, the heads of the
    text encoder, assumed to have 64 channels (4 heads below a hidden size of 64), and ``prediction``, set to
    "epsilon". Absent parts get the values of Stable Diffusion 1.5.

    Raises :class:`LayoutError` when a part is not laid out like Stable Diffusion 1.x or 2.x, with a specific
    message for the families in :mod:`unsupported_models`. Only :func:`check_ldm` finds every difference.
    """
    refuse_other_families(shapes)
    parts, _ = split_parts(shapes)
    control = parts.get("control", {})
    # An adapter has no UNet encoder, but its ControlNet contains a copy.
    encoder = next((p for p in (parts.get("unet", {}), control) if "input_blocks.0.0.weight" in p), None)
    architecture = Architecture(
        unet=_detect_unet(encoder, num_heads) if encoder else UNetArchitecture(num_heads=num_heads),
        vae=_detect_vae(parts["vae"]) if "vae" in parts else VAEArchitecture(),
        text=_detect_text(parts["text"]) if "text" in parts else TextArchitecture(),
        hint_block=_detect_hint_block(control),
        resolution=resolution,
    )
    try:
        check_architecture(architecture)
    except ValueError as error:
        raise _other_layout(str(error)) from error
    return architecture


def _detect_unet(shapes: Mapping[str, Shape], num_heads: int) -> UNetArchitecture:
    blocks = _indices(shapes, r"input_blocks\.(\d+)\.")
    downsamplers = _indices(shapes, r"input_blocks\.(\d+)\.0\.op\.weight")
    stride = max(1, min(downsamplers, default=len(blocks)))
    # At least one block is read, so that a file without any is refused for its first missing key.
    first_blocks = range(1, max(2, len(blocks)), stride)
    projection = shapes.get("middle_block.1.proj_in.weight", ())
    return UNetArchitecture(
        widths=tuple(_size(shapes, f"input_blocks.{i}.0.out_layers.3.weight", 0) for i in first_blocks),
        layers_per_block=stride - 1,
        num_heads=num_heads,
        context_dim=_size(shapes, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1),
        latent_channels=_size(shapes, "input_blocks.0.0.weight", 1),
        # Linear projections and fixed head sizes both came with SD 2.0.
        head_channels=_SD2_HEAD_CHANNELS if len(projection) == 2 else 0,
        linear_projection=len(projection) == 2,
    )


def _detect_vae(shapes: Mapping[str, Shape]) -> VAEArchitecture:
    levels = range(max(1, len(_indices(shapes, r"encoder\.down\.(\d+)\."))))
    return VAEArchitecture(
        widths=tuple(_size(shapes, f"encoder.down.{level}.block.0.conv1.weight", 0) for level in levels),
        layers_per_block=len(_indices(shapes, r"encoder\.down\.0\.block\.(\d+)\.")),
        latent_channels=_size(shapes, "post_quant_conv.weight", 0),
    )


def _detect_text(shapes: Mapping[str, Shape]) -> TextArchitecture:
    if any(key.startswith("model.") for key in shapes):
        return _detect_open_clip(shapes)
    root = "transformer.text_model"
    hidden_size = _size(shapes, f"{root}.embeddings.token_embedding.weight", 1)
    return TextArchitecture(
        hidden_size=hidden_size,
        intermediate_size=_size(shapes, f"{root}.encoder.layers.0.mlp.fc1.weight", 0),
        num_layers=len(_indices(shapes, re.escape(root) + r"\.encoder\.layers\.(\d+)\.")),
        num_heads=_text_heads(hidden_size),
        vocab_size=_size(shapes, f"{root}.embeddings.token_embedding.weight", 0),
        max_tokens=_size(shapes, f"{root}.embeddings.position_embedding.weight", 0),
    )


def _detect_open_clip(shapes: Mapping[str, Shape]) -> TextArchitecture:
    root = "model.transformer.resblocks"
    hidden_size = _size(shapes, "model.ln_final.weight", 0)
    layers = len(_indices(shapes, re.escape(root) + r"\.(\d+)\."))
    return TextArchitecture(
        hidden_size=hidden_size,
        intermediate_size=_size(shapes, f"{root}.0.mlp.c_fc.weight", 0),
        # A complete OpenCLIP has the text projection and a last block that SD 2.x does not use; one
        # converted from diffusers has neither.
        num_layers=layers - ("model.text_projection" in shapes),
        num_heads=_text_heads(hidden_size),
        vocab_size=_size(shapes, "model.token_embedding.weight", 0),
        max_tokens=_size(shapes, "model.positional_embedding", 0),
        family="open_clip",
    )


def _text_heads(hidden_size: int) -> int:
    return hidden_size // 64 if hidden_size >= 64 else 4


def _detect_hint_block(control: Mapping[str, Shape]) -> HintBlock:
    return "sparse" if "input_hint_block.0.weight" in control else "dense"


def _indices(keys: Iterable[str], pattern: str) -> set[int]:
    """The numbers that ``pattern`` captures at the start of the keys, ignoring absurdly long ones."""
    found = (match[1] for key in keys if (match := re.match(pattern, key)))
    return {int(digits) for digits in found if len(digits) <= _MOST_DIGITS}


def _size(shapes: Mapping[str, Shape], key: str, axis: int) -> int:
    if key not in shapes or len(shapes[key]) <= axis:
        raise _other_layout(f"'{key}' is missing or misshapen")
    return shapes[key][axis]


def _other_layout(reason: str) -> LayoutError:
    return LayoutError(
        f"the weights are not laid out like Stable Diffusion 1.x or 2.x ({reason}); use a model of that "
        "family"
    )


def _check(part: Part, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    misshapen = [
        f"{key} is {found[key]} instead of {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    problems = [
        _listed("missing", [key for key in expected if key not in found]),
        _listed("unexpected", [key for key in found if key not in expected]),
        _listed("misshapen", misshapen),
    ]
    if any(problems):
        raise LayoutError(f"{part} weights do not fit the architecture: {'; '.join(filter(None, problems))}")


def _listed(problem: str, keys: list[str]) -> str:
    if not keys:
        return ""
    rest = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    named = ", ".join(key[:_LONGEST_NAME] for key in keys[:_NAMED])
    return f"{len(keys)} {problem} ({named}{rest})"


def _from_ldm(tensor: Tensor, entry: Entry) -> Tensor:
    if entry.place is not None:
        rows = entry.diffusers_shape[0]
        tensor = tensor[entry.place * rows : (entry.place + 1) * rows]
    return _shaped(tensor, entry.diffusers_shape)


def _shaped(tensor: Tensor, shape: Shape) -> Tensor:
    return tensor if tuple(tensor.shape) == shape else tensor.reshape(shape)
