"""Reading untrusted JSON and JSON Lines, with all failures mapped to one kind of error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .errors import UserError

# Long enough for any prompt, and a limit on memory for files without line ends.
_LONGEST_LINE = 1 << 20


class JsonLinesError(UserError):
    """A JSON Lines file cannot be read; the message names the file, the line and the fix."""


class JsonLine(NamedTuple):
    """A line's number (from 1), its byte offset (``place``), its raw bytes, and the object it contains."""

    number: int
    place: int
    raw: bytes
    value: dict[str, Any]


def parse_json(text: str) -> Any:
    """``json.loads`` that raises ValueError also for excessive nesting and for lone surrogates.

    Lone surrogates can be neither written to a file nor printed.
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

    Raises JsonLinesError for a line of more than 1 MiB and for one that is not a JSON object in UTF-8.
    """
    with path.open("rb") as file:
        number = place = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if line.strip():
                yield JsonLine(number, place, line, _object(path, number, line))
            place = file.tell()


def text_in(value: Mapping[str, Any], key: str) -> str | None:
    """The string at ``key``, or None if it is missing or not a string."""
    text = value.get(key)
    return text if isinstance(text, str) else None


def json_object_at(path: Path, place: int) -> dict[str, Any]:
    """The object in the line at byte offset ``place`` of ``path``; raises like :func:`json_objects`."""
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
