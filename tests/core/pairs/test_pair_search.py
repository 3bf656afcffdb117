"""Pairs as users keep them: whatever is not used is told, prompts are found where they lie, names match."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.masks.image_decoding import MaskError
from siamese_core.masks.mask_files import discover_masks
from siamese_core.pairs.captions import CaptionError
from siamese_core.pairs.export_formats import FORMATS
from siamese_core.pairs.pair_files import PairError, find_pairs, pairs_of_folders
from siamese_core.pairs.pair_rewriting import export_pairs, find_source

STEMS = [f"s{number}" for number in range(6)]


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9] = 255
    Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for stem in STEMS:
        for folder in ("images", "masks"):
            write(tmp_path / "data" / folder / f"{stem}.png")
    return tmp_path / "data"


def found(source: Path) -> tuple[dict[str, str | None], list[str]]:
    """The prompts by stem, and what was told."""
    told: list[str] = []
    return {pair.stem: pair.prompt for pair in find_pairs(source, default_prompt="", tell=told.append)}, told


def test_a_folder_in_which_everything_is_used_is_told_nothing_of(dataset: Path) -> None:
    (dataset / "images" / "Thumbs.db").write_bytes(b"x")
    (dataset / "masks" / ".DS_Store").write_bytes(b"x")
    assert found(dataset) == (dict.fromkeys(STEMS, ""), [])


def test_dead_links_are_counted_and_named(dataset: Path) -> None:
    for folder in ("images", "masks"):
        for stem in STEMS[3:]:
            (dataset / folder / f"{stem}.png").unlink()
            (dataset / folder / f"{stem}.png").symlink_to(f"../annex/{stem}")
    pairs, told = found(dataset)
    assert list(pairs) == STEMS[:3]
    assert [note.partition(": fetch")[0] for note in told] == [
        f"not read in '{dataset / folder}': 3 links to nothing (s3.png, s4.png, s5.png)"
        for folder in ("images", "masks")
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.webp", "WebP"), ("x.gif", "GIF"), ("x.nii.gz", "NIfTI"), ("x.dcm", "DICOM"), ("x.zip", "archive")],
)
def test_files_of_other_formats_are_counted_and_named(dataset: Path, name: str, kind: str) -> None:
    for folder in ("images", "masks"):
        (dataset / folder / name).write_bytes(b"x")
    pairs, told = found(dataset)
    assert list(pairs) == STEMS
    assert len(told) == 2
    assert all(f"1 {kind} file ({name}): " in note for note in told)


def test_dicom_is_told_by_its_content_where_the_name_does_not_tell(dataset: Path) -> None:
    (dataset / "images" / "IM000001").write_bytes(bytes(128) + b"DICM")
    assert "1 DICOM file (IM000001): export as PNG" in found(dataset)[1][0]


def test_images_that_a_list_does_not_name_are_counted_and_named(dataset: Path) -> None:
    lines = [
        {"source": f"masks/{stem}.png", "target": f"images/{stem}.png", "prompt": "x"} for stem in STEMS[:3]
    ]
    (dataset / "prompt.json").write_text("\n".join(map(json.dumps, lines)))
    pairs, told = found(dataset)
    assert list(pairs) == STEMS[:3]
    assert told == [
        f"'{dataset / 'prompt.json'}' does not list 3 images of '{dataset / 'images'}': s3, s4, s5"
    ]


def test_a_list_of_images_kept_elsewhere_is_a_choice_among_them(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    line = {"source": "data/masks/s0.png", "target": "data/images/s0.png", "prompt": "x"}
    (tmp_path / "split" / "prompt.json").write_text(json.dumps(line))
    assert found(tmp_path / "split") == ({"s0": "x"}, [])


def test_files_that_a_list_takes_from_elsewhere_are_told_if_others_lie_beside_it(dataset: Path) -> None:
    lines = [{"source": f"masks/{stem}.png", "target": f"images/{stem}.png", "prompt": "x"} for stem in STEMS]
    part = dataset / "part"
    for stem in STEMS[:2]:
        write(part / "images" / f"{stem}.png")
        write(part / "masks" / f"{stem}.png")
    (part / "prompt.json").write_text("\n".join(map(json.dumps, lines)))
    pairs, told = found(part)
    assert len(pairs) == 6
    assert told[0] == (
        f"8 of the 12 files that '{part / 'prompt.json'}' names are not in its folder, such as "
        f"'{dataset / 'images/s2.png'}'; remove their entries if they are not meant"
    )


def test_folders_of_images_beside_those_that_are_read_are_named(dataset: Path) -> None:
    write(dataset / "test" / "images" / "t0.png")
    write(dataset / "test" / "masks" / "t0.png")
    (dataset / "notes").mkdir()
    assert found(dataset)[1] == [f"{dataset}: the images in its other folders are not used (test)"]


@pytest.mark.parametrize("form", ["imagefolder", "coco"])
def test_our_own_exports_keep_their_prompts(dataset: Path, tmp_path: Path, form: str) -> None:
    prompts = {stem: f"polyp Größe {stem}" for stem in STEMS}
    lines = [
        {"source": f"masks/{stem}.png", "target": f"images/{stem}.png", "prompt": prompt}
        for stem, prompt in prompts.items()
    ]
    (dataset / "prompt.json").write_text("\n".join(map(json.dumps, lines)))
    export_pairs(find_source(dataset), FORMATS[form], tmp_path / "out")
    assert found(tmp_path / "out")[0] == prompts
    if form == "coco":  # as older readers open it: in an encoding of their own, asking for "info"
        annotations = json.loads((tmp_path / "out" / "annotations.json").read_bytes().decode("ascii"))
        assert annotations.keys() == {"info", "licenses", "categories", "images", "annotations"}
    (tmp_path / "out" / "manifest.jsonl").unlink()
    name = {"imagefolder": "metadata.jsonl", "coco": "annotations.json"}[form]
    assert found(tmp_path / "out") == (
        prompts,
        [f"{tmp_path / 'out'}: the prompts of 6 of 6 pairs come from {name}"],
    )


def write_lines(path: Path, key: str) -> None:
    path.write_text("\n".join(json.dumps({"file_name": f"{stem}.png", key: f"a {stem}"}) for stem in STEMS))


LISTS: dict[str, Callable[[Path], object]] = {
    "metadata.jsonl of the dataset": lambda data: write_lines(data / "metadata.jsonl", "prompt"),
    "metadata.jsonl beside the images": lambda data: write_lines(data / "images" / "metadata.jsonl", "text"),
    "metadata.csv": lambda data: (data / "metadata.csv").write_text(
        "\r\n".join(["file_name,text", *(f"images/{stem}.png,a {stem}" for stem in STEMS)]), "utf-8-sig"
    ),
    "metadata.csv of a spreadsheet": lambda data: (data / "metadata.csv").write_text(
        "\r\n".join(["file_name;text", *(f"images/{stem}.png;a {stem}" for stem in STEMS)]), "utf-8-sig"
    ),
    "annotations.json": lambda data: (data / "annotations.json").write_text(
        json.dumps({"images": [{"file_name": f"{stem}.png", "caption": f"a {stem}"} for stem in STEMS]})
    ),
    "annotations.json with captions": lambda data: (data / "annotations.json").write_text(
        json.dumps(
            {
                "images": [
                    *({"id": 7 + k, "file_name": f"{stem}.png"} for k, stem in enumerate(STEMS)),
                    {"file_name": "s0.png"},
                ],
                "annotations": [
                    {"caption": "of no image"},
                    *(
                        {"image_id": 7 + k, "caption": text}
                        for k, stem in enumerate(STEMS)
                        for text in (f"a {stem}", "another caption")
                    ),
                ],
            }
        )
    ),
    "manifest.jsonl": lambda data: (data / "manifest.jsonl").write_text(
        "\n".join(json.dumps({"stem": stem, "prompt": f"a {stem}"}) for stem in STEMS)
    ),
    "text files": lambda data: [
        (data / "images" / f"{stem}.txt").write_bytes(f"a\n {stem}\n".encode("utf-16")) for stem in STEMS
    ],
}


@pytest.mark.parametrize("place", LISTS)
def test_prompts_are_found_where_they_lie(dataset: Path, place: str) -> None:
    LISTS[place](dataset)
    pairs, told = found(dataset)
    assert pairs == {stem: f"a {stem}" for stem in STEMS}
    assert len(told) == 1
    assert "the prompts of 6 of 6 pairs come from" in told[0]


def test_pairs_for_which_no_list_has_a_prompt_get_the_default(dataset: Path) -> None:
    (dataset / "images" / "s1.txt").write_text("a flat polyp")
    prompts = {pair.stem: pair.prompt for pair in find_pairs(dataset, default_prompt="a polyp")}
    assert prompts == {**dict.fromkeys(STEMS, "a polyp"), "s1": "a flat polyp"}


@pytest.mark.parametrize("boxes", ["0 0.5 0.5 0.1 0.2", "0.0e+00 5.0e-01 5.0e-01 1.0e-01 nan"])
def test_boxes_in_text_files_are_no_prompts(dataset: Path, boxes: str) -> None:
    for stem in STEMS:
        (dataset / "images" / f"{stem}.txt").write_text(f"{boxes}\n")
    assert found(dataset) == (dict.fromkeys(STEMS, ""), [])


def test_a_damaged_list_of_prompts_is_named_with_its_line(dataset: Path) -> None:
    (dataset / "metadata.jsonl").write_text('{"file_name": "s0.png", "prompt": "x"}\n{"file_na')
    with pytest.raises(CaptionError, match=r"Line 2 of '.*metadata\.jsonl'"):
        found(dataset)


def test_names_that_differ_in_the_encoding_of_their_accents_match(tmp_path: Path) -> None:
    name = "Müller é"
    composed, apart = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert composed != apart
    write(tmp_path / "images" / f"{apart}.png")
    write(tmp_path / "masks" / f"{composed}_mask.png")
    (pair,) = find_pairs(tmp_path, default_prompt="")
    assert (pair.image.stem, pair.mask.stem) == (apart, f"{composed}_mask")
    line = {"source": f"masks/{apart}_mask.png", "target": f"images/{composed}.png", "prompt": "x"}
    (tmp_path / "prompt.json").write_text(json.dumps(line))
    (listed,) = find_pairs(tmp_path)
    assert (listed.image, listed.mask) == (pair.image, pair.mask)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.gif"], "1 GIF file (a.gif): save as PNG"),
        (["a.nii.gz", "b.nii.gz"], "2 NIfTI files (a.nii.gz, b.nii.gz): export the slices as PNG"),
        (["a.dcm"], "1 DICOM file (a.dcm): export as PNG"),
        (["adenoma/a.png"], "1 folder (adenoma): move the files out of there"),
        ([], "is empty; put .png, .jpg"),
    ],
)
def test_a_folder_without_images_is_described_by_what_it_holds(
    tmp_path: Path, names: list[str], message: str
) -> None:
    folders = [tmp_path / "images", tmp_path / "masks"]
    for folder in folders:
        folder.mkdir()
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
    with pytest.raises(PairError) as refusal:
        pairs_of_folders(*folders, None)
    assert message in str(refusal.value)
    if names:
        with pytest.raises(MaskError) as refused_masks:
            discover_masks(folders[1])
        assert message in str(refused_masks.value)


def test_an_archive_or_an_image_given_for_a_dataset_is_called_that(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "Kvasir-SEG.zip", "w") as archive:
        archive.writestr("images/a.png", b"x")
    with pytest.raises(PairError, match=r"Kvasir-SEG\.zip' is an archive file; unpack, and give the folder"):
        find_pairs(tmp_path / "Kvasir-SEG.zip")
    with pytest.raises(PairError, match=r"a\.png' is an image; give the folder"):
        find_pairs(write(tmp_path / "a.png"))


def test_a_folder_around_datasets_names_them(dataset: Path) -> None:
    with pytest.raises(PairError, match=r"data in it does; give that"):
        find_pairs(dataset.parent)
