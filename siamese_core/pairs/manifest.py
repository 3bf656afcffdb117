"""``manifest.jsonl``, which records how each pair of a dataset was made and which files hold it."""

from __future__ import annotations

import contextlib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import contained_path
from ..json_lines import json_object_at, json_objects
from .pair import Pair

MANIFEST = "manifest.jsonl"
RUN_FOLDER = ".run"
"""Hidden subfolder of a dataset with the lists of its generation."""
RECORD_KEY = "siamese_pair"
"""Key of the PNG text that holds the pair's record as JSON."""


@dataclass(frozen=True)
class PairRecord:
    """The manifest's record of a pair; nothing in it depends on the time or place of the run.

    ``index`` is the pair's number in the dataset and determines ``seed``; ``mask_file`` is the name of the
    source mask and ``mask_digest`` the SHA-256 of its content. ``transform`` holds the seed and settings of
    the mask's random transform, None if it was used unchanged; ``versions`` are those of the programs used.
    Unknown values are None (``seed``) or empty.
    """

    index: int
    stem: str
    seed: int | None
    mask_file: str
    mask_digest: str
    prompt: str
    sampler: Mapping[str, Any]
    checkpoint_digest: str
    run_id: str
    transform: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


def record_text(record: PairRecord) -> dict[str, str]:
    """``record`` as text for the image's PNG."""
    return {RECORD_KEY: json.dumps(asdict(record))}


class ManifestError(UserError):
    """An invalid manifest; the message names the file, the line and the fix."""


class Manifest:
    """The manifest of a dataset, of which only each line's position is kept in memory, by stem.

    The last line of a stem counts. Raises ManifestError for a line that :func:`record_of` refuses, and
    JsonLinesError like :func:`~siamese_core.json_lines.json_objects`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, int] = {}
        self._indices: dict[str, int] = {}
        for line in json_objects(path):
            record = record_of(line.value, f"Line {line.number} of '{path}'")
            self._places[record.stem] = line.place
            self._indices[record.stem] = record.index

    def line(self, stem: str) -> dict[str, Any] | None:
        """The whole line of the pair ``stem``, or None."""
        place = self._places.get(stem)
        return None if place is None else json_object_at(self.path, place)

    def indices(self) -> Mapping[str, int]:
        """The index of each pair, by stem."""
        return self._indices

    def pairs(self) -> Iterator[Pair]:
        """The pairs of files named in the lines (image first), in the order of the lines.

        Raises ManifestError for lines without two files and for missing files, and UserError for files
        outside the dataset's folder.
        """
        for stem in self._places:
            line = self.line(stem)
            assert line is not None  # its place is known
            image, mask = (_file(self.path, stem, name) for name in _names(self.path, stem, line))
            yield Pair(stem, image, mask, line["prompt"])


def record_of(line: Mapping[str, Any], name: str) -> PairRecord:
    """The record in a manifest's ``line``, which messages call ``name``; other fields are ignored.

    Raises ManifestError when a field is missing or of another type, for a negative index, and for a stem that
    is not a plain file name.
    """
    record = PairRecord(**typed_fields(PairRecord, line, name))
    if record.index < 0:
        raise ManifestError(f"{name} has the index {record.index}; it must be 0 or more.")
    if Path(record.stem).name != record.stem or record.stem in ("", ".", "..") or "\0" in record.stem:
        raise ManifestError(f"{name} has the stem {record.stem!r}; it must be a plain file name.")
    return record


def typed_fields(kind: type, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The entries of ``values`` that are fields of the dataclass ``kind``; messages call them ``name``.

    Raises ManifestError when a field without a default is missing, and for values of another type.
    """
    found: dict[str, Any] = {}
    for item, hint in _hints(kind):
        if item.name in values:
            value = values[item.name]
            if not _fits(value, hint):
                raise ManifestError(f"{name} has {value!r:.100} as its '{item.name}'; restore the file.")
            found[item.name] = value
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ManifestError(f"{name} lacks '{item.name}', which every pair has; restore the file.")
    return found


@cache
def _hints(kind: type) -> list[tuple[Field[Any], Any]]:
    hints = typing.get_type_hints(kind)
    return [(item, hints[item.name]) for item in fields(kind)]


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return type(value) in (int, float) and abs(value) < math.inf
    # bool is a subclass of int, but True is not a valid index.
    return isinstance(value, origin or hint) and (hint is bool or not isinstance(value, bool))


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
    with contextlib.suppress(OSError):  # raised for a name that is too long
        if file.is_file():
            return file
    raise ManifestError(
        f"'{path}' names a file for '{stem[:80]}' that does not exist: '{name[:200]}'; restore it."
    )
