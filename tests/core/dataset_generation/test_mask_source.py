"""The masks of a dataset before work begins, and one that nothing can be drawn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.dataset_generation.mask_source import MaskSource, MaskUse
from siamese_core.masks.foreground_rule import PLAIN_MASKS, ForegroundRule
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


def test_a_total_is_spread_evenly_over_the_masks_in_their_order(tmp_path: Path) -> None:
    files = mask_files(tmp_path, *(np.roll(SHAPE, shift, axis=1) for shift in range(4)))

    def stems(total: int) -> list[str]:
        source = MaskSource(files, MaskUse((64, 64)), per_mask=1, seed=0, total=total)
        return [source.stem(index) for index in range(len(source))]

    assert stems(10) == [f"m{mask}_{n}" for mask, count in enumerate((3, 2, 3, 2)) for n in range(count)]
    assert stems(3) == ["m0", "m1", "m2"]
    assert stems(2) == ["m0", "m2"]
    assert stems(4) == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize("per_mask", [1, 3])
def test_a_total_of_whole_rounds_is_the_same_as_so_many_per_mask(per_mask: int, tmp_path: Path) -> None:
    files = mask_files(tmp_path, SHAPE, np.roll(SHAPE, 9, axis=0))
    use = MaskUse((64, 64), transforms=TransformSettings())
    one = MaskSource(files, use, per_mask=per_mask, seed=5)
    other = MaskSource(files, use, per_mask=1, seed=5, total=2 * per_mask)
    assert len(one) == len(other) == 2 * per_mask and one.per_mask == other.per_mask == per_mask
    for index in range(len(one)):
        assert one.stem(index) == other.stem(index)
        assert np.array_equal(one.mask(index).written, other.mask(index).written)


def test_a_record_names_what_lies_beyond_the_frame_unless_it_is_background(tmp_path: Path) -> None:
    files = mask_files(tmp_path, SHAPE)
    drawn = TransformSettings(), TransformSettings(beyond="mirrored")
    uses = [MaskUse((64, 64), transforms=transforms) for transforms in drawn]
    records = [MaskSource(files, use, per_mask=1, seed=0).mask(0).transform or {} for use in uses]
    assert "beyond" not in records[0]  # datasets begun before the setting existed are resumed
    assert records[1] == {**records[0], "beyond": "mirrored"}


def test_of_masks_of_both_kinds_each_is_read_by_its_own_rule(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    files = mask_files(tmp_path / "masks", SHAPE, 255 - SHAPE)
    line = {
        "stem": "m0",
        "mask_file": "x.png",
        "files": [{"name": "images/m0.png"}, {"name": "masks/m0.png"}],
    }
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    rule = ForegroundRule(invert=True)
    source = MaskSource(files, MaskUse((64, 64), rule=rule), per_mask=1, seed=0)
    assert [source.mask(index).rule for index in range(2)] == [PLAIN_MASKS, rule]
    assert all(np.array_equal(source.mask(index).written, SHAPE > 0) for index in range(2))
    assert source.changes == [
        "1 of 2 masks (first: m0.png): masks that this package has written are white on black"
    ]
