"""Real frames without findings, used as backgrounds of generated lesions: finding and choosing them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import file_digest
from ..masks.folder_contents import nothing_read
from ..masks.foreground_rule import ForegroundRule
from ..masks.mask_files import MASK_FOLDERS, first_subfolder, list_images, read_mask
from ..masks.resizing import ResizeMode, Size, resize_image
from ..pairs.image_files import ImageSurvey, read_image
from ..pairs.pair_files import IMAGE_FOLDERS, PROMPT_FILE, images_by_stem, mask_stem, masks_among
from ..pairs.prompt_file import names_in_prompt_file
from ..seeds import stream_seed

_ANY_FOREGROUND = ForegroundRule(threshold=0, source="brightness")


class FrameError(UserError):
    """Frames that cannot be used; the message names the file or folder and the fix."""


@dataclass(frozen=True)
class Frame:
    """The frame of a pair: name, SHA-256 of the content, and ``pixels`` (H, W, 3) uint8 at its size."""

    name: str
    digest: str
    pixels: NDArray[np.uint8]


class Frames(Protocol):
    """Frames to choose from, with the ``files`` they are read from, if any, and ``notes`` for the user."""

    files: Sequence[Path]
    notes: Sequence[str]

    @property
    def digest(self) -> str:
        """SHA-256 of the contents of all frames, in order."""
        ...

    def __len__(self) -> int: ...

    def frame(self, number: int, size: Size, mode: ResizeMode) -> Frame:
        """Frame ``number`` (from 0), resized to ``size`` (height, width)."""
        ...


def frame_of_pair(frames: Frames, seed: int, index: int, size: Size, mode: ResizeMode = "stretch") -> Frame:
    """The frame of pair ``index``, a pure function of the arguments; ``seed`` is the dataset's."""
    return frames.frame(stream_seed(seed, "background", index) % len(frames), size, mode)


class FrameFiles:
    """Frames read from image files.

    ``own_masks`` maps each frame's file to its own mask or None (see :func:`find_frames`). All files are
    checked on construction, so that bad ones are refused before hours of sampling; ``on_frame`` is called for
    each. Raises PairError for an unreadable image, and FrameError for a frame whose own mask is not empty,
    because the pair's mask would not contain the frame's lesion.
    """

    def __init__(
        self, own_masks: Mapping[Path, Path | None], on_frame: Callable[[Path], object] = lambda path: None
    ) -> None:
        self.files: Sequence[Path] = tuple(own_masks)
        survey = ImageSurvey()
        self._digests: list[str] = []
        for path, mask in own_masks.items():
            survey.add(path)
            if mask is not None and read_mask(mask, _ANY_FOREGROUND).mask.any():
                raise FrameError(
                    f"The frame '{path}' has a mask of its own, '{mask}', and what that shows would be "
                    "missing from the pair's mask; take the frame out of the folder."
                )
            self._digests.append(file_digest(path))
            on_frame(path)
        self.notes: Sequence[str] = survey.notes()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self._digests).encode()).hexdigest()

    def frame(self, number: int, size: Size, mode: ResizeMode) -> Frame:
        """See :class:`Frames`. Raises FrameError when the file has changed since construction."""
        path, digest = self.files[number], self._digests[number]
        # The digest is taken after reading, so that a change in between is detected.
        frame = read_frame(path, size, mode)
        if frame.digest != digest:
            raise FrameError(
                f"{path}: the frame has changed since the run began; put the old file back and resume, or "
                "start a new dataset in another folder"
            )
        return frame


def read_frame(path: Path, size: Size, mode: ResizeMode) -> Frame:
    """Read ``path`` as a frame of ``size`` (height, width). Raises PairError for an unreadable image."""
    pixels = resize_image(read_image(path), size, mode)
    return Frame(path.name, file_digest(path), pixels)


def frame_folder(folder: Path) -> Path:
    """The folder with the frames: ``images/`` or ``image/`` in ``folder`` if present, else ``folder``."""
    return first_subfolder(folder, IMAGE_FOLDERS) or folder


def find_frames(
    source: Path, may_read: Callable[[Path], bool] = lambda path: True
) -> dict[Path, Path | None]:
    """The frames in the folder ``source``, in natural order, each with its own mask or None.

    A frame's own mask is in ``masks/`` or ``mask/`` or named by a ``prompt.json``, in the same folder or, for
    frames in ``images/``, in the parent folder. Paths for which ``may_read`` is False are ignored. Raises
    FrameError when there is no frame, and for a frame that looks like the mask of another; PairError for two
    frames with the same stem.
    """
    if not source.is_dir():
        raise FrameError(f"The folder of frames '{source}' does not exist; check the path.")
    folder = frame_folder(source)
    by_stem = images_by_stem(folder)
    if not by_stem:
        raise FrameError(nothing_read(folder, "frames", "is empty"))
    for mask, frame in masks_among(by_stem).items():
        raise FrameError(
            f"'{mask}' looks like the mask of the frame '{frame.name}', and would be taken for a frame "
            "itself; move it to a folder of its own."
        )
    frames = list(by_stem.values())
    places = [folder, folder.parent] if folder.name in IMAGE_FOLDERS else [folder]
    masks: dict[Path, Path] = {}
    for place in filter(may_read, places):
        masks |= _masks_beside(place, by_stem) | _listed_masks(place, {path.resolve() for path in frames})
    found = {path: masks.get(path.resolve()) for path in frames}
    return {path: mask if mask is not None and may_read(mask) else None for path, mask in found.items()}


def _masks_beside(place: Path, by_stem: Mapping[str, Path]) -> dict[Path, Path]:
    """The masks in a mask folder of ``place``, by the resolved path of their frame."""
    folder = first_subfolder(place, MASK_FOLDERS)
    masks = list_images(folder) if folder else []
    owners = [by_stem.get(mask_stem(mask, by_stem)) for mask in masks]
    return {frame.resolve(): mask for frame, mask in zip(owners, masks, strict=True) if frame is not None}


def _listed_masks(place: Path, frames: Collection[Path]) -> dict[Path, Path]:
    """The masks that a prompt file in ``place`` names for ``frames``; a frame is never its own mask."""
    file = place / PROMPT_FILE
    found = {}
    for mask, image in names_in_prompt_file(file) if file.is_file() else ():
        for base in (place, place.parent):
            with contextlib.suppress(OSError, ValueError):  # raised for impossible file names
                frame, own = (base / image).resolve(), (base / mask).resolve()
                if frame in frames and own != frame and own.is_file():
                    found[frame] = own
    return found
