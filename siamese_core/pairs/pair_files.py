"""Finding and loading image/mask pairs on disk.

Two layouts are supported: a folder with ``images/`` and ``masks/`` whose files share stems, and a
``prompt.json`` whose entries name a mask (``source``), an image (``target``) and a ``prompt``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import advice
from ..errors import counted
from ..files import file_digest, resolved_place
from ..masks.folder_contents import Tell, left_out, listed, nothing_read, tell_unread
from ..masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from ..masks.image_decoding import image_header
from ..masks.mask_files import MASK_FOLDERS, first_subfolder, list_images
from ..masks.mask_reading import MaskReading
from ..masks.resizing import ResizeMode, Size, resize_image, resize_mask
from .captions import read_captions, stem_key
from .image_files import read_image
from .manifest import MANIFEST, RUN_FOLDER
from .pair import Pair as Pair
from .pair import PairError as PairError
from .pair import as_pair_errors
from .prompt_file import pairs_of_prompt_file
from .written_masks import read_mask_by_origin

IMAGE_FOLDERS = ("images", "image")
PROMPT_FILE = "prompt.json"

MASK_SUFFIXES = ("_mask", "_segmentation")
_NAMED_AS_MASK = re.compile(rf"(.+?)({'|'.join(MASK_SUFFIXES)}|_superpixels)(_\d+)?", re.IGNORECASE)
_SHOWN_STEMS = 5


@dataclass(frozen=True)
class LoadedPair:
    """A pair in memory: ``image`` (H, W, 3) uint8 RGB, ``mask`` (H, W) bool, and how the mask was read."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    reading: MaskReading

    @property
    def note(self) -> str | None:
        """A phrase on what had to be interpreted in the mask file, or None."""
        return self.reading.note


def find_pairs(
    source: Path, *, default_prompt: str | None = None, tell: Tell = lambda note: None
) -> list[Pair]:
    """Find the pairs at ``source``: a prompt file, or a folder in one of the two layouts.

    A folder's ``prompt.json`` takes precedence over its ``images/`` and ``masks/`` (or ``image/``,
    ``mask/``). In the folder layout a mask has its image's stem, optionally followed by ``_mask`` or
    ``_segmentation``; pairs come in natural order of their stems, with prompts from
    :func:`~siamese_core.pairs.captions.read_captions`. A prompt file is JSON Lines or a JSON array; pairs
    keep its order. Its relative paths are looked up beside the file, then in the parent folder, then in the
    working directory. Pairs without a prompt get ``default_prompt``.

    ``tell`` is called with messages on files that may be meant as part of a pair but are not used, and on
    where prompts were found. Raises PairError when nothing is found, when a file has no partner, when stems
    repeat, and for prompt files that are malformed, lack a key or name a missing file; CaptionError for a
    list of prompts that cannot be read.
    """
    if source.is_file():
        return _listed_pairs(source, default_prompt, tell)
    if not source.is_dir():
        raise PairError(f"The folder or prompt file '{source}' does not exist; check the path.")
    if (source / PROMPT_FILE).is_file():
        return _listed_pairs(source / PROMPT_FILE, default_prompt, tell)
    if (source / RUN_FOLDER).is_dir() and not (source / MANIFEST).exists():
        tell(
            f"{source}: a dataset that is not finished, so far without prompts and records; "
            f"{advice.FINISH_DATASET}"
        )
    images, masks = first_subfolder(source, IMAGE_FOLDERS), first_subfolder(source, MASK_FOLDERS)
    if images is None or masks is None:
        raise PairError(
            f"The folder '{source}' holds neither '{PROMPT_FILE}' nor the subfolders 'images' and 'masks' "
            f"(or 'image' and 'mask'); {_other_place(source)}."
        )
    pairs = pairs_of_folders(images, masks, default_prompt, tell)
    captions = read_captions(source, images, [pair.image for pair in pairs])
    for place, count in captions.sources.items():
        tell(f"{source}: the prompts of {count} of {counted(len(pairs), 'pair')} come from {place}")
    pairs = [replace(pair, prompt=captions.of(pair.image) or pair.prompt) for pair in pairs]
    tell_unread(source, (path for pair in pairs for path in (pair.image, pair.mask)), tell)
    return pairs


def pairs_of_folders(
    images: Path, masks: Path, prompt: str | None, tell: Tell = lambda note: None
) -> list[Pair]:
    """Pair the files of a folder of images and a folder of masks by stem, as in :func:`find_pairs`.

    Stems match irrespective of their Unicode normal form. Raises PairError when one of the folders has no
    image, when a file has no partner and when stems repeat.
    """
    left = [f"'{folder}': {phrase}" for folder in (images, masks) for phrase in left_out(folder)]
    image_by_stem = _files_by_stem(images, [(stem_key(path.stem), path) for path in list_images(images)])
    mask_by_stem = _files_by_stem(
        masks, [(mask_stem(path, image_by_stem), path) for path in list_images(masks)]
    )
    without_mask = [stem for stem in image_by_stem if stem not in mask_by_stem]
    without_image = [stem for stem in mask_by_stem if stem not in image_by_stem]
    problems = []
    if without_mask:
        problems.append(f"{counted(len(without_mask), 'image')} without a mask ({_listed(without_mask)})")
    if without_image:
        problems.append(f"{counted(len(without_image), 'mask')} without an image ({_listed(without_image)})")
    if problems:
        also = "".join(f" Not read in {one}." for one in left)
        raise PairError(
            f"The folders '{images}' and '{masks}' do not match: {' and '.join(problems)}; give both files "
            f"of a pair the same name, or remove the odd ones.{also}"
        )
    for one in left:
        tell(f"not read in {one}")
    return [Pair(image.stem, image, mask_by_stem[stem], prompt) for stem, image in image_by_stem.items()]


def load_pair(
    pair: Pair,
    *,
    size: Size | None,
    mode: ResizeMode = "stretch",
    rule: ForegroundRule = PLAIN_MASKS,
) -> LoadedPair:
    """Read ``pair`` and resize image and mask to ``size`` (height, width); None keeps their size.

    ``rule`` is passed to :func:`~siamese_core.pairs.written_masks.read_mask_by_origin`. Raises PairError when
    a file cannot be read or the two differ in size.
    """
    image = read_image(pair.image)
    with as_pair_errors():
        reading = read_mask_by_origin(pair.mask, rule)
    require_equal_sizes(pair, image.shape[:2], reading.mask.shape)
    if size is not None:
        image = resize_image(image, size, mode)
        reading = replace(reading, mask=resize_mask(reading.mask, size, mode))
    return LoadedPair(image, reading.mask, reading)


def require_equal_sizes(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    """Raise PairError unless both (height, width) are equal, mentioning an EXIF rotation that explains it."""
    if image == mask:
        return
    turned = ""
    with as_pair_errors():
        orientation = image_header(pair.image).orientation
    if image == mask[::-1] and orientation != 1:
        turned = f", turned upright by its EXIF orientation {orientation},"
    raise PairError(
        f"The image '{pair.image}' is {image[1]} x {image[0]} pixels{turned} but its mask '{pair.mask}' is "
        f"{mask[1]} x {mask[0]}; export them in the same size."
    )


def mask_stem(mask: Path, image_by_stem: Mapping[str, Path]) -> str:
    """The stem of the image that ``mask`` belongs to: its own, or its own without a mask suffix."""
    stem = stem_key(mask.stem)
    if stem in image_by_stem:
        return stem
    for suffix in MASK_SUFFIXES:
        if stem.lower().endswith(suffix):
            return stem[: -len(suffix)]
    return stem


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The image files directly in ``folder`` by :func:`stem_key`, in natural order.

    Raises PairError when two of them have the same stem, since one may be the other's mask.
    """
    images = [(stem_key(path.stem), path) for path in list_images(folder)]
    return _files_by_stem(folder, images) if images else {}


def masks_among(images: Mapping[str, Path]) -> dict[Path, Path]:
    """The files of ``images`` (by stem) that are named as the mask of another one, each with that image.

    Some published sets keep both in one folder: ``a_mask.png``, ``a_mask_1.png`` or ``a_superpixels.png``
    beside ``a.png``.
    """
    named = ((path, _NAMED_AS_MASK.fullmatch(stem)) for stem, path in images.items())
    return {path: images[name[1]] for path, name in named if name is not None and name[1] in images}


def images_without_masks(folder: Path, tell: Tell) -> list[Path]:
    """The image files directly in ``folder`` but those of :func:`masks_among`, of which ``tell`` gets a note.

    Raises PairError like :func:`images_by_stem`.
    """
    images = images_by_stem(folder)
    masks = masks_among(images)
    if masks:
        mask, image = next(iter(masks.items()))
        tell(
            f"not read in '{folder}': {counted(len(masks), 'file')} named as the mask of another, such "
            f"as '{mask.name}' beside '{image.name}'; rename what is an image of its own"
        )
    return [path for path in images.values() if path not in masks]


def pairs_fingerprint(pairs: Sequence[Pair]) -> str:
    """SHA-256 (hexadecimal) of the stems, file sizes and contents of ``pairs``, independent of their order.

    Equal fingerprints mean equal files, whatever their folders.
    """
    records = sorted((pair.stem, _content_record(pair.image), _content_record(pair.mask)) for pair in pairs)
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


def pairs_of_masks(pairs: Sequence[Pair], masks: Sequence[Path]) -> list[Pair | None]:
    """The pair of each of the ``masks``, or None.

    A link is looked up where it lies before where it leads, since equal masks may be links to one file.
    """
    lying = {resolved_place(pair.mask): pair for pair in pairs}
    leading = {pair.mask.resolve(): pair for pair in pairs}
    return [lying.get(resolved_place(mask)) or leading.get(mask.resolve()) for mask in masks]


def prompts_digest(pairs: Sequence[Pair]) -> str:
    """SHA-256 (hexadecimal) of the stems and prompts of ``pairs``, independent of their order."""
    lines = sorted(f"{pair.stem}\n{pair.prompt}" for pair in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _content_record(path: Path) -> tuple[int, str]:
    return path.stat().st_size, file_digest(path)


def _listed_pairs(path: Path, default_prompt: str | None, tell: Tell) -> list[Pair]:
    """The pairs of a prompt file; unlisted files beside their images are reported through ``tell``."""
    pairs = pairs_of_prompt_file(path, default_prompt)
    folder = path.absolute().parent
    elsewhere = [
        file for pair in pairs for file in (pair.image, pair.mask) if not file.is_relative_to(folder)
    ]
    if 0 < len(elsewhere) < 2 * len(pairs):
        tell(
            f"{len(elsewhere)} of the {2 * len(pairs)} files that '{path}' names are not in its folder, such "
            f"as '{elsewhere[0]}'; remove their entries if they are not meant"
        )
    named: dict[Path, set[str]] = {}
    for pair in pairs:
        named.setdefault(pair.image.parent, set()).add(pair.image.name)
    for folder, names in named.items():
        if path.absolute().parent not in (folder, *folder.parents):
            continue  # a prompt file elsewhere is a deliberate selection
        unlisted = [image.stem for image in list_images(folder) if image.name not in names]
        if unlisted:
            count = counted(len(unlisted), "image")
            tell(f"'{path}' does not list {count} of '{folder}': {_listed(unlisted)}")
        for phrase in left_out(folder):
            tell(f"not read in '{folder}': {phrase}")
    return pairs


def _other_place(source: Path) -> str:
    """Advice on a folder without pairs, depending on its content."""
    inside = sorted(path for path in source.iterdir() if path.is_dir() and path.name[0] not in "._")
    good = [
        path.name
        for path in inside
        if (path / PROMPT_FILE).is_file()
        or all(first_subfolder(path, names) for names in (IMAGE_FOLDERS, MASK_FOLDERS))
    ]
    if good:
        one = len(good) == 1
        return f"{listed(good)} in it {'does' if one else 'do'}; give {'that' if one else 'one of them'}"
    found = left_out(source)
    return f"it holds {', and '.join(found)}" if found else "add one or the other"


def _files_by_stem(folder: Path, files: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    if not files:
        raise PairError(nothing_read(folder, "images", "is empty"))
    by_stem: dict[str, Path] = {}
    for stem, path in files:
        if other := by_stem.get(stem):
            raise PairError(
                f"The files '{other.name}' and '{path.name}' in '{folder}' both stand for '{stem}'; "
                "rename or remove one of them."
            )
        by_stem[stem] = path
    return by_stem


def _listed(stems: list[str]) -> str:
    shown = ", ".join(stems[:_SHOWN_STEMS])
    return f"{shown} and {len(stems) - _SHOWN_STEMS} more" if len(stems) > _SHOWN_STEMS else shown
