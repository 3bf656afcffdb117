"""An image and a mask written as the two files of a pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHAPE = (10, 12)
FOREGROUND = np.zeros(SHAPE, bool)
FOREGROUND[2:5, 3:9] = True


def save(path: Path, values: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def save_image(path: Path, shape: tuple[int, int] = SHAPE) -> Path:
    return save(path, np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))


def save_mask(path: Path, mask: np.ndarray = FOREGROUND, value: int = 255) -> Path:
    return save(path, mask.astype(np.uint8) * np.uint8(value))
