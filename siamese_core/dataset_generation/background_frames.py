"""Real frames without a finding, for generated lesions to lie in: which there are, and which a pair takes."""

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
from ..pairs.captions import stem_key
from ..pairs.image_files import ImageSurvey, read_image
from ..pairs.pair_files import IMAGE_FOLDERS, PROMPT_FILE, mask_stem
from ..pairs.prompt_file import names_in_prompt_file
from ..seeds import stream_seed

_ANY_FOREGROUND = ForegroundRule(threshold=0)


class FrameError(UserError):
    """Frames that nothing can be generated into; the message names the file or folder and the fix."""


@dataclass(frozen=True)
class Frame:
    """The frame of a pair: its name, SHA-256 of its content, and its pixels (H, W, 3) at the pair's size."""

    name: str
    digest: str
    pixels: NDArray[np.uint8]


class Frames(Protocol):
    """Frames to choose from.

    ``files`` are those that they are read from, if any, and ``notes`` what the user should know of them.
    """

    files: Sequence[Path]
    notes: Sequence[str]

    @property
    def digest(self) -> str:
        """SHA-256 of all their contents, in their order."""
        ...

    def __len__(self) -> int: ...

    def frame(self, number: int, size: Size, mode: ResizeMode) -> Frame:
        """Frame ``number``, resized to ``size`` (height, width) unless it has that size."""
        ...


def frame_of_pair(frames: Frames, seed: int, index: int, size: Size, mode: ResizeMode = "stretch") -> Frame:
    """The frame of pair ``index`` of a dataset of ``seed``, whatever else is made."""
    return frames.frame(stream_seed(seed, "background", index) % len(frames), size, mode)


class FrameFiles:
    """The frames of image files, in natural order of their names.

    ``own_masks``: each frame, and its own mask where it has one (:func:`find_frames`). All are looked at once
    on construction, so that bad ones are refused before hours of generating; ``on_frame`` is called for each.
    Raises PairError for a file that is no image, and FrameError for one whose own mask is not empty: the
    pair's mask would not show what the frame does.
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
        """As :class:`Frames`. Raises FrameError when the file has changed since it was looked at."""
        path, digest = self.files[number], self._digests[number]
        # Read first: whatever is digested afterwards is as new as what was used, or newer.
        frame = read_frame(path, size, mode)
        if frame.digest != digest:
            raise FrameError(
                f"{path}: the frame has changed since the run began; put the old file back and resume, or "
                "start a new dataset in another folder"
            )
        return frame


def read_frame(path: Path, size: Size, mode: ResizeMode) -> Frame:
    """The image file ``path`` as a frame of ``size`` (height, width). Raises PairError for no image."""
    pixels = resize_image(read_image(path), size, mode)
    return Frame(path.name, file_digest(path), pixels)


def frame_folder(folder: Path) -> Path:
    """Where the frames of ``folder`` lie: in its ``images/`` or ``image/`` when there is one."""
    return first_subfolder(folder, IMAGE_FOLDERS) or folder


def find_frames(
    source: Path, may_read: Callable[[Path], bool] = lambda path: True
) -> dict[Path, Path | None]:
    """The frames of the folder ``source``, in natural order, each with its own mask where there is one.

    A mask of its own lies in ``masks/`` or ``mask/``, or is named by a ``prompt.json``, in the folder or, of
    frames in ``images/``, around it; what ``may_read`` says no to is left alone. Raises FrameError when there
    is no frame, and for one that is the mask of another.
    """
    if not source.is_dir():
        raise FrameError(f"The folder of frames '{source}' does not exist; check the path.")
    folder = frame_folder(source)
    frames = list_images(folder)
    if not frames:
        raise FrameError(nothing_read(folder, "frames", "is empty"))
    by_stem = {stem_key(path.stem): path for path in frames}
    for path in frames:
        if (stem := mask_stem(path, {})) != stem_key(path.stem) and stem in by_stem:
            raise FrameError(
                f"'{path}' looks like the mask of the frame '{by_stem[stem].name}', and would be taken for a "
                "frame itself; move it to a folder of its own."
            )
    places = [folder, folder.parent] if folder.name in IMAGE_FOLDERS else [folder]
    masks: dict[Path, Path] = {}
    for place in filter(may_read, places):
        masks |= _masks_beside(place, by_stem) | _listed_masks(place, {path.resolve() for path in frames})
    found = {path: masks.get(path.resolve()) for path in frames}
    return {path: mask if mask is not None and may_read(mask) else None for path, mask in found.items()}


def _masks_beside(place: Path, by_stem: Mapping[str, Path]) -> dict[Path, Path]:
    """The masks in a mask folder of ``place``, by the frames that they belong to."""
    folder = first_subfolder(place, MASK_FOLDERS)
    masks = list_images(folder) if folder else []
    owners = [by_stem.get(mask_stem(mask, by_stem)) for mask in masks]
    return {frame.resolve(): mask for frame, mask in zip(owners, masks, strict=True) if frame is not None}


def _listed_masks(place: Path, frames: Collection[Path]) -> dict[Path, Path]:
    """The masks that a prompt file in ``place`` names for ``frames``; an image of itself is none."""
    file = place / PROMPT_FILE
    found = {}
    for mask, image in names_in_prompt_file(file) if file.is_file() else ():
        for base in (place, place.parent):
            with contextlib.suppress(OSError, ValueError):  # of names that no file can have
                frame, own = (base / image).resolve(), (base / mask).resolve()
                if frame in frames and own != frame and own.is_file():
                    found[frame] = own
    return found
