"""Adding pairs to a folder that may already hold pairs of the same names."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..files import portable_stem
from ..json_lines import json_objects, text_in
from .manifest import MANIFEST, RUN_FOLDER, PairRecord
from .pair_writer import PairWriter, WriteError

IfExists = Literal["number", "skip", "overwrite"]
"""What to do with a pair whose name is taken: number it, skip it, or overwrite the old one.

Only files listed in ``manifest.jsonl`` are ever overwritten.
"""

_BLOCK = 64
"""Pairs to overwrite for which the lists are rewritten at once; a kill leaves as many unlisted at most."""


@dataclass(frozen=True)
class NewPair:
    """A pair to add: image (H, W, 3) uint8, mask (H, W) bool."""

    record: PairRecord
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def add_pairs(
    root: Path,
    pairs: Sequence[NewPair],
    if_exists: IfExists = "number",
    *,
    text: Mapping[str, str] | None = None,
    on_pair: Callable[[], None] | None = None,
) -> list[str]:
    """Add ``pairs`` to the folder ``root`` and return the stems written, in order.

    Stems are made portable first. A stem shared by two of ``pairs`` is always numbered, so that none of them
    is lost. ``text`` goes into every image file; ``on_pair`` is called before each pair is written. Raises
    WriteError like :meth:`PairWriter.write`, for a folder that holds a generated dataset (which has its own
    lists), and when "overwrite" would replace files that the manifest does not list.
    """
    if os.path.lexists(root / RUN_FOLDER):
        raise WriteError(
            f"{root}: holds a dataset of Generate Dataset or training.generate ('{RUN_FOLDER}'), whose next "
            "run would drop these pairs from its lists; save to another folder"
        )
    if if_exists == "overwrite":
        _refuse_strangers(root, dict.fromkeys(portable_stem(pair.record.stem) for pair in pairs))
    writer = PairWriter(root)
    mine: set[str] = set()
    chosen: list[NewPair] = []
    for pair in pairs:
        stem = portable_stem(pair.record.stem)
        if stem.casefold() in mine or (if_exists == "number" and writer.holds(stem)):
            stem = _numbered(stem, mine, writer)
        elif if_exists == "skip" and writer.holds(stem):
            continue
        mine.add(stem.casefold())
        chosen.append(replace(pair, record=replace(pair.record, stem=stem)))
    for start in range(0, len(chosen), _BLOCK):
        block = chosen[start : start + _BLOCK]
        dropped = writer.forget([pair.record.stem for pair in block]) if if_exists == "overwrite" else {}
        try:
            for pair in block:
                if on_pair is not None:
                    on_pair()
                dropped.pop(pair.record.stem, None)
                writer.write(pair.record, pair.image, pair.mask, text)
        finally:  # what a stop leaves as it was stays listed
            writer.list_again(dropped)
    return [pair.record.stem for pair in chosen]


def _refuse_strangers(root: Path, stems: Collection[str]) -> None:
    """Raise WriteError when files for one of ``stems`` exist that the manifest does not list."""
    manifest = root / MANIFEST
    lines = json_objects(manifest) if manifest.is_file() else ()
    listed = {text_in(line.value, "stem") for line in lines}
    names = [f"{kind}/{stem}.png" for stem in stems if stem not in listed for kind in ("images", "masks")]
    strangers = [name for name in names if os.path.lexists(root / name)]
    if strangers:
        several = f"{len(strangers)} files" if strangers[1:] else "a file"
        raise WriteError(
            f"{root}: {several} of these names are there already and not listed in {MANIFEST}, the first is "
            f"'{strangers[0]}'; what others wrote is never replaced: set if_exists to number, give another "
            "folder, or move away what is in the way"
        )


def _numbered(stem: str, mine: set[str], writer: PairWriter) -> str:
    number = 2
    while f"{stem}_{number}".casefold() in mine or writer.holds(f"{stem}_{number}"):
        number += 1
    return f"{stem}_{number}"
