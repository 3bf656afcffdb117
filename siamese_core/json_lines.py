"""Reading JSON that somebody else may have written: every way of being wrong is one kind of error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError

# A prompt of a book's length fits; a file without line ends is not read into memory as one line.
_LONGEST_LINE = 1 << 20


class JsonLinesError(UserError):
    """A file of JSON Lines that cannot be read; the message names it, the line and the fix."""


def parse_json(text: str | bytes) -> Any:
    """``json.loads``, which raises ValueError for all that it refuses: nesting too deep for it, too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_objects(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Line number, place in the file in bytes, and object of each line of ``path`` that is not blank.

    Raises JsonLinesError for a line of more than 1 MiB and for one that holds no JSON object in UTF-8.
    """
    with path.open("rb") as file:
        number = place = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if line.strip():
                yield number, place, _object(path, number, line)
            place = file.tell()


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
