"""Prompt files: JSON Lines or a JSON array whose entries name a mask, an image and a prompt."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from ..json_lines import parse_json
from ..masks.folder_contents import IMAGE_EXTENSIONS, foreign_file
from ..text_files import TextError, read_text
from .pair import Pair, PairError

_SHOWN_CHARACTERS = 200
_BETWEEN_ENTRIES = re.compile(r"[\s,]*")


def pairs_of_prompt_file(path: Path, default_prompt: str | None) -> list[Pair]:
    """The pairs of a prompt file; see :func:`~siamese_core.pairs.pair_files.find_pairs`.

    Entries without a prompt, or with an empty one, get ``default_prompt``. Raises PairError, naming the
    line, for a malformed entry or a missing file, and for an entry that lacks the key when
    ``default_prompt`` is None.
    """
    pairs = read_prompt_file(path)
    for line, pair in pairs:
        if pair.prompt is None and default_prompt is None:
            raise PairError(f"Line {line} of '{path}' lacks the key 'prompt'; add it.")
    return [replace(pair, prompt=pair.prompt or default_prompt or "") for _, pair in pairs]


def read_prompt_file(path: Path) -> list[tuple[int, Pair]]:
    """The pairs of a prompt file, each with its line number; ``prompt`` is None where it is missing.

    Raises PairError for a malformed entry, a missing file, repeated stems and an empty file.
    """
    pairs: list[tuple[int, Pair]] = []
    line_by_stem: dict[str, int] = {}
    for line, entry in _prompt_entries(path):
        pair = _pair_of_entry(path, line, entry)
        if pair.stem in line_by_stem:
            raise PairError(
                f"Lines {line_by_stem[pair.stem]} and {line} of '{path}' both name an image called "
                f"'{pair.stem}'; give every image a name of its own."
            )
        line_by_stem[pair.stem] = line
        pairs.append((line, pair))
    if not pairs:
        raise PairError(f"The prompt file '{path}' is empty; add one entry per pair.")
    return pairs


def names_in_prompt_file(path: Path) -> list[tuple[str, str]]:
    """The mask and image names in every entry of a prompt file, whether the files exist or not.

    Entries that lack one of them are skipped. Raises PairError for a file that is not valid JSON.
    """
    entries = [entry for _, entry in _prompt_entries(path) if isinstance(entry, dict)]
    named = [(entry.get("source"), entry.get("target")) for entry in entries]
    return [
        (mask.replace("\\", "/"), image.replace("\\", "/"))
        for mask, image in named
        if isinstance(mask, str) and isinstance(image, str)
    ]


def _prompt_entries(path: Path) -> Iterator[tuple[int, Any]]:
    """The entries of a prompt file, each with the number of the line that it starts on."""
    if what := foreign_file(path):
        raise PairError(f"'{path}' {what}.")
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        raise PairError(f"'{path}' is an image; give the folder that holds 'images' and 'masks'.")
    try:
        text = read_text(path)
    except TextError as error:
        raise PairError(f"The prompt file '{path}' is not UTF-8 text; save it as UTF-8.") from error
    if text.lstrip().startswith("["):
        yield from _array_entries(path, text)
        return
    # Not splitlines(): prompts may contain Unicode line separators, which do not end a line of JSON Lines.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parsed(path, line, first_line=number)


def _array_entries(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    _parsed(path, text, first_line=1)
    # The array is known to be valid; this second pass finds line numbers, which json does not report.
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


def _pair_of_entry(path: Path, line: int, entry: Any) -> Pair:
    if not isinstance(entry, dict):
        raise PairError(
            f"Line {line} of '{path}' holds no JSON object; write "
            '{"source": <mask>, "target": <image>, "prompt": <text>}.'
        )
    for key in ("source", "target", "prompt"):
        text = entry.get(key)
        if text is None and key != "prompt":
            raise PairError(f"Line {line} of '{path}' lacks the key '{key}'; add it.")
        if text is not None and not isinstance(text, str):
            raise PairError(f"Line {line} of '{path}' has a '{key}' that is no text; put it in quotes.")
    image = _referenced_file(path, line, "target", entry["target"])
    mask = _referenced_file(path, line, "source", entry["source"])
    return Pair(image.stem, image, mask, entry.get("prompt"))


def _referenced_file(path: Path, line: int, key: str, name: str) -> Path:
    relative = Path(name.replace("\\", "/"))
    folder = path.absolute().parent
    # File names may be in either Unicode normal form, depending on the system they come from.
    forms = dict.fromkeys([relative, *(Path(normalize(form, str(relative))) for form in ("NFC", "NFD"))])
    for base in (folder, folder.parent, Path.cwd()):
        for form in forms:
            with contextlib.suppress(OSError):  # a name that is too long, or a folder without access
                if (base / form).is_file():
                    return base / form
    shown = name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..."
    raise PairError(
        f"Line {line} of '{path}' names the {key} '{shown}', which does not exist relative to '{folder}', "
        "its parent or the working directory; correct the path."
    )
