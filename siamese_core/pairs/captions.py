"""Finding prompts for images: in the lists of exported datasets, and in text files beside the images."""

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
from ..text_files import csv_delimiter, read_text

CAPTION_KEYS = ("prompt", "text", "caption")
"""Names of columns that hold prompts; Hugging Face's image folders use "text"."""

_MOST_BYTES = 64 << 10  # largest text file read as a prompt


class CaptionError(UserError):
    """A list of prompts cannot be read; the message names the file, the line and the fix."""


@dataclass(frozen=True)
class Captions:
    """The prompts found, by the :func:`stem_key` of their image."""

    by_stem: Mapping[str, str]
    sources: Mapping[str, int]
    """Number of prompts taken from each source, by its name."""

    def of(self, image: Path) -> str | None:
        return self.by_stem.get(stem_key(image.stem))


def stem_key(stem: str) -> str:
    """``stem`` in Unicode normal form C, so that file names match across systems (macOS uses form D)."""
    return unicodedata.normalize("NFC", stem)


def read_captions(source: Path, images: Path, files: Iterable[Path]) -> Captions:
    """The prompts of the image ``files`` in the folder ``images`` of the dataset ``source``.

    They are read from ``metadata.jsonl``, ``metadata.csv``, ``annotations.json`` and ``manifest.jsonl`` in
    either folder, and from ``<stem>.txt`` beside an image; the first source that has a prompt wins. Raises
    CaptionError for a list that cannot be read.
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
    """Stem and prompt of those ``entries`` (image name, all values) that have both."""
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
    text = read_text(path)
    for row in csv.DictReader(io.StringIO(text), delimiter=csv_delimiter(text)):
        yield row.get("file_name"), row


def _coco(path: Path) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    content = _parsed(path, read_text(path), 1)
    if not isinstance(content, dict):
        return
    images = list(_objects(content.get("images")))
    names = {str(image["id"]): image.get("file_name") for image in images if "id" in image}
    # Of several prompts of an image the last one yielded counts: its own, else the first of its captions.
    for annotation in reversed(list(_objects(content.get("annotations")))):
        yield names.get(str(annotation.get("image_id"))), annotation
    for image in images:
        yield image.get("file_name"), image


def _objects(entries: Any) -> Iterator[Mapping[str, Any]]:
    yield from (entry for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, dict))


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
        words = read_text(path).split()
        if any(_has_letters(word) and not _is_number(word) for word in words):  # numbers may be YOLO boxes
            yield stem_key(path.stem), " ".join(words)


def _has_letters(word: str) -> bool:
    return any(character.isalpha() for character in word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


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
