"""Weight files as tensors by name: memory-mapped for reading, written one tensor at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..files import atomic_path
from .pickled_files import SUFFIXES as PICKLED
from .pickled_files import read_pickled

SAFETENSORS = ".safetensors"
_SHOWN = 200  # most characters of a foreign name quoted in a message

_CODES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
}


@dataclass(frozen=True)
class WeightFile:
    """Tensors by name, on the CPU as views of the mapped file, and the metadata of a ``.safetensors`` file.

    ``others`` names the entries of a pickled file that are not tensors of its state dict.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    others: tuple[str, ...] = ()


def read_weights(path: Path) -> WeightFile:
    """Read a ``.safetensors`` file, or a pickled one through :func:`read_pickled`.

    Raises CheckpointError for a damaged file or an unknown suffix, FileNotFoundError and other OSErrors.
    """
    suffix = path.suffix.lower()
    if suffix not in (SAFETENSORS, *PICKLED):
        raise CheckpointError(
            f"'{path}' is none of {SAFETENSORS}, {', '.join(PICKLED)}; give a file of weights"
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file '{path}'; check the name.")
    if suffix in PICKLED:
        tensors, others = read_pickled(path)
        return WeightFile(tensors, {}, tuple(others))
    try:
        # Opening checks the header and that the file holds every byte the header announces.
        with safe_open(path, framework="pt") as file:
            return WeightFile({key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {}))  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a ``.safetensors`` file, read from its header. Raises like :func:`read_weights`."""
    if path.suffix.lower() != SAFETENSORS:
        raise CheckpointError(f"'{path}' does not end in {SAFETENSORS}; only such files carry metadata")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, error) from error


def require_floating(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, naming the first misfit, unless all dtypes are writable floating-point ones.

    Integer weights belong to a quantised model and are meaningless without its scales.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.dtype not in _CODES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"'{path}': '{name[:_SHOWN]}' is {kind}, no floating-point weight that can be used here; "
                "where the model is quantised, give its fp16 or fp32 file"
            )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"'{path}' is damaged or is not a safetensors file ({error}); download, copy or save it again."
    )


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    types: Mapping[str, torch.dtype],
    check: Callable[[str, Tensor, Tensor], None] | None = None,
) -> None:
    """Write ``tensors`` to ``path`` atomically, each cast to its dtype in ``types``.

    Only one cast tensor is in memory at a time, so mapped files of any size can be rewritten.
    ``check(name, tensor, cast)`` is called before each is written and may raise. A missing folder is created.
    Raises OSError when the file cannot be written. Format: https://github.com/huggingface/safetensors.
    """
    # Widest dtypes first, so that every tensor is aligned to its element size.
    order = sorted(tensors, key=lambda name: (-types[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * types[name].itemsize
        header[name] = {
            "dtype": _CODES[types[name]],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        try:
            stream.write(struct.pack("<Q", len(text)) + text)
            for name in order:
                cast = tensors[name].detach().to(device="cpu", dtype=types[name]).contiguous()
                if check is not None:
                    check(name, tensors[name], cast)
                stream.write(cast.flatten().view(torch.uint8).numpy().data)
            stream.flush()
        except OSError as error:
            error.filename = error.filename or str(path)  # errors from writing to an open file lack its name
            raise
