"""Pairs read from their files, resized alike, and checked before a long run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.pairs.image_files import read_image
from siamese_core.pairs.pair import PairError
from siamese_core.pairs.pair_checks import check_pairs
from siamese_core.pairs.pair_files import LoadedPair, Pair, load_pair, pairs_fingerprint
from tests.support.datasets.pair_files import FOREGROUND, SHAPE, save, save_image, save_mask


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    image, mask = save_image(tmp_path / "images" / "a.png"), save_mask(tmp_path / "masks" / "a.png")
    return Pair("a", image, mask, "polyp")


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


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_is_turned_upright_by_its_exif_orientation(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.zeros((10, 12), np.uint8)
    values[0] = 255  # the row that is the right column of the upright image
    Image.fromarray(values).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.shape == (12, 10, 3)
    assert (image[:, -1] > 200).all()
    assert (image[:, :-2] < 50).all()


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
    assert np.array_equal(load_pair(pair, size=None, rule=ForegroundRule(threshold=50)).mask, FOREGROUND)
    assert np.array_equal(load_pair(pair, size=None, rule=ForegroundRule(label=100)).mask, FOREGROUND)
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
    assert check_pairs(make_pairs(tmp_path, FOREGROUND, FOREGROUND)).notes == []


def test_equal_notes_are_counted_and_name_the_first_mask(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, FOREGROUND, FOREGROUND, FOREGROUND, value=1)
    save_mask(pairs[0].mask)
    assert check_pairs(pairs).notes == [
        "2 of 3 masks: it holds only 0 and 1 and was read as black and white (first: p1.png)"
    ]


def test_some_empty_masks_are_a_note(tmp_path: Path) -> None:
    empty = np.zeros(SHAPE, bool)
    assert check_pairs(make_pairs(tmp_path, FOREGROUND, empty)).notes == [
        "1 of 2 masks without any foreground (first: p1.png)"
    ]


@pytest.mark.parametrize(
    ("label", "reason"), [(None, "no value exceeds 127"), (3, "no value is the label 3")]
)
def test_only_empty_masks_are_refused(tmp_path: Path, label: int | None, reason: str) -> None:
    pairs = make_pairs(tmp_path, FOREGROUND, FOREGROUND, value=100)
    with pytest.raises(PairError) as caught:
        check_pairs(pairs, ForegroundRule(label=label))
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
