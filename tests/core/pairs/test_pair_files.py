"""Finding, checking and loading image/mask pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_core.pairs import (
    LoadedPair,
    Pair,
    PairError,
    check_pairs,
    find_pairs,
    load_pair,
    pairs_fingerprint,
    read_image,
)

SHAPE = (10, 12)
FOREGROUND = np.zeros(SHAPE, bool)
FOREGROUND[2:5, 3:9] = True


def save(path: Path, values: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def save_image(path: Path, shape: tuple[int, int] = SHAPE) -> Path:
    return save(path, np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))


def save_mask(path: Path, mask: np.ndarray = FOREGROUND, value: int = 255) -> Path:
    return save(path, mask.astype(np.uint8) * np.uint8(value))


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


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    image, mask = save_image(tmp_path / "images" / "a.png"), save_mask(tmp_path / "masks" / "a.png")
    return Pair("a", image, mask, "polyp")


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


def test_an_entry_without_a_prompt_takes_the_default(tmp_path: Path) -> None:
    save_folders(tmp_path, ["a.png"], ["a.png"])
    (tmp_path / "prompt.json").write_text(json_lines({"source": "masks/a.png", "target": "images/a.png"}))
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


def test_a_colour_image_is_read_as_stored(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    image = read_image(save(tmp_path / "a.png", values))
    assert np.array_equal(image, values)
    assert image.dtype == np.uint8


def test_a_grey_image_fills_three_channels(tmp_path: Path) -> None:
    values = np.arange(120, dtype=np.uint8).reshape(SHAPE)
    assert np.array_equal(read_image(save(tmp_path / "a.png", values)), np.stack([values] * 3, axis=-1))


@pytest.mark.parametrize(
    ("stored", "read"), [([0, 257, 32768, 65535], [0, 1, 128, 255]), ([0, 9, 255], [0, 9, 255])]
)
def test_sixteen_bit_grey_is_scaled_to_eight_bits_unless_it_fits(
    tmp_path: Path, stored: list[int], read: list[int]
) -> None:
    values = np.resize(np.array(stored, np.uint16), SHAPE)
    image = read_image(save(tmp_path / "a.png", values))
    assert np.array_equal(image[..., 0], np.resize(np.array(read, np.uint8), SHAPE))


def test_transparency_is_composited_on_black(tmp_path: Path) -> None:
    values = np.full((*SHAPE, 4), 200, np.uint8)
    values[0, :, 3] = 0
    values[1, :, 3] = 255
    image = read_image(save(tmp_path / "a.png", values))
    assert image.shape == (*SHAPE, 3)
    assert (image[0] == 0).all()
    assert (image[1] == 200).all()


def test_a_transparent_palette_colour_is_black(tmp_path: Path) -> None:
    palette_image = Image.new("P", (12, 10), 1)
    palette_image.putpalette([10, 20, 30, 200, 100, 50])
    palette_image.putpixel((0, 0), 0)
    palette_image.save(tmp_path / "a.png", transparency=0)
    image = read_image(tmp_path / "a.png")
    assert image[0, 0].tolist() == [0, 0, 0]
    assert image[1, 1].tolist() == [200, 100, 50]


def test_the_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (12, 10))
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (10, 12, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros((4, 20), np.uint8),
            "The image '.*a.tif' is 20 x 4 pixels; each side must be between 8 and",
        ),
        (np.zeros(SHAPE, np.float32), "The image '.*a.tif' holds 32-bit floating-point values; save it as"),
    ],
)
def test_images_obey_the_limits_of_masks(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with pytest.raises(PairError, match=message):
        read_image(save(tmp_path / "a.tif", values))


def test_an_unreadable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(
        PairError, match=r"The image '.*a.png' is not an image that can be read; save it as PNG"
    ):
        read_image(tmp_path / "a.png")


# Loading


def test_a_pair_loads_at_its_own_size(pair: Pair) -> None:
    loaded = load_pair(pair, size=None)
    assert isinstance(loaded, LoadedPair)
    assert np.array_equal(loaded.image, read_image(pair.image))
    assert np.array_equal(loaded.mask, FOREGROUND)
    assert loaded.note is None


def test_a_pair_is_resized_alike(pair: Pair) -> None:
    save(pair.image, np.repeat(FOREGROUND[..., None].astype(np.uint8) * np.uint8(255), 3, axis=-1))
    for mode, foreground in (("stretch", 18 / 120), ("crop", 18 / 100), ("pad", 18 / 144)):
        loaded = load_pair(pair, size=(60, 60), mode=mode)  # type: ignore[arg-type]
        assert loaded.image.shape == (60, 60, 3)
        assert loaded.mask[loaded.image[..., 0] == 255].all()
        assert not loaded.mask[loaded.image[..., 0] == 0].any()
        assert loaded.mask.mean() == pytest.approx(foreground, abs=0.01)


def test_threshold_label_and_note_pass_through(pair: Pair) -> None:
    save_mask(pair.mask, value=100)
    assert not load_pair(pair, size=None).mask.any()
    assert np.array_equal(load_pair(pair, size=None, threshold=50).mask, FOREGROUND)
    assert np.array_equal(load_pair(pair, size=None, label=100).mask, FOREGROUND)
    save_mask(pair.mask, value=1)
    assert load_pair(pair, size=None).note == "it holds only 0 and 1 and was read as black and white"


def test_a_pair_of_different_sizes_is_refused(pair: Pair) -> None:
    save_mask(pair.mask, np.ones((8, 9), bool))
    with pytest.raises(PairError) as caught:
        load_pair(pair, size=(64, 64))
    assert str(caught.value) == (
        f"The image '{pair.image}' is 12 x 10 pixels but its mask '{pair.mask}' is 9 x 8; "
        "export them in the same size."
    )


def test_a_mask_that_cannot_be_read_is_a_pair_error(pair: Pair) -> None:
    pair.mask.write_bytes(b"nothing")
    with pytest.raises(PairError, match=r"The mask '.*a.png' is not an image"):
        load_pair(pair, size=None)


# Checking


def make_pairs(root: Path, *masks: np.ndarray, value: int = 255) -> list[Pair]:
    return [
        Pair(
            f"p{index}",
            save_image(root / "images" / f"p{index}.png"),
            save_mask(root / "masks" / f"p{index}.png", mask, value),
            None,
        )
        for index, mask in enumerate(masks)
    ]


def test_sound_pairs_give_no_notes(tmp_path: Path) -> None:
    assert check_pairs(make_pairs(tmp_path, FOREGROUND, FOREGROUND)) == []


def test_equal_notes_are_counted_and_name_the_first_mask(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, FOREGROUND, FOREGROUND, FOREGROUND, value=1)
    save_mask(pairs[0].mask)
    assert check_pairs(pairs) == [
        "2 masks: it holds only 0 and 1 and was read as black and white (first: p1.png)"
    ]


def test_some_empty_masks_are_a_note(tmp_path: Path) -> None:
    empty = np.zeros(SHAPE, bool)
    assert check_pairs(make_pairs(tmp_path, FOREGROUND, empty)) == [
        "1 mask without any foreground (first: p1.png)"
    ]


@pytest.mark.parametrize(
    ("label", "reason"), [(None, "no value exceeds 127"), (3, "no value is the label 3")]
)
def test_only_empty_masks_are_refused(tmp_path: Path, label: int | None, reason: str) -> None:
    pairs = make_pairs(tmp_path, FOREGROUND, FOREGROUND, value=100)
    with pytest.raises(PairError) as caught:
        check_pairs(pairs, label=label)
    assert str(caught.value) == (
        f"All masks are empty (2 masks, first: '{pairs[0].mask}'): {reason}; lower the threshold, or pick "
        "the label that is foreground with --mask-label."
    )


def test_the_first_pair_of_different_sizes_stops_the_check(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, FOREGROUND, np.ones((8, 9), bool), np.ones((9, 9), bool))
    with pytest.raises(PairError, match=r"p1.png' is 12 x 10 pixels but its mask '.*p1.png' is 9 x 8"):
        check_pairs(pairs)


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_an_unreadable_file_stops_the_check(tmp_path: Path, kind: str) -> None:
    pairs = make_pairs(tmp_path, FOREGROUND, FOREGROUND)
    getattr(pairs[1], kind).write_bytes(b"nothing")
    with pytest.raises(PairError, match=rf"The {kind} '.*p1.png' is not an image that can be read"):
        check_pairs(pairs)


# Fingerprint


def test_the_fingerprint_depends_on_stems_and_contents_only(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "here", FOREGROUND, ~FOREGROUND)
    moved = make_pairs(tmp_path / "there", FOREGROUND, ~FOREGROUND)
    fingerprint = pairs_fingerprint(pairs)
    assert len(fingerprint) == 64
    assert pairs_fingerprint(moved[::-1]) == fingerprint

    renamed = [Pair("other", pairs[0].image, pairs[0].mask, None), pairs[1]]
    swapped = [
        Pair("p0", pairs[0].image, pairs[1].mask, None),
        Pair("p1", pairs[1].image, pairs[0].mask, None),
    ]
    save_mask(moved[1].mask, FOREGROUND, value=254)
    fingerprints = {pairs_fingerprint(other) for other in (renamed, swapped, moved, pairs[:1])}
    assert len(fingerprints | {fingerprint}) == 5
