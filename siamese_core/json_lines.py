"""Reading JSON that somebody else may have written: every way of being wrong is one kind of error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .errors import UserError

# A prompt of a book's length fits; a file without line ends is not read into memory as one line.
_LONGEST_LINE = 1 << 20


class JsonLinesError(UserError):
    """A file of JSON Lines that cannot be read; the message names it, the line and the fix."""


class JsonLine(NamedTuple):
    """A line's number from 1, its place in the file and itself in bytes, and the object that it holds."""

    number: int
    place: int
    raw: bytes
    value: dict[str, Any]


def parse_json(text: str) -> Any:
    """``json.loads``, which raises ValueError for all that it refuses: nesting too deep for it, too.

    So it does for half of a surrogate pair, which no file and no terminal takes.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def json_objects(path: Path) -> Iterator[JsonLine]:
    """Each line of ``path`` that is not blank.

    Raises JsonLinesError for a line of more than 1 MiB and for one that holds no JSON object in UTF-8.
    """
    with path.open("rb") as file:
        number = place = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if line.strip():
                yield JsonLine(number, place, line, _object(path, number, line))
            place = file.tell()


def text_in(value: Mapping[str, Any], key: str) -> str | None:
    """The text at ``key``, None where there is none or something else."""
    text = value.get(key)
    return text if isinstance(text, str) else None


def json_object_at(path: Path, place: int) -> dict[str, Any]:
    """The object of the line that begins ``place`` bytes into ``path``; errors as :func:`json_objects`."""
    with path.open("rb") as file:
        file.seek(place)
        return _object(path, None, file.readline(_LONGEST_LINE))


def _object(path: Path, number: int | None, line: bytes) -> dict[str, Any]:
    name = f"'{path}'" if number is None else f"Line {number} of '{path}'"
    if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
        raise JsonLinesError(f"{name} is longer than {_LONGEST_LINE} bytes; write an object per line.")
    try:
        value = parse_json(line.decode("utf-8"))
    except ValueError as error:
        raise JsonLinesError(
            f"{name} is no JSON in UTF-8 ({error}); restore the file, or remove what is damaged in it."
        ) from error
    if not isinstance(value, dict):
        raise JsonLinesError(f"{name} holds no JSON object; restore the file, or remove the line.")
    return value
