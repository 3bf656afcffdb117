"""Pairs as a whole: images that EXIF turns, images of more than 8 bits, and roles that are swapped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.pairs.image_files import folder_white, read_image
from siamese_core.pairs.pair import PairError
from siamese_core.pairs.pair_checks import check_pairs
from siamese_core.pairs.pair_copies import copy_pairs
from siamese_core.pairs.pair_files import find_pairs, load_pair
from siamese_core.resume_check import READ_DIFFERENTLY, ResumeError, check_record

MASK = np.zeros((20, 30), bool)
MASK[2:8, 4:20] = True


def pair_files(root: Path, image: Image.Image, name: str = "a.png", **options: object) -> Path:
    """A folder of one more pair, whose mask is MASK."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image.save(root / "images" / name, **options)
    Image.fromarray(MASK).save(root / "masks" / f"{Path(name).stem}.png")
    return root


def lesion() -> Image.Image:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (*MASK.shape, 3), np.uint8)
    pixels[MASK, 0] = 250
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270)],
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_an_image_that_exif_turns_lies_on_a_mask_that_is_drawn_upright(
    tmp_path: Path, orientation: int, stored: Image.Transpose, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = pair_files(tmp_path, lesion().transpose(stored), f"a.{suffix}", exif=exif, quality=100)
    pairs = find_pairs(root, default_prompt="")
    check = check_pairs(pairs)
    loaded = load_pair(pairs[0], size=None)
    assert ((loaded.image[..., 0] > 150) == loaded.mask).mean() > 0.97
    assert check.notes == [
        f"1 of 1 images turned upright by their EXIF orientation (first: a.{suffix}); masks have to be drawn "
        "on the upright image"
    ]
    assert bool(check.changes) == (suffix != "tif")  # which was always turned


def test_an_image_that_exif_turns_away_from_its_mask_is_refused_with_the_reason(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    root = pair_files(tmp_path, lesion(), "a.jpg", exif=exif)
    with pytest.raises(PairError, match=r"is 20 x 30 pixels, turned upright by its EXIF orientation 6, but"):
        check_pairs(find_pairs(root, default_prompt=""))


def test_the_highest_value_of_the_folder_is_white_in_all_of_its_images(tmp_path: Path) -> None:
    bright = np.full(MASK.shape, 3000, np.uint16)
    pair_files(tmp_path, Image.fromarray(bright), "bright.png")
    pair_files(tmp_path, Image.fromarray((bright // 4).astype(np.uint16)), "dark.png")
    check = check_pairs(find_pairs(tmp_path, default_prompt=""))
    assert folder_white(tmp_path / "images") == 4095
    assert read_image(tmp_path / "images" / "bright.png")[0, 0].tolist() == [187] * 3
    assert read_image(tmp_path / "images" / "dark.png")[0, 0].tolist() == [47] * 3
    assert check.notes == [
        "2 of 2 images have up to 12 bits (first: bright.png): 4095 is white in all of 'images'"
    ]
    assert check.changes == check.notes


def test_copies_of_a_part_are_as_bright_as_in_the_whole(tmp_path: Path) -> None:
    for name, value in (("bright.png", 3000), ("dark.png", 750)):
        pair_files(tmp_path / "all", Image.fromarray(np.full(MASK.shape, value, np.uint16)), name)
    pairs = find_pairs(tmp_path / "all", default_prompt="")
    (tmp_path / "part").mkdir()
    copy_pairs(tmp_path / "part", [pair for pair in pairs if pair.stem == "dark"], None)
    (copied,) = find_pairs(tmp_path / "part", default_prompt="")
    assert np.array_equal(read_image(copied.image), read_image(tmp_path / "all/images/dark.png"))


def test_folders_with_different_whites_are_told(tmp_path: Path) -> None:
    for name, value in (("train", 3000), ("test", 1500)):
        pair_files(tmp_path / name, Image.fromarray(np.full(MASK.shape, value, np.uint16)), f"{name}.png")
    pairs = [pair for name in ("train", "test") for pair in find_pairs(tmp_path / name, default_prompt="")]
    check = check_pairs(pairs)
    train, test = (tmp_path / name / "images" for name in ("train", "test"))
    assert f"white is 4095 in '{train}', 2047 in '{test}'" in check.notes[-1]
    assert len(check.changes) == 2


@pytest.mark.parametrize(
    ("highest", "white"), [(200, 255), (256, 511), (1023, 1023), (16384, 32767), (65535, 65535)]
)
def test_white_follows_from_the_bits_that_are_used(tmp_path: Path, highest: int, white: int) -> None:
    Image.fromarray(np.full(MASK.shape, highest, np.uint16)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"damaged")  # is refused when it is read itself
    assert folder_white(tmp_path) == white


def test_images_overwritten_in_place_are_seen(tmp_path: Path) -> None:
    for value, white in ((200, 255), (3000, 4095), (9000, 16383)):
        for name in ("a.png", "b.png"):
            Image.fromarray(np.full(MASK.shape, value, np.uint16)).save(tmp_path / name)
            os.utime(tmp_path / name, (value, value))  # even where the clock of files is coarse
        assert read_image(tmp_path / "b.png")[0, 0].tolist() == [(value * 255 * 2 + white) // (2 * white)] * 3


def test_an_image_that_came_later_is_seen(tmp_path: Path) -> None:
    Image.fromarray(np.full(MASK.shape, 900, np.uint16)).save(tmp_path / "a.png")
    assert folder_white(tmp_path) == 1023
    Image.fromarray(np.full(MASK.shape, 9000, np.uint16)).save(tmp_path / "b.png")
    assert folder_white(tmp_path) == 16383


def test_images_that_are_their_masks_are_refused(tmp_path: Path) -> None:
    root = pair_files(tmp_path, Image.fromarray(MASK))
    with pytest.raises(PairError, match=r"The images look like their masks \(1 of 1 looked at, first: '.*a"):
        check_pairs(find_pairs(root, default_prompt=""))


def test_source_and_target_swapped_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = pair_files(tmp_path, Image.fromarray(rng.integers(90, 200, (*MASK.shape, 3), np.uint8)))
    line = '{"source": "images/a.png", "target": "masks/a.png", "prompt": "x"}'
    (root / "prompt.json").write_text(line, "utf-8")
    with pytest.raises(PairError, match=r"a.png' looks like a photograph .* source and target swapped"):
        check_pairs(find_pairs(root))


def test_a_record_from_before_files_were_read_as_now_does_not_resume_and_says_why() -> None:
    now = {"steps": 3, READ_DIFFERENTLY: ["2 of 3 masks (first: a.png): the colours of its palette decide"]}
    check_record("run", now, now)
    with pytest.raises(ResumeError, match=r"read otherwise than now.*2 of 3 masks .*another folder"):
        check_record("run", {"steps": 3}, now)
