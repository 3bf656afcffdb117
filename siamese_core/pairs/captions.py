"""Prompts that lie beside images: in the lists of exported datasets, and in a text file for each image."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UserError
from ..json_lines import parse_json
from ..text_files import read_text

CAPTION_KEYS = ("prompt", "text", "caption")
"""What columns of prompts are called; the second is what Hugging Face's image folders use."""

_MOST_BYTES = 64 << 10  # of one image's text


class CaptionError(UserError):
    """A list of prompts that cannot be read; the message names the file, the line and the fix."""


@dataclass(frozen=True)
class Captions:
    """The prompts found: by the stem of their image (see :func:`stem_key`), and where each file's were."""

    by_stem: Mapping[str, str]
    sources: Mapping[str, int]
    """Prompts taken from each place, by its name."""

    def of(self, image: Path) -> str | None:
        return self.by_stem.get(stem_key(image.stem))


def stem_key(stem: str) -> str:
    """``stem`` in the one form of its letters in which names of equal look are equal.

    macOS takes accents apart (NFD) where others keep letters whole (NFC).
    """
    return unicodedata.normalize("NFC", stem)


def read_captions(source: Path, images: Path, files: Iterable[Path]) -> Captions:
    """The prompts of the image ``files``, which lie in ``images`` below the dataset's folder ``source``.

    Looked for in ``metadata.jsonl``, ``metadata.csv``, ``annotations.json`` and ``manifest.jsonl`` of either
    folder, and in ``<stem>.txt`` beside an image; where several tell, the first does. Raises CaptionError
    for a list that cannot be read.
    """
    by_stem: dict[str, str] = {}
    sources: dict[str, int] = {}

    def add(place: str, found: Iterable[tuple[str, str]], wanted: set[str]) -> None:
        new = {stem: text for stem, text in found if stem in wanted and stem not in by_stem}
        by_stem.update(new)
        if new:
            sources[place] = len(new)

    wanted = {stem_key(path.stem) for path in files}
    for folder in dict.fromkeys((source, images)):
        for name, read in _LISTS.items():
            if (folder / name).is_file():
                add(name, _named(read(folder / name)), wanted)
    add("text files beside the images", _text_files(images), wanted)
    return Captions(by_stem, sources)


def _named(entries: Iterable[tuple[Any, Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Stem and prompt of the ``entries`` (name of the image, its other values) that have both."""
    for name, values in entries:
        prompts = (values.get(key) for key in CAPTION_KEYS)
        prompt = next((text.strip() for text in prompts if isinstance(text, str) and text.strip()), None)
        if isinstance(name, str) and prompt:
            yield stem_key(PurePosixPath(name.replace("\\", "/")).stem), prompt


def _json_lines(
    key: str, has_suffix: bool = True
) -> Callable[[Path], Iterator[tuple[Any, Mapping[str, Any]]]]:
    def read(path: Path) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if not line.strip():
                continue
            entry = _parsed(path, line, number)
            if isinstance(entry, dict):
                name = entry.get(key)
                yield (f"{name}.png" if isinstance(name, str) and not has_suffix else name), entry

    return read


def _csv(path: Path) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    for row in csv.DictReader(io.StringIO(read_text(path))):
        yield row.get("file_name"), row


def _coco(path: Path) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    content = _parsed(path, read_text(path), 1)
    images = content.get("images") if isinstance(content, dict) else None
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict):
            yield image.get("file_name"), image


_LISTS: Mapping[str, Callable[[Path], Iterator[tuple[Any, Mapping[str, Any]]]]] = {
    "metadata.jsonl": _json_lines("file_name"),
    "metadata.csv": _csv,
    "annotations.json": _coco,
    "manifest.jsonl": _json_lines("stem", has_suffix=False),
}


def _text_files(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.iterdir():
        if path.suffix.lower() != ".txt" or not path.is_file() or path.stat().st_size > _MOST_BYTES:
            continue
        text = " ".join(read_text(path).split())
        if any(character.isalpha() for character in text):  # else the numbers of boxes, as YOLO keeps them
            yield stem_key(path.stem), text


def _parsed(path: Path, text: str, line: int) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError):
            line += error.lineno - 1
        raise CaptionError(
            f"Line {line} of '{path}', in which prompts are looked for, is not valid JSON; mend the file, or "
            "take it away."
        ) from error
