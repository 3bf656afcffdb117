from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from siamese_core.errors import UserError
from siamese_core.masks.mask_files import read_mask
from siamese_core.pairs.manifest import PairRecord
from siamese_core.pairs.pair_files import find_pairs, load_pair
from siamese_core.pairs.pair_writer import PairWriter, WriteError, pair_stem, png_bytes
from tests.support.folders import full_disk

RECORD = PairRecord(
    index=0,
    stem="polyp_1",
    seed=2**64 - 1,
    mask_file="polyp_1.bmp",
    mask_digest="ab" * 32,
    prompt="a photo of polyps",
    sampler={"name": "ddim", "steps": 50, "guidance": 9.0},
    checkpoint_digest="cd" * 32,
    run_id="run-7",
)


def random_pair(
    seed: int = 0, size: tuple[int, int] = (24, 40)
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.random(size) > 0.4


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_pair_comes_back_pixel_for_pixel(tmp_path: Path) -> None:
    image, mask = random_pair()
    PairWriter(tmp_path / "out").write(RECORD, image, mask)

    stored = np.asarray(Image.open(tmp_path / "out/masks/polyp_1.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/images/polyp_1.png")), image)
    assert stored.dtype == np.uint8
    assert stored.shape == mask.shape
    assert set(np.unique(stored)) == {0, 255}
    assert (stored == 255).sum() == mask.sum()
    assert np.array_equal(read_mask(tmp_path / "out/masks/polyp_1.png").mask, mask)


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_keep_their_meaning(tmp_path: Path, value: bool) -> None:
    image, mask = random_pair()
    PairWriter(tmp_path).write(RECORD, image, np.full_like(mask, value))

    assert (read_mask(tmp_path / "masks/polyp_1.png").mask == value).all()


def test_what_was_written_can_be_trained_on(tmp_path: Path) -> None:
    writer = PairWriter(tmp_path)
    contents = [random_pair(seed) for seed in range(3)]
    for index, (image, mask) in enumerate(contents):
        record = replace(RECORD, index=index, stem=f"p{index}", prompt=f"polyp number {index}")
        writer.write(record, image, mask)

    pairs = find_pairs(tmp_path)

    assert [pair.prompt for pair in pairs] == ["polyp number 0", "polyp number 1", "polyp number 2"]
    for pair, (image, mask) in zip(pairs, contents, strict=True):
        loaded = load_pair(pair, size=mask.shape)
        assert np.array_equal(loaded.image, image)
        assert np.array_equal(loaded.mask, mask)


def test_the_lists_say_how_each_pair_was_made_in_order(tmp_path: Path) -> None:
    writer = PairWriter(tmp_path)
    records = [
        replace(RECORD, index=index, stem=f"s{10 - index}", seed=index, transform={"angle": 0.5})
        for index in range(3)
    ]
    for record in records:
        writer.write(record, *random_pair())

    assert lines(tmp_path / "manifest.jsonl") == [vars(record) for record in records]
    assert lines(tmp_path / "prompt.json")[1] == {
        "source": "masks/s9.png",
        "target": "images/s9.png",
        "prompt": "a photo of polyps",
    }


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        PairWriter(tmp_path / name).write(RECORD, *random_pair())

    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_new_writer_leaves_two_empty_lists(tmp_path: Path) -> None:
    PairWriter(tmp_path / "deep/out")

    assert (tmp_path / "deep/out/manifest.jsonl").read_bytes() == b""
    assert (tmp_path / "deep/out/prompt.json").read_bytes() == b""


@pytest.mark.parametrize("stem", ["Größe 3,5 cm", "息肉_1", "a.b.c", " leading", "it's"])
def test_names_and_prompts_of_any_language_are_kept(tmp_path: Path, stem: str) -> None:
    prompt = f'ein "Polyp" — {stem}\nzweite Zeile'
    PairWriter(tmp_path).write(replace(RECORD, stem=stem, prompt=prompt), *random_pair())

    (pair,) = find_pairs(tmp_path)
    assert pair.image == tmp_path / "images" / f"{stem}.png"
    assert pair.prompt == prompt
    assert lines(tmp_path / "manifest.jsonl")[0]["stem"] == stem


@pytest.mark.parametrize("stem", ["", ".", "..", "../x", "a/b", "/etc/x", "a/..", "x/"])
def test_a_stem_that_is_no_plain_name_is_refused(tmp_path: Path, stem: str) -> None:
    writer = PairWriter(tmp_path / "out")

    with pytest.raises(WriteError, match="must be a plain file name"):
        writer.write(replace(RECORD, stem=stem), *random_pair())
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "manifest.jsonl",
        "prompt.json",
    ]
    assert not lines(tmp_path / "out/manifest.jsonl")


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "images").symlink_to(elsewhere)
    writer = PairWriter(out)

    with pytest.raises(UserError, match="outside"):
        writer.write(RECORD, *random_pair())
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("name", ["prompt.json", "manifest.jsonl"])
def test_a_list_that_is_a_link_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside.txt"
    out.mkdir()
    outside.write_text("mine\n")
    (out / name).symlink_to(outside)

    with pytest.raises(UserError, match="outside"):
        PairWriter(out).write(RECORD, *random_pair())
    assert outside.read_text() == "mine\n"


def test_a_full_disk_leaves_the_lists_as_they_were(tmp_path: Path) -> None:
    writer = PairWriter(tmp_path)
    writer.write(RECORD, *random_pair(size=(2, 2)))
    before = (tmp_path / "manifest.jsonl").read_bytes()
    with full_disk(free=len(before) + 50), pytest.raises(OSError, match=r"."):
        writer.write(replace(RECORD, stem="polyp_2"), *random_pair(size=(2, 2)))

    writer.write(replace(RECORD, stem="polyp_2"), *random_pair(size=(2, 2)))
    assert [line["stem"] for line in lines(tmp_path / "manifest.jsonl")] == ["polyp_1", "polyp_2"]


def test_a_prompt_file_that_is_an_array_is_left_alone(tmp_path: Path) -> None:
    array = '\n[\n {"source": "a.png", "target": "b.png"}\n]\n'
    (tmp_path / "prompt.json").write_text(array)

    with pytest.raises(WriteError, match=r"prompt\.json: a JSON array, to which no line can be added"):
        PairWriter(tmp_path)
    assert (tmp_path / "prompt.json").read_text() == array


def test_a_list_without_an_end_of_line_gets_one(tmp_path: Path) -> None:
    (tmp_path / "prompt.json").write_text('{"source": "a.png", "target": "b.png"}')
    PairWriter(tmp_path).write(RECORD, *random_pair())

    assert [line["source"] for line in lines(tmp_path / "prompt.json")] == ["a.png", "masks/polyp_1.png"]


IMAGE, MASK = random_pair()


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (IMAGE, MASK[:-1]),
        (IMAGE, MASK.T),
        (IMAGE[..., 0], MASK),
        (IMAGE.astype(np.float32), MASK),
        (IMAGE, MASK.astype(np.uint8)),
        (IMAGE[..., :1], MASK),
    ],
    ids=["shorter", "turned", "grey", "float image", "numeric mask", "one channel"],
)
def test_what_is_no_pair_is_refused_and_nothing_is_written(
    tmp_path: Path, image: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> None:
    writer = PairWriter(tmp_path)

    with pytest.raises(WriteError, match=r"polyp_1: .*are no pair"):
        writer.write(RECORD, image, mask)
    assert not list((tmp_path / "images").iterdir())
    assert not list((tmp_path / "masks").iterdir())
    assert not lines(tmp_path / "prompt.json")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")

    with pytest.raises(WriteError, match="is a file; give a folder"):
        PairWriter(tmp_path / "out")


def test_lists_are_continued_and_what_else_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for stem in ("polyp_1", "polyp_2"):
        PairWriter(tmp_path).write(replace(RECORD, stem=stem), *random_pair())

    assert [line["stem"] for line in lines(tmp_path / "manifest.jsonl")] == ["polyp_1", "polyp_2"]
    assert len(lines(tmp_path / "prompt.json")) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_pairs_name_tells_the_variant_only_when_there_are_several() -> None:
    assert pair_stem("m", 0, 1) == "m"
    assert [pair_stem("m", variant, 3) for variant in range(3)] == ["m_0", "m_1", "m_2"]


def test_png_bytes_are_a_png_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png_bytes(IMAGE))

    with Image.open(tmp_path / "x.png") as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), IMAGE)
