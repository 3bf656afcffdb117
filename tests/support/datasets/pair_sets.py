"""Sets of pairs whose masks and names trip readers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_core.pairs.export_formats import FinishedPair, PairFormat
from siamese_core.pairs.manifest import PairRecord

SIZE = (24, 40)
RECORD = PairRecord(0, "", 7, "m.png", "ab" * 32, "a polyp", {"steps": 3}, "cd" * 32, "run-7")


def hard_masks() -> dict[str, NDArray[np.bool_]]:
    """Masks that trip encoders, by the stem of their pair; the stems trip readers of file names."""
    rows, columns = np.indices(SIZE)
    masks = {
        "plain": (rows - 10) ** 2 + (columns - 20) ** 2 < 50,
        "leer": np.zeros(SIZE, bool),
        "test_4": np.ones(SIZE, bool),
        "one pixel": (rows == 3) & (columns == 5),
        "last.pixel": (rows == 23) & (columns == 39),
        "Größe_0000": (rows + columns) % 2 == 0,
        "息肉 1": columns % 2 == 0,
        "a_mask": (abs(rows - 12) > 4) & (abs(columns - 20) < 15),
        "{}": (abs(rows - 12) < 9) & (abs(columns - 20) < 9) & ~((rows == 12) & (columns == 20)),
        # Down the columns, one object ends at the bottom where another begins at the top.
        "wrapped": ((rows == 23) & (columns == 4)) | ((rows == 0) & (columns == 5)),
    }
    noise = np.random.default_rng(3)
    return masks | {"noise": noise.random(SIZE) < 0.3, "tall": noise.random((37, 8)) < 0.5}


def finished_pairs() -> list[FinishedPair]:
    noise = np.random.default_rng(5)
    pairs = []
    for index, (stem, mask) in enumerate(hard_masks().items()):
        image = noise.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        prompt = "" if stem == "leer" else f'ein "Polyp" {stem}\n—'
        record = replace(RECORD, index=index, stem=stem, prompt=prompt)
        pairs.append(FinishedPair(record, image, mask, {"siamese": stem}))
    return pairs


def write_set(root: Path, kind: PairFormat, pairs: Sequence[FinishedPair], chunk: int = 5) -> None:
    """Write a dataset as whoever generates it does, manifest included."""
    lines = []
    for start in range(0, len(pairs), chunk):
        part = pairs[start : start + chunk]
        for pair, files in zip(part, kind.pair_files(part), strict=True):
            stored = []
            for name, content in files:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
                stored.append(
                    {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                )
            lines.append({**asdict(pair.record), "files": stored})
    (root / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    for name, pieces in kind.index_files(lambda: lines, lambda name: (root / name).read_bytes()):
        (root / name).write_bytes(b"".join(pieces))
