"""The prepare command, run as a user runs it: a dataset in, checked sets of pairs out, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_core.masks.mask_files import read_mask
from siamese_core.pairs.pair_copies import copy_pairs
from siamese_core.pairs.pair_files import Pair, find_pairs, load_pair
from tests.support.commands import Outcome, run_here, sigint_interrupts
from tests.support.datasets.dataset_trees import (
    SIDE,
    cvc,
    isic2016,
    isic2018,
    kvasir,
    plain,
    plain_split,
    pranet,
)
from tests.support.folders import full_disk, read_tree
from training import prepare
from training.preparation.dataset_layouts import read_dataset
from training.preparation.varied_copies import turned

Tree = Callable[[Path], Path]


def run(source: Path, output: Path, *more: object) -> Outcome:
    return run_here(prepare.main, source, "--output", output, *more)


def report_of(source: Path, output: Path, *more: object) -> dict[str, Any]:
    outcome = run(source, output, *more)
    assert outcome.status == 0, outcome.errors
    report = json.loads((output / "prepare.json").read_text("utf-8"))
    assert isinstance(report, dict)
    return report


def stems_of(folder: Path) -> list[str]:
    return [pair.stem for pair in find_pairs(folder)]


def values_of(path: Path) -> set[int]:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        return set(np.unique(np.asarray(image)).tolist())


def assert_nothing_written(parent: Path, *present: str) -> None:
    assert {path.name for path in parent.iterdir()} == set(present)


@pytest.mark.parametrize("tree", [kvasir, cvc, pranet, isic2016, isic2018, plain, plain_split])
def test_every_layout_becomes_sets_that_the_other_commands_read(tmp_path: Path, tree: Tree) -> None:
    source = tree(tmp_path / "source")
    before = read_tree(source)
    report = report_of(source, tmp_path / "sets")
    assert read_tree(source) == before
    assert_nothing_written(tmp_path, "source", "sets")
    originals = read_dataset(source).sets
    assert sum(facts["pairs"] for facts in report["sets"].values()) == sum(map(len, originals.values()))
    assert "train" in report["sets"]
    for name, facts in report["sets"].items():
        pairs = find_pairs(tmp_path / "sets" / name)  # fails for a pair without a prompt
        assert len(pairs) == facts["pairs"] == sum(facts["mask_share_histogram"])
        assert facts["sizes"] == {f"{SIDE} x {SIDE}": len(pairs)}
        for pair in pairs:
            (original,) = (
                other
                for key, part in originals.items()
                for other in part
                if other.stem == pair.stem and key in ("all", name)
            )
            assert_same_pair(pair, original)


def assert_same_pair(written: Pair, original: Pair) -> None:
    assert written.prompt == original.prompt
    if original.image.suffix in (".jpg", ".png"):
        assert written.image.read_bytes() == original.image.read_bytes()
    else:
        assert written.image.suffix == ".png"
    assert values_of(written.mask) == {0, 255}
    loaded, expected = load_pair(written, size=None), load_pair(original, size=None)
    np.testing.assert_array_equal(loaded.image, expected.image)
    np.testing.assert_array_equal(loaded.mask, expected.mask)


def test_official_split_is_kept(tmp_path: Path) -> None:
    report = report_of(pranet(tmp_path / "source"), tmp_path / "sets")
    assert (report["layout"], report["split"], "seed" in report) == ("pranet", "official", False)
    assert {name: facts["pairs"] for name, facts in report["sets"].items()} == {
        "train": 4,
        "test/CVC-300": 2,
        "test/Kvasir": 3,
    }


def test_data_without_a_split_is_divided_three_to_one_to_one(tmp_path: Path) -> None:
    report = report_of(plain(tmp_path / "source", 10), tmp_path / "sets")
    assert (report["split"], report["seed"]) == ("3:1:1", 42)
    assert [facts["pairs"] for facts in report["sets"].values()] == [6, 2, 2]
    stems = [stem for name in report["sets"] for stem in stems_of(tmp_path / "sets" / name)]
    assert sorted(stems) == [f"phantom_{k:05d}" for k in range(10)]


def test_given_number_of_pairs_trains_and_all_others_test(tmp_path: Path) -> None:
    report = report_of(pranet(tmp_path / "source"), tmp_path / "sets", "--train", 3, "--seed", 5)
    assert (report["split"], report["seed"]) == ("3:0:rest", 5)
    assert {name: facts["pairs"] for name, facts in report["sets"].items()} == {"train": 3, "test": 6}


def test_given_ratio_is_drawn_from_split_data_too(tmp_path: Path) -> None:
    report = report_of(plain_split(tmp_path / "source"), tmp_path / "sets", "--split", "2:0:1")
    assert {name: facts["pairs"] for name, facts in report["sets"].items()} == {"train": 6, "test": 3}


def test_same_seed_gives_the_same_files_whatever_the_order_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plain(tmp_path / "source", 10)
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    report_of(source, first)
    in_order = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed(sorted(in_order(path))))
    report_of(source, again)
    report_of(source, other, "--seed", 43)
    assert read_tree(again) == read_tree(first)
    assert stems_of(other / "test") != stems_of(first / "test")


def test_copies_are_made_of_training_pairs_only(tmp_path: Path) -> None:
    source = plain(tmp_path / "source")
    report = report_of(source, tmp_path / "sets", "--split", "1:0:1", "--copies", 3)
    plainly = report_of(source, tmp_path / "plain", "--split", "1:0:1")
    once, copies = (find_pairs(tmp_path / name / "train") for name in ("plain", "sets"))
    assert [pair.stem for pair in copies] == [f"{pair.stem}_copy{k}" for pair in once for k in range(3)]
    assert [pair.prompt for pair in copies[::3]] == [pair.prompt for pair in once]
    assert stems_of(tmp_path / "sets/test") == stems_of(tmp_path / "plain/test")
    assert report["sets"] == plainly["sets"]
    assert "3 copies of each training pair" in report["notes"][-1]
    first = load_pair(once[0], size=None)
    for number, pair in enumerate(copies[:3]):
        np.testing.assert_array_equal(load_pair(pair, size=None).mask, turned(first.mask, number))
    run(source, tmp_path / "again", "--split", "1:0:1", "--copies", 3)
    assert read_tree(tmp_path / "again") == read_tree(tmp_path / "sets")
    assert (report["copies"], report["brightness"], report["seed"]) == (3, [0.8, 6.0], 42)


def test_copies_of_a_pair_are_not_divided_between_sets(tmp_path: Path) -> None:
    report_of(plain(tmp_path / "source"), tmp_path / "sets", "--split", "1:0:0", "--copies", 4)
    outcome = run(tmp_path / "sets/train", tmp_path / "again", "--split", "3:1:1")
    assert "split the original data, then copy its training set" in outcome.refusal
    assert not (tmp_path / "again").exists()
    report_of(tmp_path / "sets/train", tmp_path / "whole", "--split", "1:0:0")


def test_tiles_of_an_image_are_not_divided_between_sets_unless_by_the_datasets_own_split(
    tmp_path: Path,
) -> None:
    tiles = ("--split", "1:0:0", "--crop", SIDE // 2, "--keep-empty")
    report_of(plain(tmp_path / "source"), tmp_path / "sets", *tiles)
    outcome = run(tmp_path / "sets/train", tmp_path / "again", "--split", "3:1:1")
    assert "split the whole images, with --crop in the same command" in outcome.refusal
    assert not (tmp_path / "again").exists()

    own = tmp_path / "own"
    for name, pairs in (("train", slice(None, None, 2)), ("test", slice(1, None, 2))):
        copy_pairs(own / name, find_pairs(tmp_path / "sets/train")[pairs], None)
    outcome = run(own, tmp_path / "kept")
    assert outcome.status == 0, outcome.errors
    assert "by its own split, tiles of" in outcome.output


def test_copies_without_a_training_set_are_refused(tmp_path: Path) -> None:
    source = plain_split(tmp_path / "source")
    shutil.rmtree(source / "train")
    assert "no training pairs for --copies" in run(source, tmp_path / "sets", "--copies", 2).refusal


def test_tiles_are_copied_too(tmp_path: Path) -> None:
    source = plain(tmp_path / "source")
    flags = ("--split", "1:0:0", "--crop", SIDE // 2)
    report_of(source, tmp_path / "once", *flags)
    report_of(source, tmp_path / "sets", *flags, "--copies", 2)
    stems = stems_of(tmp_path / "once/train")
    assert stems_of(tmp_path / "sets/train") == [f"{stem}_copy{k}" for stem in stems for k in range(2)]


def test_own_prompts_are_kept_and_a_given_one_replaces_them(tmp_path: Path) -> None:
    source = plain(tmp_path / "source", prompt_file=True)
    prompts = {pair.stem: pair.prompt for pair in find_pairs(source)}
    report = report_of(source, tmp_path / "own")
    written = [pair for name in report["sets"] for pair in find_pairs(tmp_path / "own" / name)]
    assert {pair.stem: pair.prompt for pair in written} == prompts
    assert report_of(source, tmp_path / "given", "--prompt", "ein Bild, größer")["prompts"] == {
        "ein Bild, größer": 5
    }
    assert {pair.prompt for pair in find_pairs(tmp_path / "given" / "train")} == {"ein Bild, größer"}


def test_prepared_sets_can_be_prepared_again(tmp_path: Path) -> None:
    first = report_of(pranet(tmp_path / "source"), tmp_path / "sets")
    again = report_of(tmp_path / "sets", tmp_path / "again")
    assert (again["split"], again["sets"], again["prompts"]) == ("official", first["sets"], first["prompts"])


def test_recompressed_copy_in_another_set_is_reported(tmp_path: Path) -> None:
    source = plain_split(tmp_path / "source")
    with Image.open(source / "train" / "images" / "phantom_00002.png") as image:
        image.save(source / "test" / "images" / "phantom_00001.jpg", quality=40)
    (source / "test" / "images" / "phantom_00001.png").unlink()
    outcome = run(source, tmp_path / "sets")
    assert "near-duplicates across sets: 1" in outcome.output
    duplicates = json.loads((tmp_path / "sets" / "prepare.json").read_text("utf-8"))["near_duplicates"]
    assert (duplicates["count"], duplicates["between"]) == (1, {"train, test": 1})
    assert duplicates["closest"][0]["images"] == ["train/phantom_00002", "test/phantom_00001"]


def test_class_of_a_mask_of_many_classes_can_be_picked(tmp_path: Path) -> None:
    source = plain(tmp_path / "source")
    for path in (source / "masks").iterdir():
        classes = np.zeros((SIDE, SIDE), np.uint8)
        classes[:8], classes[8:24] = 1, 2
        Image.fromarray(classes).save(path)
    report = report_of(source, tmp_path / "sets", "--mask-label", 2)
    assert report["sets"]["train"]["mask_share_mean"] == 0.25


def test_file_types_that_are_not_copied_become_png_and_odd_masks_are_noted(tmp_path: Path) -> None:
    source = plain(tmp_path / "source")
    with Image.open(source / "images" / "phantom_00003.png") as image:
        image.save(source / "images" / "phantom_00003.bmp")
    (source / "images" / "phantom_00003.png").unlink()
    mask = source / "masks" / "phantom_00001.png"
    Image.fromarray(read_mask(mask).mask.astype(np.uint8)).save(mask)  # 0 and 1
    report = report_of(source, tmp_path / "sets", "--train", 4)
    assert any("phantom_00001.png" in note for note in report["notes"])
    assert len(list((tmp_path / "sets").rglob("images/*.png"))) == 5


@pytest.mark.parametrize("broken", ["images", "masks"])
def test_corrupt_file_in_the_middle_is_named_and_nothing_is_written(tmp_path: Path, broken: str) -> None:
    source = plain(tmp_path / "source")
    path = source / broken / "phantom_00002.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in run(source, tmp_path / "sets").refusal
    assert_nothing_written(tmp_path, "source")


def test_mask_without_an_image_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    source = plain(tmp_path / "source")
    (source / "images" / "phantom_00002.png").unlink()
    assert "1 mask without an image (phantom_00002)" in run(source, tmp_path / "sets").refusal
    assert_nothing_written(tmp_path, "source")


def test_pair_of_two_sizes_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    source = plain(tmp_path / "source")
    mask = source / "masks" / "phantom_00002.png"
    with Image.open(mask) as image:
        image.resize((SIDE, SIDE // 2)).save(mask)
    refusal = run(source, tmp_path / "sets").refusal
    assert str(mask) in refusal
    assert f"{SIDE} x {SIDE // 2}" in refusal
    assert_nothing_written(tmp_path, "source")


def test_masks_that_are_all_empty_are_refused(tmp_path: Path) -> None:
    source = plain(tmp_path / "source")
    for path in (source / "masks").iterdir():
        Image.new("L", (SIDE, SIDE)).save(path)
    assert "--mask-label" in run(source, tmp_path / "sets").refusal
    assert_nothing_written(tmp_path, "source")


def test_output_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    source, output = plain(tmp_path / "source"), tmp_path / "sets"
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    assert "not empty" in run(source, output).refusal
    assert read_tree(output) == {"mine.txt": b"keep"}
    assert "is a file" in run(source, output / "mine.txt").refusal


def test_empty_output_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    report_of(plain(tmp_path / "source"), tmp_path / "sets")
    assert_nothing_written(tmp_path, "source", "sets")


def test_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plain(tmp_path / "source")
    calls: list[Pair] = []

    def load(pair: Pair, **options: Any) -> object:
        calls.append(pair)
        if len(calls) == 3:
            assert list(
                tmp_path.rglob(f".tmp-sets/*/images/{calls[0].image.name}")
            )  # some are written already
            signal.raise_signal(signal.SIGINT)
        return load_pair(pair, **options)

    monkeypatch.setattr(prepare, "load_pair", load)
    with sigint_interrupts():
        assert run(source, tmp_path / "sets").status == 130
    assert_nothing_written(tmp_path, "source")


def test_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    source = cvc(tmp_path / "source")  # images are encoded, not copied
    with full_disk():
        refusal = run(source, tmp_path / "sets").refusal
    assert refusal.startswith(f"{tmp_path / 'sets'}: not written (")
    assert "make room on the disk" in refusal
    assert_nothing_written(tmp_path, "source")


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    torn = tmp_path / ".tmp-sets" / "train" / "images"
    torn.mkdir(parents=True)
    (torn / "half.png").write_bytes(b"half")
    report_of(plain(tmp_path / "source"), tmp_path / "sets")
    assert not list((tmp_path / "sets").rglob("half.png"))
    assert_nothing_written(tmp_path, "source", "sets")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train", 2, "--split", "3:1:1"], "exclude each other"),
        (["--split", "3:1"], "such as 3:1:1"),
        (["--train", 5], "leaves none for test"),
        (["--layout", "pranet"], "not in the layout pranet"),
        (["--copies", 2, "--brightness", 3, 1], "--brightness 3 1: give two numbers, the smaller first"),
        (["--copies", 2, "--brightness", 1, 2, 3], "--brightness 1 2 3: give two numbers"),
        (["--brightness", 2], "--brightness 2: give two numbers"),
        (["--brightness", 1, 2], "--brightness is about --copies"),
        (["--copies", 2, "--brightness", 0, 2], "must be above 0 and at most 100, not 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, flags: list[object], message: str) -> None:
    assert message in run(plain(tmp_path / "source"), tmp_path / "sets", *flags).refusal
    assert_nothing_written(tmp_path, "source")


def test_output_is_needed(tmp_path: Path) -> None:
    assert "--output is needed" in run_here(prepare.main, plain(tmp_path / "source")).refusal


def test_settings_come_from_a_file_too(tmp_path: Path) -> None:
    source, config = plain(tmp_path / "source"), tmp_path / "prepare.toml"
    config.write_text('train = 2\nlayout = "kvasir-seg"\n')
    report = report_of(source, tmp_path / "sets", "--config", config)
    assert (report["layout"], report["sets"]["train"]["pairs"]) == ("kvasir-seg", 2)
    config.write_text("trian = 2\n")
    assert "unknown setting 'trian'" in run(source, tmp_path / "more", "--config", config).refusal


@pytest.mark.slow
@pytest.mark.skipif("SIAMESE_DATA" not in os.environ, reason="SIAMESE_DATA names no folder with kvasir-seg")
def test_real_duplicates_across_a_drawn_split_are_found(tmp_path: Path) -> None:
    source = Path(os.environ["SIAMESE_DATA"]) / "kvasir-seg"
    report = report_of(source, tmp_path / "sets", "--train", 200, "--seed", 42)
    assert {name: facts["pairs"] for name, facts in report["sets"].items()} == {"train": 200, "test": 800}
    assert report["near_duplicates"]["count"] == 2
