"""Image/mask pairs on disk: finding them, checking them, and loading one.

Two layouts are read: a folder with ``images/`` and ``masks/`` whose files share stems, and a
``prompt.json`` whose entries name a mask (``source``), an image (``target``) and a ``prompt``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from ..files import file_digest
from ..json_lines import parse_json
from ..masks.mask_files import (
    IMAGE_EXTENSIONS,
    MASK_FOLDERS,
    MaskError,
    ResizeMode,
    Size,
    decode_image,
    deep_grey_values,
    eight_bit_values,
    first_subfolder,
    has_deep_grey,
    image_size,
    list_images,
    read_mask,
    resize_image,
    resize_mask,
)

IMAGE_FOLDERS = ("images", "image")
PROMPT_FILE = "prompt.json"

_MASK_SUFFIXES = ("_mask", "_segmentation")
_SHOWN_STEMS = 5
_SHOWN_CHARACTERS = 200
_BETWEEN_ENTRIES = re.compile(r"[\s,]*")


class PairError(UserError):
    """Pairs that cannot be used; the message names the file, the line if any, and what to do about it."""


@dataclass(frozen=True)
class Pair:
    """One image and its mask on disk; ``stem``, the image's, is unique among the pairs of a source."""

    stem: str
    image: Path
    mask: Path
    prompt: str | None


@dataclass(frozen=True)
class LoadedPair:
    """A pair in memory: ``image`` (H, W, 3) uint8 RGB, ``mask`` (H, W) bool, ``note`` on its reading."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    note: str | None


def find_pairs(source: Path, *, default_prompt: str | None = None) -> list[Pair]:
    """Find the pairs at ``source``: a prompt file, or a folder in one of the two layouts.

    A folder's ``prompt.json`` takes precedence over its ``images/`` and ``masks/`` (also spelled
    ``image/``, ``mask/``), because it says more. In the folder layout a mask has its image's stem,
    optionally followed by ``_mask`` or ``_segmentation``; pairs come in natural order of their
    stems and all get ``default_prompt``. A prompt file is JSON Lines or a JSON array; pairs keep its
    order, and ``default_prompt`` serves entries without a prompt. Its relative paths are looked up
    beside the file, then in the parent folder, then in the working directory.

    Raises PairError when nothing is found, when a file has no partner, when stems repeat, and for
    prompt files that are malformed, lack a key or name a missing file.
    """
    if source.is_file():
        return _pairs_of_prompt_file(source, default_prompt)
    if not source.is_dir():
        raise PairError(f"The folder or prompt file '{source}' does not exist; check the path.")
    if (source / PROMPT_FILE).is_file():
        return _pairs_of_prompt_file(source / PROMPT_FILE, default_prompt)
    images, masks = first_subfolder(source, IMAGE_FOLDERS), first_subfolder(source, MASK_FOLDERS)
    if images is None or masks is None:
        raise PairError(
            f"The folder '{source}' holds neither '{PROMPT_FILE}' nor the subfolders 'images' and 'masks' "
            "(or 'image' and 'mask'); add one or the other."
        )
    return pairs_of_folders(images, masks, default_prompt)


def pairs_of_folders(images: Path, masks: Path, prompt: str | None) -> list[Pair]:
    """The pairs of a folder of images and one of masks, matched by stem as in :func:`find_pairs`.

    Raises PairError when one of them is empty, when a file has no partner and when stems repeat.
    """
    image_by_stem = _files_by_stem(images, [(path.stem, path) for path in list_images(images)])
    mask_by_stem = _files_by_stem(
        masks, [(_mask_stem(path, image_by_stem), path) for path in list_images(masks)]
    )
    without_mask = [stem for stem in image_by_stem if stem not in mask_by_stem]
    without_image = [stem for stem in mask_by_stem if stem not in image_by_stem]
    problems = []
    if without_mask:
        problems.append(f"{_counted(len(without_mask), 'image')} without a mask ({_listed(without_mask)})")
    if without_image:
        problems.append(f"{_counted(len(without_image), 'mask')} without an image ({_listed(without_image)})")
    if problems:
        raise PairError(
            f"The folders '{images}' and '{masks}' do not match: {' and '.join(problems)}; give both files "
            "of a pair the same name, or remove the odd ones."
        )
    return [Pair(stem, image, mask_by_stem[stem], prompt) for stem, image in image_by_stem.items()]


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read the image file ``path`` as (H, W, 3) uint8 RGB.

    16-bit grey is scaled from 0..65535 to 0..255 (values that fit 8 bits already are kept), and
    transparency is composited on black. An EXIF orientation is not applied: masks are drawn on the
    stored pixel grid and carry no EXIF, so turning the image alone would part it from its mask.
    (Pillow itself honours the orientation tag of TIFF, in images and masks alike.)

    Raises PairError for what is no readable image, within the size limits of masks.
    """
    with _as_pair_errors():
        image = decode_image(path, "image")
        if has_deep_grey(image):
            image = Image.fromarray(eight_bit_values(deep_grey_values(image, path, "image")))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured)
    return np.array(image.convert("RGB"))


def load_pair(
    pair: Pair,
    *,
    size: Size | None,
    mode: ResizeMode = "stretch",
    threshold: int = 127,
    label: int | None = None,
) -> LoadedPair:
    """Read ``pair`` and resize both halves alike to ``size`` (height, width); None keeps their size.

    ``threshold`` and ``label`` are those of :func:`~siamese_core.masks.mask_files.read_mask`. Raises
    PairError when a file cannot be read or the two differ in size.
    """
    image = read_image(pair.image)
    with _as_pair_errors():
        reading = read_mask(pair.mask, threshold=threshold, label=label)
    _require_equal_sizes(pair, image.shape[:2], reading.mask.shape)
    if size is None:
        return LoadedPair(image, reading.mask, reading.note)
    return LoadedPair(resize_image(image, size, mode), resize_mask(reading.mask, size, mode), reading.note)


def check_pairs(pairs: Sequence[Pair], *, threshold: int = 127, label: int | None = None) -> list[str]:
    """Check all ``pairs`` before a long run; returns what the user should know, one line per matter.

    Decodes every mask and reads the header of every image. Raises PairError at the first file that
    cannot be read, at the first pair whose sizes differ, and when every mask is empty.
    """
    masks_by_note: dict[str, list[str]] = defaultdict(list)
    empty: list[str] = []
    for pair in pairs:
        with _as_pair_errors():
            reading = read_mask(pair.mask, threshold=threshold, label=label)
            size = image_size(pair.image, "image")
        _require_equal_sizes(pair, size, reading.mask.shape)
        if reading.note:
            masks_by_note[reading.note].append(pair.mask.name)
        if not reading.mask.any():
            empty.append(pair.mask.name)
    if empty and len(empty) == len(pairs):
        wanted = f"value exceeds {threshold}" if label is None else f"value is the label {label}"
        raise PairError(
            f"All masks are empty ({_counted(len(empty), 'mask')}, first: '{pairs[0].mask}'): no {wanted}; "
            "lower the threshold, or pick the label that is foreground with --mask-label."
        )
    notes = [
        f"{_counted(len(names), 'mask')}: {note} (first: {names[0]})" for note, names in masks_by_note.items()
    ]
    if empty:
        notes.append(f"{_counted(len(empty), 'mask')} without any foreground (first: {empty[0]})")
    return notes


def pairs_fingerprint(pairs: Sequence[Pair]) -> str:
    """SHA-256 (hexadecimal) over the stems, file sizes and contents of ``pairs``, whatever their order.

    Two runs with equal fingerprints saw the same files, wherever those lay.
    """
    records = sorted((pair.stem, _content_record(pair.image), _content_record(pair.mask)) for pair in pairs)
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


def _content_record(path: Path) -> tuple[int, str]:
    return path.stat().st_size, file_digest(path)


def _files_by_stem(folder: Path, files: list[tuple[str, Path]]) -> dict[str, Path]:
    if not files:
        raise PairError(f"The folder '{folder}' is empty; put {', '.join(IMAGE_EXTENSIONS)} files into it.")
    by_stem: dict[str, Path] = {}
    for stem, path in files:
        if other := by_stem.get(stem):
            raise PairError(
                f"The files '{other.name}' and '{path.name}' in '{folder}' both stand for '{stem}'; "
                "rename or remove one of them."
            )
        by_stem[stem] = path
    return by_stem


def _mask_stem(mask: Path, image_by_stem: dict[str, Path]) -> str:
    """The stem of the image that ``mask`` belongs to: its own where such an image exists."""
    if mask.stem in image_by_stem:
        return mask.stem
    for suffix in _MASK_SUFFIXES:
        if mask.stem.lower().endswith(suffix):
            return mask.stem[: -len(suffix)]
    return mask.stem


def _pairs_of_prompt_file(path: Path, default_prompt: str | None) -> list[Pair]:
    pairs: list[Pair] = []
    line_by_stem: dict[str, int] = {}
    for line, entry in _prompt_entries(path):
        pair = _pair_of_entry(path, line, entry, default_prompt)
        if pair.stem in line_by_stem:
            raise PairError(
                f"Lines {line_by_stem[pair.stem]} and {line} of '{path}' both name an image called "
                f"'{pair.stem}'; give every image a name of its own."
            )
        line_by_stem[pair.stem] = line
        pairs.append(pair)
    if not pairs:
        raise PairError(f"The prompt file '{path}' is empty; add one entry per pair.")
    return pairs


def _prompt_entries(path: Path) -> Iterator[tuple[int, Any]]:
    """The entries of a prompt file, each with the number of the line it begins on."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PairError(f"The prompt file '{path}' is not UTF-8 text; save it as UTF-8.") from error
    if text.lstrip().startswith("["):
        yield from _array_entries(path, text)
        return
    # Not splitlines(): prompts may hold the separators of Unicode, which end no line of JSON Lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parsed(path, line, first_line=number)


def _array_entries(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    _parsed(path, text, first_line=1)
    # The whole is valid by now; a second pass finds the lines, which json does not tell.
    decoder = json.JSONDecoder()
    line, counted, position = 1, 0, text.index("[") + 1
    while True:
        position = _end_of_separator(text, position)
        if text[position] == "]":
            return
        line, counted = line + text.count("\n", counted, position), position
        entry, position = decoder.raw_decode(text, position)
        yield line, entry


def _end_of_separator(text: str, position: int) -> int:
    separator = _BETWEEN_ENTRIES.match(text, position)
    return separator.end() if separator else position


def _parsed(path: Path, text: str, *, first_line: int) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        line, reason = first_line, str(error)
        if isinstance(error, json.JSONDecodeError):
            line, reason = first_line + error.lineno - 1, error.msg
        raise PairError(
            f"Line {line} of '{path}' is not valid JSON ({reason}); write an object per line or an array."
        ) from error


def _pair_of_entry(path: Path, line: int, entry: Any, default_prompt: str | None) -> Pair:
    if not isinstance(entry, dict):
        raise PairError(
            f"Line {line} of '{path}' holds no JSON object; write "
            '{"source": <mask>, "target": <image>, "prompt": <text>}.'
        )
    texts = {"prompt": default_prompt, **entry}
    for key in ("source", "target", "prompt"):
        if texts.get(key) is None:
            raise PairError(f"Line {line} of '{path}' lacks the key '{key}'; add it.")
        if not isinstance(texts[key], str):
            raise PairError(f"Line {line} of '{path}' has a '{key}' that is no text; put it in quotes.")
    image = _referenced_file(path, line, "target", texts["target"])
    mask = _referenced_file(path, line, "source", texts["source"])
    return Pair(image.stem, image, mask, texts["prompt"])


def _referenced_file(path: Path, line: int, key: str, name: str) -> Path:
    relative = Path(name.replace("\\", "/"))
    folder = path.absolute().parent
    for base in (folder, folder.parent, Path.cwd()):
        with contextlib.suppress(OSError):  # of a name that is too long, or in a folder that is closed
            if (base / relative).is_file():
                return base / relative
    shown = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
    raise PairError(
        f"Line {line} of '{path}' names the {key} '{shown}', which does not exist relative to '{folder}', "
        "its parent or the working directory; correct the path."
    )


def _require_equal_sizes(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    if image != mask:
        raise PairError(
            f"The image '{pair.image}' is {image[1]} x {image[0]} pixels but its mask '{pair.mask}' is "
            f"{mask[1]} x {mask[0]}; export them in the same size."
        )


@contextlib.contextmanager
def _as_pair_errors() -> Iterator[None]:
    try:
        yield
    except MaskError as error:
        raise PairError(str(error)) from error


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _listed(stems: list[str]) -> str:
    shown = ", ".join(stems[:_SHOWN_STEMS])
    return f"{shown} and {len(stems) - _SHOWN_STEMS} more" if len(stems) > _SHOWN_STEMS else shown
