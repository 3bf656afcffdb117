"""Every layout read back by the library it is for, or by that library's own rules: pixel for pixel."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from siamese_core.pairs.export_formats import FORMATS, FinishedPair
from siamese_core.pairs.export_formats.coco import compressed, objects
from siamese_core.pairs.pair_files import find_pairs, load_pair
from tests.support.datasets.pair_sets import finished_pairs, write_set
from tests.support.folders import read_tree
from training.preparation.dataset_layouts import read_dataset


def written(root: Path, name: str) -> dict[str, FinishedPair]:
    pairs = finished_pairs()
    write_set(root, FORMATS[name], pairs)
    return {pair.record.stem: pair for pair in pairs}


def pixels(path: Path, mode: str) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", mode)
        return np.asarray(image)


def assert_files(root: Path, image_file: str, mask_file: str, pair: FinishedPair, foreground: int) -> None:
    """Both files hold exactly the pair; the image's carries the text."""
    np.testing.assert_array_equal(pixels(root / image_file, "RGB"), pair.image)
    np.testing.assert_array_equal(pixels(root / mask_file, "L"), pair.mask * np.uint8(foreground))
    with Image.open(root / image_file) as image:
        assert image.info == dict(pair.text)


def test_pairs_are_read_by_the_commands(tmp_path: Path) -> None:
    expected = written(tmp_path, "pairs")
    found = find_pairs(tmp_path, default_prompt="")
    assert [pair.stem for pair in found] == list(expected)
    for pair in found:
        loaded = load_pair(pair, size=None)
        np.testing.assert_array_equal(loaded.image, expected[pair.stem].image)
        np.testing.assert_array_equal(loaded.mask, expected[pair.stem].mask)
        assert pair.prompt == expected[pair.stem].record.prompt


def test_pranet_by_the_rules_of_its_loader(tmp_path: Path) -> None:
    expected = written(tmp_path, "pranet")
    images, masks = tmp_path / "TrainDataset/images", tmp_path / "TrainDataset/masks"
    # Its loader sorts the names of either folder and pairs them by position.
    names = sorted(path.name for path in images.iterdir() if path.suffix in (".jpg", ".png"))
    assert names == sorted(path.name for path in masks.iterdir() if path.suffix == ".png")
    assert {Path(name).stem for name in names} == expected.keys()
    for name in names:
        assert_files(
            tmp_path, f"TrainDataset/images/{name}", f"TrainDataset/masks/{name}", expected[name[:-4]], 255
        )


@pytest.mark.parametrize(("name", "layout"), [("pranet", "pranet"), ("isic", "isic2018"), ("pairs", "plain")])
def test_layouts_that_prepare_knows_are_recognised_by_it(tmp_path: Path, name: str, layout: str) -> None:
    expected = written(tmp_path, name)
    dataset = read_dataset(tmp_path)
    assert (dataset.layout, list(dataset.sets)) == (layout, ["all"])
    found = dataset.sets["all"]
    assert {pair.stem for pair in found} == expected.keys()
    for pair in found:
        loaded = load_pair(pair, size=None)
        np.testing.assert_array_equal(loaded.image, expected[pair.stem].image)
        np.testing.assert_array_equal(loaded.mask, expected[pair.stem].mask)


def test_isic_by_the_names_of_its_archive(tmp_path: Path) -> None:
    expected = written(tmp_path, "isic")
    images, masks = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
    assert {path.name for path in tmp_path.iterdir()} == {images, masks, "manifest.jsonl"}
    assert len(list((tmp_path / masks).iterdir())) == len(expected)
    for stem, pair in expected.items():
        assert_files(tmp_path, f"{images}/{stem}.png", f"{masks}/{stem}_segmentation.png", pair, 255)


def test_nnunet_by_its_rules(tmp_path: Path) -> None:
    expected = written(tmp_path, "nnunet")
    description = json.loads((tmp_path / "dataset.json").read_text("utf-8"))
    ending = description["file_ending"]
    # Its identifiers are the images' names without channel number and ending, the labels' without ending.
    cases = {path.name[: -len(f"_0000{ending}")] for path in (tmp_path / "imagesTr").iterdir()}
    assert cases == {path.name[: -len(ending)] for path in (tmp_path / "labelsTr").iterdir()}
    assert cases == expected.keys()
    assert description["numTraining"] == len(cases)
    assert len(description["channel_names"]) == 3
    values = set(description["labels"].values())
    for case in cases:
        assert_files(tmp_path, f"imagesTr/{case}_0000.png", f"labelsTr/{case}.png", expected[case], 1)
        assert set(np.unique(pixels(tmp_path / f"labelsTr/{case}.png", "L"))) <= values


@pytest.fixture
def coco(tmp_path: Path) -> Any:
    module = pytest.importorskip("pycocotools.coco")
    expected = written(tmp_path, "coco")
    return module.COCO(str(tmp_path / "annotations.json")), expected


def test_coco_is_read_by_pycocotools(coco: Any, tmp_path: Path) -> None:
    dataset, expected = coco
    images = dataset.loadImgs(dataset.getImgIds())
    assert [Path(image["file_name"]).stem for image in images] == list(expected)
    for image, pair in zip(images, expected.values(), strict=True):
        np.testing.assert_array_equal(pixels(tmp_path / "images" / image["file_name"], "RGB"), pair.image)
        assert (image["height"], image["width"], image["prompt"]) == (*pair.mask.shape, pair.record.prompt)
        found = dataset.loadAnns(dataset.getAnnIds(imgIds=image["id"]))
        parts = np.array([dataset.annToMask(one) for one in found]).reshape(-1, *pair.mask.shape)
        assert parts.sum(axis=0).max(initial=0) <= 1  # no pixel twice
        np.testing.assert_array_equal(parts.any(axis=0), pair.mask)
    assert dataset.getCatIds(catNms=["foreground"]) == [1]


def test_areas_and_boxes_are_those_of_pycocotools(coco: Any) -> None:
    masks = pytest.importorskip("pycocotools.mask")
    dataset, _ = coco
    every = dataset.loadAnns(dataset.getAnnIds())
    assert len(every) >= 100
    assert [one["id"] for one in every] == list(range(1, len(every) + 1))
    for one in every:
        assert one["area"] == masks.area(one["segmentation"])
        assert one["bbox"] == masks.toBbox(one["segmentation"]).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_those_of_pycocotools_to_the_byte(seed: int) -> None:
    masks = pytest.importorskip("pycocotools.mask")
    noise = np.random.default_rng(seed)
    shape = tuple(noise.integers(1, 300, 2))
    mask = np.zeros(shape, bool)
    rows, columns = np.indices(shape)
    for _ in range(seed % 4):
        row, column = noise.integers(0, shape)
        mask |= (rows - row) ** 2 + (columns - column) ** 2 < noise.integers(1, max(shape) ** 2 // 8 + 2)
    for found in objects(mask):
        alone = masks.decode(found["segmentation"]).astype(bool)
        assert alone.any()
        assert not (alone & ~mask).any()
        encoded = masks.encode(np.asfortranarray(alone, np.uint8))
        assert found["segmentation"]["counts"].encode() == encoded["counts"]


def test_compressed_counts_are_the_published_ones() -> None:
    masks = pytest.importorskip("pycocotools.mask")
    for counts in ([0, 1], [5], [1000000, 3, 70000, 2, 1, 40, 33, 31], [16, 15, 16, 1, 48, 17]):
        size = [sum(counts), 1]
        assert (
            compressed(counts).encode()
            == masks.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
        )


def test_objects_are_those_that_touch_at_a_corner() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = mask[4, 4] = True
    assert [(found["bbox"], found["area"]) for found in objects(mask)] == [
        ([0, 0, 2, 2], 2),
        ([4, 4, 1, 1], 1),
    ]


def test_imagefolder_is_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    expected = written(tmp_path / "set", "imagefolder")
    found = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(found.column_names) == {"image", "mask", "prompt"}
    assert len(found) == len(expected)
    for row, pair in zip(found, expected.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"]), pair.image)
        np.testing.assert_array_equal(np.asarray(row["mask"]), pair.mask * np.uint8(255))
        assert row["prompt"] == pair.record.prompt


def test_webdataset_is_read_by_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    expected = written(tmp_path, "webdataset")
    shards = sorted(str(path) for path in tmp_path.glob("*.tar"))
    assert [Path(shard).name for shard in shards] == [f"pairs-{first:09d}.tar" for first in (0, 5, 10)]
    found = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["json"]["stem"] for sample in found] == list(expected)
    for sample, pair in zip(found, expected.values(), strict=True):
        assert sample["__key__"] == f"{pair.record.index:09d}"
        np.testing.assert_array_equal(np.asarray(sample["png"]), pair.image)
        mask = np.asarray(sample["mask.png"].convert("L"))  # pil makes RGB of every picture
        np.testing.assert_array_equal(mask, pair.mask * np.uint8(255))
        assert sample["json"] == asdict(pair.record)


def members(content: bytes) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        yield from tar


def test_a_tar_says_nothing_of_time_and_place(tmp_path: Path) -> None:
    written(tmp_path, "webdataset")
    for member in members((tmp_path / "pairs-000000000.tar").read_bytes()):
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.mode == 0o644


@pytest.mark.parametrize("name", FORMATS)
def test_equal_pairs_make_equal_bytes(tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        written(tmp_path / folder, name)
    assert read_tree(tmp_path / "a") == read_tree(tmp_path / "b")


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if not kind.chunk_is_a_file])
def test_chunks_leave_no_trace_where_each_pair_has_its_own_files(tmp_path: Path, name: str) -> None:
    for chunk in (1, 7):
        write_set(tmp_path / str(chunk), FORMATS[name], finished_pairs(), chunk)
    assert read_tree(tmp_path / "1") == read_tree(tmp_path / "7")


@pytest.mark.parametrize("name", FORMATS)
def test_a_set_of_nothing_is_still_a_set(tmp_path: Path, name: str) -> None:
    write_set(tmp_path, FORMATS[name], [])
    for path in tmp_path.glob("*.json"):
        if path.name != "prompt.json":
            json.loads(path.read_text("utf-8"))
