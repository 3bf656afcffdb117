"""Reading ``manifest.jsonl``: how each pair of a set was made, and which files hold it."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import contained_path
from .json_lines import json_object_at, json_objects
from .pair_writer import PairRecord
from .pairs import Pair


class ManifestError(UserError):
    """A manifest that does not say what it should; the message names the file, the line and the fix."""


class Manifest:
    """The manifest of a set. Of each line only its place is kept in memory, by the pair's stem.

    The last line of a stem counts. Raises ManifestError for a line that :func:`record_of` refuses, and
    JsonLinesError as :func:`~siamese_core.json_lines.json_objects` does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, int] = {}
        self._indices: dict[str, int] = {}
        for number, place, line in json_objects(path):
            record = record_of(line, f"Line {number} of '{path}'")
            self._places[record.stem] = place
            self._indices[record.stem] = record.index

    def line(self, stem: str) -> dict[str, Any] | None:
        """The whole line of the pair ``stem``, None when there is none."""
        place = self._places.get(stem)
        return None if place is None else json_object_at(self.path, place)

    def indices(self) -> Mapping[str, int]:
        """The index of each pair by its stem."""
        return self._indices

    def pairs(self) -> Iterator[Pair]:
        """The pairs of the files that the lines name, image first, in the order of the lines.

        Raises ManifestError for lines without two files, and for files that are missing or lie elsewhere.
        """
        for stem in self._places:
            line = self.line(stem)
            assert line is not None  # its place is known
            image, mask = (_file(self.path, stem, name) for name in _names(self.path, stem, line))
            yield Pair(stem, image, mask, line["prompt"])


def record_of(line: Mapping[str, Any], name: str) -> PairRecord:
    """The record in a manifest's ``line``, which messages call ``name``; other fields are left out.

    Raises ManifestError when a field is missing or of another type, and for a stem that is no file name.
    """
    values: dict[str, Any] = {}
    for field, kinds, needed in _fields():
        if field in line:
            value = line[field]
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ManifestError(f"{name} has {value!r} as its '{field}'; restore the file.")
            values[field] = value
        elif needed:
            raise ManifestError(f"{name} lacks '{field}', which every pair has; restore the file.")
    record = PairRecord(**values)
    if record.index < 0:
        raise ManifestError(f"{name} has the index {record.index}; it must be 0 or more.")
    if Path(record.stem).name != record.stem or record.stem in ("", ".", "..") or "\0" in record.stem:
        raise ManifestError(f"{name} has the stem {record.stem!r}; it must be a plain file name.")
    return record


@cache
def _fields() -> list[tuple[str, tuple[type, ...], bool]]:
    """Name, types and necessity of each field of a record."""
    hints = typing.get_type_hints(PairRecord)
    return [
        (field.name, _types(hints[field.name]), field.default is MISSING and field.default_factory is MISSING)
        for field in fields(PairRecord)
    ]


def _types(hint: Any) -> tuple[type, ...]:
    parts = typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else (hint,)
    return tuple(typing.get_origin(part) or part for part in parts)


def _names(path: Path, stem: str, line: Mapping[str, Any]) -> list[str]:
    files = line.get("files")
    entries = [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    names = [file["name"] for file in entries if isinstance(file.get("name"), str)]
    if len(names) != 2 or any("\0" in name for name in names):
        raise ManifestError(
            f"'{path}' does not name a file of its own for image and mask of '{stem}' (sets of tar files and "
            "older manifests do not); give a folder with 'images' and 'masks', or a prompt file."
        )
    return names


def _file(path: Path, stem: str, name: str) -> Path:
    file = contained_path(path.parent, name)
    if not file.is_file():
        raise ManifestError(f"'{path}' names '{name}' for '{stem}', which does not exist; restore it.")
    return file
