"""Masks that this package has written: white on black, whatever a user's own masks are like.

A mask option such as ``--invert`` says how the files of a user are encoded. Many commands read both kinds at
once, real pairs and synthetic ones, and an option for the former must not swap the latter. What was written
here is known by the lists that stand beside it, so the origin of each file decides, not its role.
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

from ..json_lines import json_objects, text_in
from ..masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from ..masks.image_decoding import MaskError
from ..masks.mask_files import read_mask
from ..masks.mask_reading import MaskReading
from .manifest import MANIFEST, RECORD_KEY
from .prompt_file import read_prompt_file

PREPARATION_REPORT = "prepare.json"
"""What training.prepare writes above the sets that it has made."""

_NOTE = "it was written by this package as white on black, so the options for masks do not apply to it"
_CHANGE = "masks that this package has written are white on black"


def read_mask_by_origin(path: Path, rule: ForegroundRule = PLAIN_MASKS) -> MaskReading:
    """Read the mask file ``path``: by ``rule``, or as white on black where this package has written it.

    Where the two differ, the reading's note says so, and its ``changed`` keeps apart what was begun by
    versions that did not tell them apart. Raises MaskError as
    :func:`~siamese_core.masks.mask_files.read_mask` does, and JsonLinesError or PairError for a list of ours
    that cannot be read.
    """
    return read_mask_as_known(path, rule_by_origin(path, rule), rule)


def read_mask_as_known(path: Path, own: ForegroundRule, given: ForegroundRule) -> MaskReading:
    """Read ``path`` by its ``own`` rule, that of :func:`rule_by_origin` for the ``given`` one; as above."""
    reading = read_mask(path, own)
    if own == given:
        return reading
    changes = (reading.changed, _CHANGE)
    return replace(reading.noted(_NOTE), changed="; ".join(filter(None, changes)))


def rule_by_origin(path: Path, rule: ForegroundRule) -> ForegroundRule:
    """The rule that holds for the mask file ``path``; ``rule`` itself where it makes no difference."""
    if rule == PLAIN_MASKS or not is_written_mask(path):
        return rule
    try:
        is_alike = np.array_equal(read_mask(path, rule).mask, read_mask(path).mask)
    except MaskError:
        is_alike = False
    return rule if is_alike else PLAIN_MASKS


def is_written_mask(path: Path) -> bool:
    """Whether this package has written the mask file ``path``.

    That is, whether ``manifest.jsonl`` of its dataset lists it, the image beside it carries the record of a
    generated pair, or training.prepare's report and prompt file name it.
    """
    path = path.resolve()
    # Of masks/a.png the first, of TrainDataset/masks/a.png the second.
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
    """Whether ``mask`` is one of those that training.prepare wrote into ``folder``."""
    prompts = folder / "prompt.json"
    above = next((place for place in folder.parents[:2] if (place / PREPARATION_REPORT).is_file()), None)
    if above is None or not prompts.is_file():
        return False
    report = above / PREPARATION_REPORT
    if folder.relative_to(above).as_posix() not in _prepared_sets(report, *_state(report)):
        return False
    return mask in _named_masks(prompts, *_state(prompts))


def _carries_record(image: Path) -> bool:
    try:
        with Image.open(image, formats=("PNG",)) as opened:
            return RECORD_KEY in opened.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _state(path: Path) -> tuple[int, int]:
    """What changes with a file's content: lists grow while a host runs."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=16)
def _listed_files(manifest: Path, *state: int) -> frozenset[str]:
    """The files of all pairs on the lines of ``manifest`` that are ours, relative to its folder."""
    lines = (line.value for line in json_objects(manifest))
    return frozenset(normalize("NFC", name) for line in lines for name in _files_of_pair(line))


def _files_of_pair(line: Mapping[str, Any]) -> list[str]:
    stem, files = text_in(line, "stem"), line.get("files")
    if stem is None or text_in(line, "mask_file") is None:
        return []  # of another program's manifest.jsonl
    if not isinstance(files, list):
        return [f"masks/{stem}.png"]
    return [file["name"] for file in files if isinstance(file, dict) and isinstance(file.get("name"), str)]


@lru_cache(maxsize=16)
def _prepared_sets(report: Path, *state: int) -> frozenset[str]:
    """The names of the sets in a report of training.prepare; none for another program's file."""
    try:
        found = json.loads(report.read_text("utf-8"))
        return frozenset(found["sets"] if "near_duplicates" in found else ())
    except (ValueError, TypeError, KeyError):
        return frozenset()


@lru_cache(maxsize=16)
def _named_masks(prompts: Path, *state: int) -> frozenset[Path]:
    return frozenset(pair.mask.resolve() for _, pair in read_prompt_file(prompts))
