"""Tiles of images larger than a model, alone and through the prepare command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.pairs.pair_files import find_pairs, load_pair
from tests.support.commands import Outcome, run_here
from training import prepare
from training.preparation.tiles import TileError, tiles


def write(folder: Path, stem: str, colour: int, size: tuple[int, int] = (100, 64)) -> None:
    """A pair whose mask covers a part of the upper left corner alone."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(colour).integers(0, 60, (*size, 3), dtype=np.uint8) + np.uint8(colour)
    mask = np.zeros(size, np.uint8)
    mask[4:20, 4:20] = 255
    Image.fromarray(image).save(folder / "images" / f"{stem}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for k in range(4):
        write(tmp_path / "source", f"dark_{k}", 0)
        write(tmp_path / "source", f"pale_{k}", 180)
    return tmp_path / "source"


def run(source: Path, *more: object) -> Outcome:
    return run_here(prepare.main, source, "--output", source.parent / "sets", "--split", "3:0:1", *more)


def test_tiles_cover_the_image_and_the_last_ones_end_at_its_edge() -> None:
    image = np.arange(100 * 64 * 3, dtype=np.uint32).reshape(100, 64, 3).astype(np.uint8)
    mask = np.arange(100 * 64).reshape(100, 64) % 7 == 0
    found = {place: (part, cut) for place, part, cut in tiles(image, mask, 32)}
    assert list(found) == [f"y{y}_x{x}" for y in (0, 32, 64, 68) for x in (0, 32)]
    np.testing.assert_array_equal(found["y68_x32"][0], image[68:, 32:])
    np.testing.assert_array_equal(found["y68_x32"][1], mask[68:, 32:])
    with pytest.raises(TileError, match="64 x 100 px, too small for --crop 96"):
        list(tiles(image, mask, 96))


def test_tiles_at_native_scale_stay_with_their_image(source: Path) -> None:
    outcome = run(source, "--crop", 32, "--keep-empty")
    assert outcome.status == 0, outcome.errors
    images_of = {}
    for name in ("train", "test"):
        pairs = find_pairs(source.parent / "sets" / name)
        images_of[name] = {pair.stem.rpartition("_y")[0] for pair in pairs}
        assert len(pairs) == 8 * len(images_of[name])
        for pair in pairs:
            original, _, place = pair.stem.rpartition("_y")
            y, x = map(int, place.split("_x"))
            whole = np.asarray(Image.open(source / "images" / f"{original}.png"))
            np.testing.assert_array_equal(load_pair(pair, size=None).image, whole[y : y + 32, x : x + 32])
    assert not images_of["train"] & images_of["test"]
    assert [len(images_of[name]) for name in ("train", "test")] == [6, 2]


def test_tiles_without_foreground_are_left_out_and_counted(source: Path) -> None:
    outcome = run(source, "--crop", 32)
    assert outcome.status == 0, outcome.errors
    report = json.loads((source.parent / "sets/prepare.json").read_text("utf-8"))
    assert {name: facts["pairs"] for name, facts in report["sets"].items()} == {"train": 6, "test": 2}
    assert report["notes"][-1:] == ["56 tiles without foreground left out; --keep-empty keeps them"]


@pytest.mark.parametrize(
    ("flags", "dark", "pale"),
    [
        (("--modes", "name"), "dark", "pale"),
        (("--modes", "colour", "--mode-count", 2), "dark grey", "bright grey"),
    ],
)
def test_the_kind_of_image_ends_its_prompt(
    source: Path, flags: tuple[object, ...], dark: str, pale: str
) -> None:
    outcome = run(source, "--prompt", "cells", *flags)
    assert outcome.status == 0, outcome.errors
    for name in ("train", "test"):
        for pair in find_pairs(source.parent / "sets" / name):
            assert pair.prompt == f"cells, {dark if pair.stem.startswith('dark') else pale}"


def test_position_and_copy_are_no_part_of_the_kind_that_a_name_tells(source: Path) -> None:
    """A set cut into tiles and copied, as an earlier run wrote it, is prepared again for its kinds."""
    copied = run(source, "--crop", 32, "--keep-empty", "--split", "1:0:0", "--copies", 2)
    assert copied.status == 0, copied.errors
    first = source.parent / "sets"
    first.rename(source.parent / "copied")
    outcome = run(source.parent / "copied", "--split", "1:0:0", "--prompt", "cells", "--modes", "name")
    assert outcome.status == 0, outcome.errors
    pairs = find_pairs(first / "train")
    assert any("_copy" in pair.stem for pair in pairs) and all("_y" in pair.stem for pair in pairs)
    assert {(pair.stem.partition("_")[0], pair.prompt) for pair in pairs} == {
        ("dark", "cells, dark"),
        ("pale", "cells, pale"),
    }


@pytest.mark.parametrize(
    ("flags", "refusal"),
    [
        (("--modes", "colour"), "belong together"),
        (("--mode-count", 2), "belong together"),
        (("--keep-empty",), "about the tiles of --crop"),
        (("--crop", 96), "64 x 100 px, too small for --crop 96"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    source: Path, flags: tuple[object, ...], refusal: str
) -> None:
    assert refusal in run(source, *flags).refusal
    assert not (source.parent / "sets").exists()
