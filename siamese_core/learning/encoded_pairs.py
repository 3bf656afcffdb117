"""The encoded training set on disk: images, masks, VAE moments and prompt conditioning, made once a run."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib import format
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..files import whole_folder
from ..masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from ..masks.resizing import ResizeMode
from ..pairs.pair_files import Pair, load_pair
from .training_set import TrainingSet

_KEY_FILE = "made_from.json"
_CHUNK = 8  # pairs, or prompts, encoded at a time
_POLL_SECONDS = 1.0
_UNMAPPABLE = {errno.ENOMEM, errno.ENODEV}
"""Errors by which a set is there, but cannot be mapped into memory."""


class PairEncoder(Protocol):
    """The frozen encoders of a base model. Results are on the CPU."""

    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 ``(N, 3, R, R)`` -> posterior means and deviations, unscaled ``(N, 2, 4, R/8, R/8)``."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Text conditioning of N ``prompts``: ``(N, 77, width)``."""
        ...


def encode_pairs(
    folder: Path,
    key: str,
    encoder: PairEncoder,
    pairs: Sequence[Pair],
    resolution: int,
    mode: ResizeMode = "stretch",
    rule: ForegroundRule = PLAIN_MASKS,
    default_prompt: str = "",
) -> None:
    """Read, resize to ``resolution`` pixels square and encode ``pairs`` into ``folder``, a few at a time.

    ``key`` identifies what the set was made from. An older set in ``folder`` is replaced once the new one is
    complete. Raises PairError for a pair that cannot be read and OSError when the set cannot be written.
    """
    prompts = [pair.prompt if pair.prompt is not None else default_prompt for pair in pairs]
    distinct = [*sorted(set(prompts)), ""]
    places = {prompt: place for place, prompt in enumerate(distinct[:-1])}
    try:
        with whole_folder(folder) as temporary, contextlib.ExitStack() as files:
            (temporary / _KEY_FILE).write_text(key, "utf-8")

            def rows(name: str, count: int) -> _Rows:
                return files.enter_context(_Rows(temporary / f"{name}.npy", count))

            contexts = rows("contexts", len(distinct))
            for start in range(0, len(distinct), _CHUNK):
                chunk = distinct[start : start + _CHUNK]
                contexts.append(encoder.encode_prompts(chunk).numpy())
            rows("prompt_index", len(pairs)).append(np.array([places[prompt] for prompt in prompts]))

            images, masks, moments = (rows(name, len(pairs)) for name in ("images", "masks", "moments"))
            size = (resolution, resolution)
            starts = range(0, len(pairs), _CHUNK)
            for start in tqdm(starts, desc="encoding pairs", mininterval=1.0):
                loaded = [
                    load_pair(pair, size=size, mode=mode, rule=rule) for pair in pairs[start : start + _CHUNK]
                ]
                pixels = np.ascontiguousarray(np.stack([pair.image for pair in loaded]).transpose(0, 3, 1, 2))
                images.append(pixels)
                masks.append(np.stack([pair.mask for pair in loaded]))
                moments.append(encoder.encode_images(torch.from_numpy(pixels)).numpy())
    except OSError as error:
        if error.filename is None:
            error.filename = str(folder)  # errors from writing to an open file lack its name
        raise


class _Rows:
    """A ``.npy`` file of ``count`` rows, appended a few at a time; a context manager that closes it."""

    def __init__(self, path: Path, count: int) -> None:
        self._file = path.open("wb")
        self._count = count

    def append(self, rows: NDArray[Any]) -> None:
        """Add ``rows`` (n, ...), of the row shape and dtype of the first call."""
        if not self._file.tell():
            shape = (self._count, *rows.shape[1:])
            header = {"descr": format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
            format.write_array_header_2_0(self._file, header)
        # Not through a memory map: on a full disk, writing to one kills the process instead of raising.
        self._file.write(np.ascontiguousarray(rows).data)

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def load_training_set(folder: Path, key: str) -> TrainingSet | None:
    """The encoded set in ``folder``, memory-mapped, or None when there is none made from ``key``.

    A damaged set also gives None, because it can be made again. Raises OSError for one that cannot be mapped,
    for want of address space, for instance.
    """
    try:
        if (folder / _KEY_FILE).read_text("utf-8") != key:
            return None
        names = [field.name for field in fields(TrainingSet)]
        # Copy on write: nothing is written, but torch warns about tensors over read-only memory.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in names}
    except OSError as error:  # others come and go on a network
        if error.errno in _UNMAPPABLE:
            raise
        return None
    except (ValueError, EOFError):
        return None
    return TrainingSet(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def wait_for_training_set(folder: Path, key: str) -> TrainingSet:
    """Poll ``folder`` until another process has encoded the set there, and load it.

    Polling, because encoding may take hours and a distributed barrier would time out.
    """
    while (found := load_training_set(folder, key)) is None:
        time.sleep(_POLL_SECONDS)
    return found
