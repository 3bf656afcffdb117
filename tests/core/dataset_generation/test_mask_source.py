"""The masks of a dataset before work begins, and one that nothing can be drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.dataset_generation.mask_source import MaskSource, MaskUse
from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.masks.image_decoding import MaskError
from siamese_core.masks.random_transforms import TransformError, TransformSettings

SHAPE = np.zeros((64, 64), np.uint8)
SHAPE[20:40, 20:44] = 255


def mask_files(root: Path, *masks: np.ndarray) -> list[Path]:
    files = [root / f"m{number}.png" for number in range(len(masks))]
    for path, mask in zip(files, masks, strict=True):
        Image.fromarray(mask).save(path)
    return files


def test_a_mask_without_foreground_is_skipped_where_masks_are_drawn_anew(tmp_path: Path) -> None:
    use = MaskUse((64, 64), transforms=TransformSettings())
    source = MaskSource(mask_files(tmp_path, SHAPE, np.zeros_like(SHAPE)), use, per_mask=2, seed=0)
    assert source.notes == ["1 of 2 masks without any foreground (first: m1.png)"]
    assert source.mask(1).written.any()
    with pytest.raises(TransformError, match="no foreground to transform at 64 x 64"):
        source.mask(2)


def test_a_label_that_no_mask_has_is_refused_and_black_files_are_not(tmp_path: Path) -> None:
    files = mask_files(tmp_path, SHAPE)
    with pytest.raises(MaskError, match=r"All masks are empty .* no value is the label 3"):
        MaskSource(files, MaskUse((64, 64), rule=ForegroundRule(label=3)), per_mask=1, seed=0)
    black = MaskSource(mask_files(tmp_path, np.zeros_like(SHAPE)), MaskUse((64, 64)), per_mask=1, seed=0)
    assert not black.mask(0).written.any()


def test_foreground_that_the_models_size_loses_is_told(tmp_path: Path) -> None:
    dot = np.zeros_like(SHAPE)
    dot[5, 5] = 255
    source = MaskSource(mask_files(tmp_path, SHAPE, dot), MaskUse((8, 8)), per_mask=1, seed=0)
    assert source.notes == ["1 of 2 masks with foreground, of which none is left at 8 px (first: m1.png)"]
