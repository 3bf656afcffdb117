"""Which layout a folder of a published or private dataset has, and which pairs are in its sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from siamese_core.pairs.pair_files import PairError
from tests.support.commands import run_here
from tests.support.datasets.dataset_trees import cvc, isic2016, isic2018, kvasir, plain, plain_split, pranet
from training import prepare
from training.preparation.dataset_layouts import Dataset, DatasetError, read_dataset

Tree = Callable[[Path], Path]


def counts(dataset: Dataset) -> dict[str, int]:
    return {name: len(pairs) for name, pairs in dataset.sets.items()}


@pytest.mark.parametrize(
    ("tree", "layout", "sets", "prompt"),
    [
        (kvasir, "kvasir-seg", {"all": 5}, "a photo of polyps"),
        (cvc, "cvc-clinicdb", {"all": 5}, "a photo of polyps"),
        (pranet, "pranet", {"train": 4, "test/CVC-300": 2, "test/Kvasir": 3}, "a photo of polyps"),
        (isic2016, "isic2016", {"train": 4, "test": 2}, "a photo of skin lesions"),
        (isic2018, "isic2018", {"train": 4, "validation": 2, "test": 3}, "a photo of skin lesions"),
        (plain, "plain", {"all": 5}, "a medical image"),
        (plain_split, "plain", {"train": 4, "validation": 2, "test": 3}, "a medical image"),
    ],
)
def test_layout_is_recognised_with_its_sets_and_its_prompt(
    tmp_path: Path, tree: Tree, layout: str, sets: dict[str, int], prompt: str
) -> None:
    dataset = read_dataset(tree(tmp_path / "data"))
    assert dataset.layout == layout
    assert counts(dataset) == sets
    assert dataset.is_split == (len(sets) > 1)
    pairs = [pair for part in dataset.sets.values() for pair in part]
    assert {pair.prompt for pair in pairs} == {prompt}
    assert all(pair.image.stem == pair.stem and pair.mask.stem.startswith(pair.stem) for pair in pairs)


def test_given_prompt_is_every_pairs(tmp_path: Path) -> None:
    dataset = read_dataset(pranet(tmp_path / "data"), prompt="an endoscopy")
    assert {pair.prompt for part in dataset.sets.values() for pair in part} == {"an endoscopy"}


def test_prompts_of_a_prompt_file_are_kept(tmp_path: Path) -> None:
    folder = plain(tmp_path / "data", prompt_file=True)
    for source in (folder, folder / "prompt.json"):
        (pairs,) = read_dataset(source).sets.values()
        assert len(pairs) == 5
        assert "a medical image" not in {pair.prompt for pair in pairs}


@pytest.mark.parametrize("sign", ["folder", "boxes", "stems"])
def test_kvasir_is_told_from_plain_folders_by_any_of_its_signs(tmp_path: Path, sign: str) -> None:
    folder = plain(tmp_path / ("Kvasir-SEG" if sign == "folder" else "data"))
    if sign == "boxes":
        (folder / "kavsir_bboxes.json").write_text("{}")
    if sign == "stems":
        for part in ("images", "masks"):
            first = min((folder / part).iterdir())
            first.rename(first.with_stem("cju0qkwl35piu0993l0dewei2"))
    assert read_dataset(folder).layout == "kvasir-seg"


def test_stems_may_carry_the_split(tmp_path: Path) -> None:
    folder = plain(tmp_path / "data")
    for part in ("images", "masks"):
        for path, name in zip(sorted((folder / part).iterdir()), ("train", "val", "test"), strict=False):
            path.rename(path.with_stem(f"{name}_{path.stem}"))
    assert counts(read_dataset(folder)) == {"all": 5}  # not all of them tell
    for part in ("images", "masks"):
        for path in (folder / part).glob("phantom*"):
            path.rename(path.with_stem(f"train_{path.stem}"))
    assert counts(read_dataset(folder)) == {"train": 3, "validation": 1, "test": 1}


def test_training_set_alone_is_no_split(tmp_path: Path) -> None:
    folder = isic2016(tmp_path / "data")
    for path in folder.glob("*_Test_*"):
        path.rename(tmp_path / path.name)
    dataset = read_dataset(folder)
    assert not dataset.is_split
    assert counts(dataset) == {"all": 4}


def test_folder_of_the_archive_above_is_answered_with_the_one_to_give(tmp_path: Path) -> None:
    cvc(tmp_path / "CVC" / "PNG")
    with pytest.raises(DatasetError, match="'PNG' in it looks like cvc-clinicdb, give that"):
        read_dataset(tmp_path / "CVC")


def test_unknown_folder_is_answered_with_what_was_sought_and_found(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    with pytest.raises(DatasetError, match=r"'TrainDataset'.*'Original'.*Found scans"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "nowhere")


def test_two_datasets_in_one_folder_need_a_choice(tmp_path: Path) -> None:
    isic2018(isic2016(tmp_path / "data"))
    with pytest.raises(DatasetError, match="could be isic2018 or isic2016; choose with --layout"):
        read_dataset(tmp_path / "data")
    assert counts(read_dataset(tmp_path / "data", "isic2016")) == {"train": 4, "test": 2}


def test_layout_that_the_folder_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not in the layout pranet; looked for 'TrainDataset'"):
        read_dataset(plain(tmp_path / "data"), "pranet")


def test_missing_half_of_a_set_is_named(tmp_path: Path) -> None:
    folder = isic2018(tmp_path / "data")
    (folder / "ISIC2018_Task1_Test_GroundTruth").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="'ISIC2018_Task1_Test_GroundTruth' is missing"):
        read_dataset(folder)


def test_mask_without_an_image_is_named(tmp_path: Path) -> None:
    folder = cvc(tmp_path / "data")
    (folder / "Original" / "3.tif").unlink()
    with pytest.raises(PairError, match=r"1 mask without an image \(3\)"):
        read_dataset(folder)


def told(folder: Path, layout: str | None = None, prompt: str | None = None) -> list[str]:
    notes: list[str] = []
    read_dataset(folder, layout, prompt, notes.append)  # type: ignore[arg-type]
    return notes


def test_a_prompt_that_the_layout_decides_is_told_with_what_shows_the_layout(tmp_path: Path) -> None:
    folder = plain(tmp_path / "Kvasir-SEG")
    (note,) = told(folder)
    assert note.startswith(
        "5 of 5 pairs have no prompt of their own: they get 'a photo of polyps', that of the"
    )
    assert "layout kvasir-seg, which its folder's name shows; --prompt" in note
    assert told(folder, prompt="a polyp") == []


def test_other_datasets_of_kvasirs_name_are_no_polyps(tmp_path: Path) -> None:
    dataset = read_dataset(plain(tmp_path / "kvasir-instrument"))
    assert dataset.layout == "plain"
    assert {pair.prompt for pair in dataset.sets["all"]} == {"a medical image"}


@pytest.mark.parametrize("spelling", ["val", "valid", "validation"])
def test_a_set_is_found_under_each_spelling_of_its_folder(tmp_path: Path, spelling: str) -> None:
    folder = plain_split(tmp_path / "data")
    (validation,) = [path for path in folder.iterdir() if path.name.startswith("val")]
    validation.rename(folder / spelling)
    assert counts(read_dataset(folder)) == {"train": 4, "validation": 2, "test": 3}


def test_folders_of_a_split_that_are_not_read_are_named(tmp_path: Path) -> None:
    folder = plain(tmp_path / "data")
    plain(folder / "test")
    plain_split(folder / "holdout")
    (note,) = told(folder, prompt="x")
    assert note == f"{folder}: the images in its other folders are not used (holdout, test)"


def test_a_set_of_a_prepared_dataset_is_not_divided_by_its_names(tmp_path: Path) -> None:
    """Sets of equal names, divided anew, are told apart by names that begin with their old set."""
    data = plain_split(tmp_path / "data")
    words = (data, "--output", tmp_path / "anew", "--split", "2:0:1", "--prompt", "x")
    assert run_here(prepare.main, *words).status == 0
    train = tmp_path / "anew" / "train"
    assert {path.stem.partition("_")[0] for path in (train / "images").iterdir()} > {"train"}
    assert list(read_dataset(train).sets) == ["all"]


def test_stems_that_tell_a_split_in_part_are_told(tmp_path: Path) -> None:
    folder = plain(tmp_path / "data")
    for part in ("images", "masks"):
        first = min((folder / part).iterdir())
        first.rename(first.with_stem(f"train_{first.stem}"))
    assert told(folder, prompt="x") == [
        "the names of 1 pairs tell their set (train_, validation_, test_) and those of 4 do not: "
        "taken for no split"
    ]
