"""Files that are somebody else's, and pairs that are added one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from siamese_core.pairs.manifest import PairRecord
from siamese_core.pairs.pair_folder import NewPair

MINE = b"years of work"
THERE = "there already and on no list of an earlier run"

RECORD = PairRecord(0, "a", None, "a", "", "a prompt", {}, "", "")


def put(root: Path, *names: str) -> None:
    """Write somebody else's files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(MINE)


def new_pair(stem: str, value: int = 0, size: tuple[int, int] = (16, 24)) -> NewPair:
    mask = np.zeros(size, bool)
    mask[4:8, 4:8] = True
    return NewPair(replace(RECORD, stem=stem), np.full((*size, 3), value, np.uint8), mask)
