"""Recognising masks written by this package, which are white on black whatever a user's own masks are like.

Mask options such as ``--invert`` describe the user's files. Many commands read real and synthetic pairs at
once, and options for the former must not apply to the latter. Files written by this package are recognised by
the lists beside them, so the rule for each file depends on its origin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from PIL import Image

from ..files import resolved_place
from ..json_lines import json_objects, text_in
from ..masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from ..masks.image_decoding import MaskError
from ..masks.mask_files import read_mask
from ..masks.mask_reading import MaskReading
from .manifest import MANIFEST, RECORD_KEY
from .prompt_file import read_prompt_file

PREPARATION_REPORT = "prepare.json"
"""The report that training.prepare writes into the folder that contains its sets."""

_NOTE = "it was written by this package as white on black, so the options for masks do not apply to it"
_CHANGE = "masks that this package has written are white on black"


def read_mask_by_origin(path: Path, rule: ForegroundRule = PLAIN_MASKS) -> MaskReading:
    """Read the mask file ``path`` with ``rule``, or as white on black if this package has written it.

    If that makes a difference, the reading has a note, and ``changed`` is set because earlier versions
    applied ``rule`` to all files. Raises MaskError like :func:`~siamese_core.masks.mask_files.read_mask`, and
    JsonLinesError or PairError for a list of this package that cannot be read.
    """
    return read_mask_as_known(path, rule_by_origin(path, rule), rule)


def read_mask_as_known(path: Path, own: ForegroundRule, given: ForegroundRule) -> MaskReading:
    """Like :func:`read_mask_by_origin`, with ``own`` = ``rule_by_origin(path, given)`` already known."""
    reading = read_mask(path, own)
    if own == given:
        return reading
    changes = (reading.changed, _CHANGE)
    return replace(reading.noted(_NOTE), changed="; ".join(filter(None, changes)))


def rule_by_origin(path: Path, rule: ForegroundRule) -> ForegroundRule:
    """The rule to read the mask file ``path`` with; ``rule`` itself if it makes no difference."""
    if rule == PLAIN_MASKS or not is_written_mask(path):
        return rule
    try:
        is_alike = np.array_equal(read_mask(path, rule).mask, read_mask(path).mask)
    except MaskError:
        is_alike = False
    return rule if is_alike else PLAIN_MASKS


def is_written_mask(path: Path) -> bool:
    """Whether this package has written the mask file ``path``.

    That is the case if its dataset's ``manifest.jsonl`` lists it, its image's PNG holds the record of a
    generated pair, or training.prepare's report and prompt file name it.
    """
    return any(map(_is_written, _places(path)))


def _places(path: Path) -> set[Path]:
    """Where ``path`` lies and where it leads: a link, as in git-annex, may be listed as either."""
    return {resolved_place(path), path.resolve()}


def _is_written(path: Path) -> bool:
    # The dataset's root is the first one for masks/a.png, the second for TrainDataset/masks/a.png.
    roots = path.parents[1:3]
    return (
        _carries_record(path.parent.parent / "images" / f"{path.stem}.png")
        or any(_is_in_manifest(path, root) for root in roots)
        or any(_was_prepared(path, root) for root in roots)
    )


def _is_in_manifest(mask: Path, root: Path) -> bool:
    manifest = root / MANIFEST
    if not manifest.is_file():
        return False
    return normalize("NFC", mask.relative_to(root).as_posix()) in _listed_files(manifest, *_state(manifest))


def _was_prepared(mask: Path, folder: Path) -> bool:
    """Whether training.prepare has written ``mask`` into ``folder``."""
    prompts = folder / "prompt.json"
    return prompts.is_file() and is_prepared(folder) and mask in _named_masks(prompts, *_state(prompts))


def is_prepared(folder: Path) -> bool:
    """Whether training.prepare has written ``folder`` as one of its sets, by the report above it."""
    above = next((place for place in folder.parents[:2] if (place / PREPARATION_REPORT).is_file()), None)
    if above is None:
        return False
    report = above / PREPARATION_REPORT
    return folder.relative_to(above).as_posix() in _prepared_sets(report, *_state(report))


def _carries_record(image: Path) -> bool:
    try:
        with Image.open(image, formats=("PNG",)) as opened:
            return RECORD_KEY in opened.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _state(path: Path) -> tuple[int, int]:
    """Modification time and size, part of the cache keys because lists grow while a host runs."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=16)
def _listed_files(manifest: Path, *state: int) -> frozenset[str]:
    """The files of all pairs that this package has listed in ``manifest``, relative to its folder."""
    lines = (line.value for line in json_objects(manifest))
    return frozenset(normalize("NFC", name) for line in lines for name in _files_of_pair(line))


def _files_of_pair(line: Mapping[str, Any]) -> list[str]:
    stem, files = text_in(line, "stem"), line.get("files")
    if stem is None or text_in(line, "mask_file") is None:
        return []  # a line of another program's manifest.jsonl
    if not isinstance(files, list):
        return [f"masks/{stem}.png"]
    return [file["name"] for file in files if isinstance(file, dict) and isinstance(file.get("name"), str)]


@lru_cache(maxsize=16)
def _prepared_sets(report: Path, *state: int) -> frozenset[str]:
    """The names of the sets in a report of training.prepare; empty for another program's file."""
    try:
        found = json.loads(report.read_text("utf-8"))
        return frozenset(found["sets"] if "near_duplicates" in found else ())
    except (ValueError, TypeError, KeyError):
        return frozenset()


@lru_cache(maxsize=16)
def _named_masks(prompts: Path, *state: int) -> frozenset[Path]:
    masks = [pair.mask for _, pair in read_prompt_file(prompts)]
    return frozenset(place for mask in masks for place in _places(mask))
