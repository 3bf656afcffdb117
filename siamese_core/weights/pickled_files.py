"""Safe, memory-mapped reading of ``.pth``, ``.ckpt``, ``.pt`` and ``.bin`` files.

A pickle can run code. PyTorch's weights-only reader runs none: it allows tensors, containers and numbers, and
stops at any other name. The few names that ordinary training programs save beside the weights, the same that
ComfyUI allows, are admitted in addition and replaced by empty stand-ins.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

SUFFIXES = (".pth", ".ckpt", ".pt", ".bin")

_HARMLESS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "numpy.dtypes.Float64DType",
    "_codecs.encode",
)
_LARGEST_PICKLE = 64 << 20  # bytes; the pickle of a full checkpoint with its optimiser has less than 1 MB
_SHOWN = 300  # most characters of a reason quoted in a message
_ZIP_START = b"PK\x03\x04"


def read_pickled(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of the file's state dict by name, on the CPU, and the names of all other entries.

    The state dict is the file's content, its entry ``state_dict``, or its only entry. Tensors are views of
    the mapped file, which take memory only when accessed. Nothing in the file is executed.

    Raises CheckpointError when the file is damaged, is not in the zip format of ``torch.save`` since PyTorch
    1.6, would unpack to more than its size, names anything that is neither a weight nor known to be harmless,
    or holds no tensor.
    """
    check_archive(path)
    try:
        with _only_harmless_names():
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_reason(path, error)) from error
    except MemoryError as error:
        raise CheckpointError(
            f"'{path}' asks for more memory than there is; it holds no ordinary weights"
        ) from error
    except Exception as error:  # unpickling hostile bytes can raise anything
        raise _damaged(path, error) from error
    entries = _state_dict(content)
    tensors = {str(key): value.detach() for key, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"'{path}' holds no weights; give a checkpoint with a state dict")
    for name, tensor in tensors.items():
        _refuse_inflated(path, name, tensor)
    others = [str(key) for key in entries if str(key) not in tensors]
    if entries is not content:
        others += [str(key) for key, value in content.items() if value is not entries]
    return tensors, others


def check_archive(path: Path) -> None:
    """Raise CheckpointError unless ``path`` is an uncompressed zip with a pickle of ordinary size."""
    with path.open("rb") as stream:
        start = stream.read(256)
    if not zipfile.is_zipfile(path):
        if start.startswith(_ZIP_START):
            raise CheckpointError(f"'{path}' is cut off: its end is missing; download or copy it again")
        if _is_text(start):
            raise CheckpointError(
                f"'{path}' is a text file ({_first_line(start.decode('utf-8', 'replace'))!r}), no "
                "checkpoint; if it stands for a large file (Git LFS), or is a page that a server sent, "
                "download the file itself"
            )
        raise CheckpointError(
            f"'{path}' is no checkpoint in the format of PyTorch 1.6 or newer; older pickles are not opened: "
            "load and save it once with the program it comes from"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, UnicodeDecodeError, ValueError, OSError) as error:
        raise _damaged(path, error) from error
    packed = next((item for item in members if item.compress_type != zipfile.ZIP_STORED), None)
    size = sum(item.file_size for item in members)
    if packed is not None or size > path.stat().st_size:
        raise CheckpointError(
            f"'{path}' is a compressed archive, which checkpoints never are, and would unpack to {size:,} "
            "bytes; it is not opened. Where it is a checkpoint in an ordinary zip file, unpack that first"
        )
    largest = max((item.file_size for item in members if item.filename.endswith(".pkl")), default=0)
    if largest > _LARGEST_PICKLE:
        raise CheckpointError(
            f"'{path}' has a pickle of {largest:,} bytes beside its tensors, more than any checkpoint "
            "needs; it is not opened"
        )


class _Nothing:
    """Stand-in for an object that is not a weight: accepts any constructor arguments and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


@contextmanager
def _only_harmless_names() -> Iterator[None]:
    """Within the block PyTorch's reader allows the harmless names, as stand-ins, and no others.

    Its global list of safe names is emptied for that, since other libraries and the host add to it.
    """
    listed = torch.serialization.get_safe_globals()
    stand_ins: list[Any] = []
    for name in _HARMLESS:
        module, _, own = name.rpartition(".")
        stand_ins.append(type(own, (_Nothing,), {"__module__": module}))
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(stand_ins)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(listed)


def _state_dict(content: object) -> Mapping[Any, Any]:
    """Found as in ComfyUI: the entry ``state_dict``, else the only entry, else the content itself."""
    if not isinstance(content, Mapping):
        return {}
    inner = content.get("state_dict")
    if inner is None and len(content) == 1:
        inner = next(iter(content.values()))
    return inner if isinstance(inner, Mapping) else content


def _refuse_inflated(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse tensors that claim more values than their storage has, for example through a stride of 0."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise CheckpointError(f"'{path}': '{name}' is no plain tensor; save the weights as ordinary ones")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"'{path}': '{name}' claims {tensor.numel():,} values, more than the file stores for it; the "
            "file is not used"
        )


def _reason(path: Path, error: pickle.UnpicklingError) -> str:
    # torch's own message goes on to advise loading the file with weights_only=False.
    name = re.search(r"GLOBAL ([\w.]+)", str(error))
    found = f"'{name[1]}'" if name else "something"
    return (
        f"'{path}' names {found}, which is no weight. By such names a pickle runs code, so the file is not "
        "used, and nothing of it was run; get the model as .safetensors, or save its state dict alone"
    )


def _damaged(path: Path, error: object) -> CheckpointError:
    return CheckpointError(f"'{path}' is damaged ({_first_line(error)}); download or copy it again")


def _is_text(start: bytes) -> bool:
    try:
        line = start.splitlines()[0].decode("utf-8")
    except (UnicodeDecodeError, IndexError):
        return False
    return line.isprintable()


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [""])[0][:_SHOWN]
