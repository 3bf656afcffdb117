"""Finding, checking and loading image/mask pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from siamese_core.pairs.pair_files import (
    Pair,
    PairError,
    find_pairs,
    images_without_masks,
)
from tests.support.datasets.pair_files import save_image, save_mask


def save_folders(root: Path, images: list[str], masks: list[str]) -> Path:
    for name in images:
        save_image(root / "images" / name)
    for name in masks:
        save_mask(root / "masks" / name)
    return root


def entry(stem: str = "a", **changes: Any) -> dict[str, Any]:
    return {
        "source": f"masks/{stem}.png",
        "target": f"images/{stem}.png",
        "prompt": f"polyp {stem}",
        **changes,
    }


def json_lines(*entries: Any) -> str:
    return "".join(json.dumps(item) + "\n" for item in entries)


# Folders


def test_pairs_of_folders_match_by_stem_in_natural_order(tmp_path: Path) -> None:
    save_folders(tmp_path, ["img10.jpg", "img2.png"], ["img2.png", "img10.png"])
    assert find_pairs(tmp_path, default_prompt="a polyp") == [
        Pair("img2", tmp_path / "images" / "img2.png", tmp_path / "masks" / "img2.png", "a polyp"),
        Pair("img10", tmp_path / "images" / "img10.jpg", tmp_path / "masks" / "img10.png", "a polyp"),
    ]


def test_singular_folder_names_are_found_too(tmp_path: Path) -> None:
    save_image(tmp_path / "image" / "a.png")
    save_mask(tmp_path / "mask" / "a.png")
    assert find_pairs(tmp_path) == [
        Pair("a", tmp_path / "image" / "a.png", tmp_path / "mask" / "a.png", None)
    ]


@pytest.mark.parametrize("suffix", ["_mask", "_segmentation", "_Segmentation"])
def test_a_suffix_of_the_mask_is_left_out_of_the_match(tmp_path: Path, suffix: str) -> None:
    save_folders(tmp_path, ["ISIC_1.jpg"], [f"ISIC_1{suffix}.png"])
    (found,) = find_pairs(tmp_path)
    assert (found.stem, found.mask.name) == ("ISIC_1", f"ISIC_1{suffix}.png")


def test_an_image_whose_own_name_ends_in_a_mask_suffix_is_matched_exactly(tmp_path: Path) -> None:
    save_folders(tmp_path, ["a.png", "a_mask.png"], ["a.png", "a_mask.png"])
    assert [(pair.image.name, pair.mask.name) for pair in find_pairs(tmp_path)] == [
        ("a.png", "a.png"),
        ("a_mask.png", "a_mask.png"),
    ]


def test_unmatched_files_of_both_sides_are_named_and_counted(tmp_path: Path) -> None:
    images = [f"i{number}.png" for number in range(1, 8)]
    save_folders(tmp_path, ["both.png", *images], ["both.png", "extra.png"])
    with pytest.raises(PairError) as caught:
        find_pairs(tmp_path)
    assert str(caught.value) == (
        f"The folders '{tmp_path / 'images'}' and '{tmp_path / 'masks'}' do not match: 7 images without a "
        "mask (i1, i2, i3, i4, i5 and 2 more) and 1 mask without an image (extra); give both files of a pair "
        "the same name, or remove the odd ones."
    )


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (["a.png", "a.jpg"], ["a.png"], r"'a.jpg' and 'a.png' in '.*images' both stand for 'a'; rename or"),
        (["a.png"], ["a.png", "a_mask.png"], r"'a.png' and 'a_mask.png' in '.*masks' both stand for 'a'"),
    ],
)
def test_two_files_for_one_stem_are_refused(
    tmp_path: Path, images: list[str], masks: list[str], message: str
) -> None:
    save_folders(tmp_path, images, masks)
    with pytest.raises(PairError, match=message):
        find_pairs(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    save_folders(tmp_path, ["a.png"], [])
    (tmp_path / "masks").mkdir()
    with pytest.raises(PairError, match=r"The folder '.*masks' is empty; put .png, .jpg"):
        find_pairs(tmp_path)


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"The folder or prompt file '.*gone' does not exist; check the path"):
        find_pairs(tmp_path / "gone")


def test_a_folder_of_neither_layout_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(PairError) as caught:
        find_pairs(tmp_path)
    for looked_for in (str(tmp_path), "prompt.json", "'images' and 'masks'", "'image' and 'mask'"):
        assert looked_for in str(caught.value)


# Prompt files


@pytest.mark.parametrize("text", [
    json_lines(entry("b"), entry("a")),
    json_lines(entry("b"), entry("a")).replace("\n", "\r\n\r\n"),
    json.dumps([entry("b"), entry("a")]),
    "\n" + json.dumps([entry("b"), entry("a")], indent=2),
    "\ufeff" + json_lines(entry("b"), entry("a")),
])  # fmt: skip
def test_a_prompt_file_is_json_lines_or_an_array_in_its_own_order(tmp_path: Path, text: str) -> None:
    save_folders(tmp_path, ["a.png", "b.png"], ["a.png", "b.png"])
    (tmp_path / "prompt.json").write_text(text, encoding="utf-8")
    expected = [
        Pair(stem, tmp_path / "images" / f"{stem}.png", tmp_path / "masks" / f"{stem}.png", f"polyp {stem}")
        for stem in "ba"
    ]
    assert find_pairs(tmp_path) == expected
    assert find_pairs(tmp_path / "prompt.json") == expected


def test_the_prompt_file_takes_precedence_over_the_folders(tmp_path: Path) -> None:
    save_folders(tmp_path, ["a.png", "b.png"], ["a.png"])
    (tmp_path / "prompt.json").write_text(json_lines(entry("a")))
    assert [pair.prompt for pair in find_pairs(tmp_path, default_prompt="unused")] == ["polyp a"]


def test_prompts_keep_letters_and_separators_of_unicode(tmp_path: Path) -> None:
    save_folders(tmp_path, ["a.png"], ["a.png"])
    text = json.dumps(entry(prompt="Größe\u2028息肉"), ensure_ascii=False)
    (tmp_path / "prompt.json").write_text(text, encoding="utf-8")
    assert find_pairs(tmp_path)[0].prompt == "Größe\u2028息肉"


@pytest.mark.parametrize("prompt", [{}, {"prompt": ""}], ids=["none", "an empty one"])
def test_an_entry_without_a_prompt_takes_the_default(tmp_path: Path, prompt: dict[str, str]) -> None:
    save_folders(tmp_path, ["a.png"], ["a.png"])
    entry_of_a = {"source": "masks/a.png", "target": "images/a.png"}
    (tmp_path / "prompt.json").write_text(json_lines({**entry_of_a, **prompt}))
    assert find_pairs(tmp_path, default_prompt="a polyp")[0].prompt == "a polyp"


def test_windows_paths_are_understood(tmp_path: Path) -> None:
    save_folders(tmp_path, ["a.png"], ["a.png"])
    changes = {"source": "masks\\a.png", "target": ".\\images\\a.png"}
    (tmp_path / "prompt.json").write_text(json_lines(entry(**changes)))
    assert find_pairs(tmp_path)[0].mask == tmp_path / "masks" / "a.png"


def test_absolute_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    image, mask = save_image(tmp_path / "x" / "a.png"), save_mask(tmp_path / "y" / "b.png")
    (tmp_path / "list.json").write_text(json_lines(entry(source=str(mask), target=str(image))))
    assert find_pairs(tmp_path / "list.json") == [Pair("a", image, mask, "polyp a")]


def test_relative_paths_are_tried_beside_the_file_then_its_parent_then_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, parent, working = tmp_path / "parent" / "own", tmp_path / "parent", tmp_path / "working"
    save_folders(working, ["a.png"], ["a.png"])
    monkeypatch.chdir(working)
    own.mkdir(parents=True)
    (own / "prompt.json").write_text(json_lines(entry()))
    for root in (working, parent, own):
        save_folders(root, ["a.png"], ["a.png"])
        (found,) = find_pairs(own / "prompt.json")
        assert found.image.samefile(root / "images" / "a.png")
        assert found.mask.samefile(root / "masks" / "a.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json_lines(entry()) + "\n{'source'}\n", r"Line 3 of '.*prompt.json' is not valid JSON \(Expecting"),
        ('[\n{"source": "a"},\n oops\n]', r"Line 3 of '.*prompt.json' is not valid JSON"),
        (json_lines(entry(), ["masks/a.png"]), r"Line 2 of '.*' holds no JSON object; write {\"source"),
        ('[\n\n7]', r"Line 3 of '.*prompt.json' holds no JSON object"),
        (json_lines({"target": "images/a.png", "prompt": "x"}), r"Line 1 of .* lacks the key 'source'"),
        (json_lines({"source": "masks/a.png", "prompt": "x"}), r"Line 1 of .* lacks the key 'target'"),
        (json_lines({"source": "masks/a.png", "target": "images/a.png"}), r"lacks the key 'prompt'; add it"),
        (json_lines(entry(source=3)), r"Line 1 of .* has a 'source' that is no text; put it in quotes"),
        (
            json.dumps([entry(), entry("gone")], indent=1),
            r"Line 7 of .* names the target 'images/gone.png', which does not exist .*; correct the path",
        ),
        (json_lines(entry(source="masks/gone.png")), r"Line 1 of .* names the source 'masks/gone.png'"),
        (json_lines(entry(), entry()), r"Lines 1 and 2 of '.*' both name an image called 'a'; give every"),
        ("\n", r"The prompt file '.*prompt.json' is empty; add one entry per pair"),
        ("[]", r"The prompt file '.*prompt.json' is empty"),
    ],
)  # fmt: skip
def test_faults_of_a_prompt_file_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    save_folders(tmp_path, ["a.png"], ["a.png"])
    (tmp_path / "prompt.json").write_text(text)
    with pytest.raises(PairError, match=message):
        find_pairs(tmp_path)


def test_a_prompt_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompt.json").write_bytes('{"prompt": "Größe"}'.encode("latin-1"))
    with pytest.raises(
        PairError, match=r"The prompt file '.*prompt.json' is not UTF-8 text; save it as UTF-8"
    ):
        find_pairs(tmp_path)


# Images


def test_masks_among_images_are_told_by_their_names(tmp_path: Path) -> None:
    names = ["a (1).png", "a (1)_mask.png", "a (1)_mask_1.png", "b.jpg", "b_superpixels.png", "c_mask.png"]
    notes: list[str] = []
    for name in names:
        (tmp_path / name).touch()
    kept = images_without_masks(tmp_path, notes.append)
    assert [path.name for path in kept] == ["a (1).png", "b.jpg", "c_mask.png"]
    assert len(notes) == 1
    assert "3 files named as the mask of another, such as 'a (1)_mask.png' beside 'a (1).png'" in notes[0]
