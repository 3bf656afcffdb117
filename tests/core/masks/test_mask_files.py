"""What counts as foreground in every kind of mask file, and how masks and images change size together."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.masks.image_decoding import MaskError
from siamese_core.masks.mask_files import discover_masks, read_mask
from tests.support.datasets.half_masks import LEFT, SHAPE


def columns(*values: Any, dtype: Any = np.uint8) -> np.ndarray:
    """A 10-row array with two columns for each of the ``values``; at least 8 pixels wide."""
    row = np.repeat(np.array(values, dtype=dtype), 2, axis=0)
    row = np.concatenate([row, np.zeros((max(0, 8 - len(row)), *row.shape[1:]), dtype)])
    return np.repeat(row[None], 10, axis=0)


def save(path: Path, values: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def save_palette(path: Path, indices: np.ndarray, colours: list[int]) -> Path:
    image = Image.new("P", indices.shape[::-1])
    image.putdata(indices.ravel().tolist())
    image.putpalette(colours)
    image.save(path)
    return path


def foreground_columns(mask: np.ndarray) -> list[bool]:
    """Whether each two-column stripe is foreground; every stripe must be uniform."""
    stripes = mask.reshape(10, -1, 2)
    assert (stripes == stripes[:1, :, :1]).all()
    return stripes[0, :, 0].tolist()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares its dimensions and then ends: nothing of it can be decoded."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = (
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# Reading by threshold


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "jpg"])
def test_a_black_and_white_mask_reads_without_a_note(tmp_path: Path, suffix: str) -> None:
    reading = read_mask(save(tmp_path / f"a.{suffix}", LEFT.astype(np.uint8) * 255))
    # JPEG smears the edge by less than half of its height, so the threshold restores it.
    assert np.array_equal(reading.mask, LEFT)
    assert reading.mask.dtype == np.bool_
    assert reading.note is None


def test_the_threshold_is_strict(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", columns(0, 127, 128, 255))
    assert foreground_columns(read_mask(path).mask) == [False, False, True, True]
    assert foreground_columns(read_mask(path, ForegroundRule(threshold=128)).mask) == [
        False,
        False,
        False,
        True,
    ]


def test_a_one_bit_mask_is_foreground_where_white(tmp_path: Path) -> None:
    reading = read_mask(save(tmp_path / "a.png", LEFT))
    assert np.array_equal(reading.mask, LEFT)
    assert reading.note is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mask_of_zeros_and_ones_is_read_as_black_and_white(tmp_path: Path, channels: int) -> None:
    values = LEFT.astype(np.uint8)
    reading = read_mask(
        save(tmp_path / "a.png", values if channels == 1 else np.stack([values] * 3, axis=-1))
    )
    assert np.array_equal(reading.mask, LEFT)
    assert reading.note == "it holds only 0 and 1 and was read as black and white"


def test_an_empty_mask_reads_as_empty_without_a_note(tmp_path: Path) -> None:
    reading = read_mask(save(tmp_path / "a.png", np.zeros(SHAPE, np.uint8)))
    assert not reading.mask.any()
    assert reading.note is None


def test_sixteen_bit_grey_is_scaled_before_the_threshold(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", columns(0, 32767, 32768, 65535, dtype=np.uint16))
    reading = read_mask(path)
    assert foreground_columns(reading.mask) == [False, False, True, True]
    assert reading.note is None


def test_thirty_two_bit_integers_are_read_like_sixteen_bit_ones(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", columns(0, 32767, 32768, 65535, dtype=np.int32))
    assert foreground_columns(read_mask(path).mask) == [False, False, True, True]


def test_eight_bit_values_in_a_sixteen_bit_file_keep_their_meaning(tmp_path: Path) -> None:
    reading = read_mask(save(tmp_path / "a.png", columns(0, 127, 128, 255, dtype=np.uint16)))
    assert foreground_columns(reading.mask) == [False, False, True, True]
    assert reading.note == "its 16-bit values fit 8 bits and were read as 8-bit values"


def test_zeros_and_ones_in_a_sixteen_bit_file_are_black_and_white(tmp_path: Path) -> None:
    reading = read_mask(save(tmp_path / "a.png", LEFT.astype(np.uint16)))
    assert np.array_equal(reading.mask, LEFT)
    assert reading.note == "it holds only 0 and 1 and was read as black and white"


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (128, 20, 20)])
def test_any_bright_channel_of_a_colour_mask_is_foreground(tmp_path: Path, colour: tuple[int, ...]) -> None:
    reading = read_mask(save(tmp_path / "a.png", LEFT[..., None] * np.array(colour, np.uint8)))
    assert np.array_equal(reading.mask, LEFT)


@pytest.mark.parametrize("grey", [True, False])
def test_transparency_is_ignored_and_mentioned_when_it_varies(tmp_path: Path, grey: bool) -> None:
    values = LEFT.astype(np.uint8) * 255
    alpha = np.full(SHAPE, 255, np.uint8)
    alpha[0] = 0
    colour = [values] if grey else [values] * 3
    varying = read_mask(save(tmp_path / "a.png", np.stack([*colour, alpha], axis=-1)))
    uniform = read_mask(save(tmp_path / "b.png", np.stack([*colour, np.zeros_like(alpha)], axis=-1)))
    assert np.array_equal(varying.mask, LEFT)
    assert np.array_equal(uniform.mask, LEFT)
    assert varying.note == "its transparency was ignored"
    assert uniform.note is None


def test_a_cmyk_mask_is_read_as_colour(tmp_path: Path) -> None:
    values = np.stack([LEFT.astype(np.uint8) * 255] * 3, axis=-1)
    assert np.array_equal(read_mask(save(tmp_path / "a.tif", values, mode="CMYK")).mask, LEFT)


def test_a_grey_mask_below_the_threshold_reads_as_empty_and_says_so(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", columns(0, 100))
    reading = read_mask(path)
    assert not reading.mask.any()
    assert reading.note == "no value in it exceeds the threshold 127, so it was read as empty"
    assert read_mask(path, ForegroundRule(threshold=50)).mask.any()


# Palettes and labels


@pytest.mark.parametrize(
    ("colours", "is_right"),
    [([0, 0, 0, 255, 255, 255], False), ([255, 255, 255, 0, 0, 0], True), ([9, 9, 9, 128, 0, 0], False)],
)
def test_a_palette_mask_of_two_indices_is_read_as_its_colours_show_it(
    tmp_path: Path, colours: list[int], is_right: bool
) -> None:
    reading = read_mask(save_palette(tmp_path / "a.png", LEFT.astype(int), colours))
    assert np.array_equal(reading.mask, ~LEFT if is_right else LEFT)
    assert reading.note is None
    assert (reading.changed is not None) == is_right


def test_a_palette_mask_of_indices_0_and_255_is_black_and_white(tmp_path: Path) -> None:
    path = save_palette(tmp_path / "a.png", LEFT.astype(int) * 255, list(range(256)) * 3)
    assert np.array_equal(read_mask(path).mask, LEFT)


@pytest.mark.parametrize("values", [(0, 1, 2, 3), (0, 2), (0, 5, 63), (0, 1, 255), (0, 1, 2, 255)])
@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_a_label_map_is_refused_with_its_values(tmp_path: Path, values: tuple[int, ...], kind: str) -> None:
    path = tmp_path / "classes.png"
    indices = columns(*values)
    save(path, indices) if kind == "grey" else save_palette(path, indices, list(range(256)) * 3)
    with pytest.raises(MaskError) as caught:
        read_mask(path)
    message = str(caught.value)
    assert str(path) in message
    assert f"values {', '.join(map(str, values))})" in message
    assert "--mask-label" in message


def test_a_palette_of_many_classes_is_refused_with_the_first_values(tmp_path: Path) -> None:
    path = save_palette(tmp_path / "a.png", columns(*range(0, 150, 10)), list(range(256)) * 3)
    with pytest.raises(MaskError, match=r"values 0, 10, 20, 30, 40, 50, 60, 70, 80, 90 and 5 more\)"):
        read_mask(path)


@pytest.mark.parametrize("kind", ["grey", "colour", "palette", "16-bit"])
def test_a_label_picks_the_pixels_of_that_value(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "classes.png"
    values = columns(0, 1, 2, 3)
    if kind == "palette":
        save_palette(path, values, [7, 7, 7, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    elif kind == "colour":
        save(path, np.stack([values] * 3, axis=-1))
    else:
        save(path, values.astype(np.uint16) if kind == "16-bit" else values)
    reading = read_mask(path, ForegroundRule(label=2))
    assert foreground_columns(reading.mask) == [False, False, True, False]
    assert reading.note is None
    assert not read_mask(path, ForegroundRule(label=9)).mask.any()


def test_a_label_refers_to_unscaled_sixteen_bit_values(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", columns(0, 300, 65535, dtype=np.uint16))
    assert foreground_columns(read_mask(path, ForegroundRule(label=300)).mask) == [False, True, False, False]


def test_label_0_picks_the_background(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", LEFT.astype(np.uint8) * 255)
    assert np.array_equal(read_mask(path, ForegroundRule(label=0)).mask, ~LEFT)


def test_label_1_of_a_one_bit_mask_is_white(tmp_path: Path) -> None:
    assert np.array_equal(read_mask(save(tmp_path / "a.png", LEFT), ForegroundRule(label=1)).mask, LEFT)


def test_a_label_on_a_coloured_mask_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "red.png", LEFT[..., None] * np.array([255, 0, 0], np.uint8))
    with pytest.raises(MaskError, match=r"red.png' is a colour image, .* leave out the label"):
        read_mask(path, ForegroundRule(label=1))


@pytest.mark.parametrize("values", [(0, 1, 2, 3), (0, 1, 255)])
def test_threshold_0_takes_every_label_as_foreground(tmp_path: Path, values: tuple[int, ...]) -> None:
    path = save_palette(tmp_path / "a.png", columns(*values), list(range(256)) * 3)
    assert foreground_columns(read_mask(path, ForegroundRule(threshold=0)).mask)[: len(values)] == [False] + [
        True
    ] * (len(values) - 1)


def test_soft_edges_are_not_taken_for_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", columns(0, 1, 64, 128, 200, 254, 255))
    assert foreground_columns(read_mask(path).mask) == [False, False, False, True, True, True, True]


def test_the_noise_of_a_jpeg_is_not_taken_for_labels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 8, (32, 32), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", noise, quality=95)
    assert np.asarray(Image.open(path)).max() > 1
    assert not read_mask(path).mask.any()


# Refusals


def test_a_missing_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=r"The mask '.*gone.png' does not exist; check the path."):
        read_mask(tmp_path / "gone.png")


@pytest.mark.parametrize(
    "content", [b"", b"these are not the pixels you are looking for", b"\x89PNG\r\n\x1a\n"]
)
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.png"
    path.write_bytes(content)
    with pytest.raises(MaskError, match=r"note.png' (is not an image that can be read|cannot be read)"):
        read_mask(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_a_truncated_mask_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = save(tmp_path / f"half.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MaskError, match=r"The mask '.*half\.\w+' .*(export it again|save it) as PNG"):
        read_mask(path)


@pytest.mark.parametrize(
    ("width", "height"), [(7, 64), (64, 7), (16385, 8), (8, 16385)], ids=lambda side: str(side)
)
def test_absurd_sides_are_refused_from_the_header(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(MaskError) as caught:
        read_mask(path)
    assert str(caught.value) == (
        f"The mask '{path}' is {width} x {height} pixels; each side must be between 8 and 16384."
    )


def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(10_001, 10_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            MaskError, match=r"huge.png' is 10001 x 10000 pixels; shrink it to at most 100 million"
        ):
            read_mask(path)


def test_what_pillow_calls_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(16_000, 16_000))
    with pytest.raises(
        MaskError, match=r"bomb.png' is far too large; shrink it to at most 100 million pixels"
    ):
        read_mask(path)


def test_the_smallest_allowed_side_is_read(tmp_path: Path) -> None:
    assert read_mask(save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))).mask.shape == (8, 8)


def test_floating_point_values_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "soft.tif", LEFT.astype(np.float32))
    with pytest.raises(
        MaskError, match=r"soft.tif' holds 32-bit floating-point values; save it as 8-bit grey"
    ):
        read_mask(path)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_sixteen_bits_are_refused(tmp_path: Path, value: int) -> None:
    path = save(tmp_path / "deep.tif", columns(0, value, dtype=np.int32))
    with pytest.raises(MaskError, match=r"deep.tif' holds values outside 0..65535; save it as 8-bit grey"):
        read_mask(path)


# Resizing


# Finding mask files


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_masks_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
    names = ["m1.PNG", "m2.jpg", "m3.jpeg", "m4.Bmp", "m5.tif", "m10.TIFF"]
    touch(*(tmp_path / name for name in reversed(names)))
    touch(tmp_path / ".m0.png", tmp_path / "notes.txt", tmp_path / "folder.png" / "x.txt")
    assert [path.name for path in discover_masks(tmp_path)] == names


@pytest.mark.parametrize("name", ["masks", "mask"])
def test_a_mask_subfolder_is_preferred(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "thumbnail.png", tmp_path / name / "a.png")
    assert discover_masks(tmp_path) == [tmp_path / name / "a.png"]


def test_a_single_mask_file_is_itself(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    assert discover_masks(tmp_path / "a.png") == [tmp_path / "a.png"]


def test_a_single_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt")
    with pytest.raises(MaskError, match=r"a.txt' is no image file; use one of .png, .jpg"):
        discover_masks(tmp_path / "a.txt")


def test_a_missing_mask_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=r"mask file or folder '.*gone' does not exist; check the path"):
        discover_masks(tmp_path / "gone")


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "masks" / "notes.txt")
    with pytest.raises(MaskError, match=r"The folder '.*masks' holds no masks; put .png, .jpg"):
        discover_masks(tmp_path)


def test_two_masks_of_the_same_stem_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "a.jpg")
    with pytest.raises(MaskError, match=r"masks 'a.jpg' and 'a.png' in .* same name; rename or remove"):
        discover_masks(tmp_path)
