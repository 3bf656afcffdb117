"""A hundred drawn masks in every way of storing one: read right, with a note, or refused; never wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from siamese_core.masks.image_decoding import MaskError
from siamese_core.masks.mask_files import read_mask
from tests.support.datasets.mask_encodings import (
    BLACK,
    BLUE,
    DARK_RED,
    RED,
    SHAPE,
    WHITE,
    Mask,
    Write,
    classes,
    coloured,
    drawn,
    grey,
    grey_of,
    one_bit,
    opaque,
    pages,
    palette,
    photo,
    png_of_16_bits,
    png_of_bits,
    rim,
    scaled,
    soft,
    tiff,
    turned,
    white_everywhere,
    white_first_bmp,
    with_alpha,
)

MASKS, STEP = 100, 8  # each encoding takes every eighth mask, and the next one begins a mask further on


@dataclass(frozen=True)
class Encoding:
    """A way to store a mask, and what must become of it.

    ``outcome``: "right" is equal to what was drawn; "noted" the same with a note; "refused" a MaskError whose
    message contains ``says``; "told" another mask than drawn, with a note that contains ``says``. Classes
    fill areas in ``is_large`` masks of four times the side.
    """

    suffix: str
    write: Write
    outcome: str = "right"
    says: str = ""
    rule: ForegroundRule = PLAIN_MASKS
    is_large: bool = False


ALPHA = ForegroundRule(source="alpha")
UNDER_ALPHA = ForegroundRule(source="alpha", invert=True)
EVERY_LABEL = ForegroundRule(threshold=0)

ENCODINGS = {
    # Two levels, by format and depth
    "png 8 bit": Encoding(".png", grey(255)),
    "png 1 bit": Encoding(".png", one_bit),
    "png 2 bit": Encoding(".png", png_of_bits(2, 3)),
    "png 4 bit": Encoding(".png", png_of_bits(4, 15)),
    "png 16 bit": Encoding(".png", grey(65535, np.uint16)),
    "png 16 bit grey with alpha": Encoding(".png", png_of_16_bits(2, 65535)),
    "png 16 bit colour": Encoding(".png", png_of_16_bits(3, 65535)),
    "bmp 8 bit": Encoding(".bmp", grey(255)),
    "bmp 1 bit": Encoding(".bmp", one_bit),
    "bmp 24 bit": Encoding(".bmp", coloured(WHITE)),
    "tif 8 bit": Encoding(".tif", grey(255)),
    "tif lzw": Encoding(".tif", grey(255, compression="tiff_lzw")),
    "tif 1 bit": Encoding(".tif", one_bit),
    "tif group 4": Encoding(
        ".tif", lambda path, mask: Image.fromarray(mask).save(path, compression="group4")
    ),
    "tif 16 bit": Encoding(".tif", grey(65535, np.uint16)),
    "tif 32 bit": Encoding(".tif", grey(65535, np.int32)),
    "tif 32 bit float": Encoding(".tif", grey(1, np.float32), "refused", "floating-point"),
    "tif cmyk": Encoding(".tif", coloured(WHITE, mode="CMYK")),
    "tif ycbcr": Encoding(".tif", coloured(WHITE, mode="YCbCr")),
    "tif lab": Encoding(".tif", coloured(WHITE, mode="LAB")),
    "jpg": Encoding(".jpg", grey(255, quality=95)),
    "jpg of low quality": Encoding(".jpg", grey(255, quality=50), "nearly"),
    "jpg cmyk": Encoding(".jpg", coloured(WHITE, mode="CMYK", quality=95), "nearly"),
    # Values that are not black and white
    "0 and 1": Encoding(".png", grey(1), "noted", "only 0 and 1"),
    "0 and 1 of 2 bit": Encoding(".png", png_of_bits(2, 1), "noted", "only 0 and 1"),
    "0 and 1 of 4 bit": Encoding(".png", png_of_bits(4, 1), "noted", "only 0 and 1"),
    "0 and 1 of 16 bit": Encoding(".png", grey(1, np.uint16), "noted", "only 0 and 1"),
    "0 and 2": Encoding(".png", grey(2), "refused", "values 0, 2)"),
    "0 and 2 of 4 bit": Encoding(".png", png_of_bits(4, 2), "refused", "values 0, 2)"),
    "0 and 100": Encoding(".png", grey(100), "told", "no value in it exceeds the threshold 127"),
    "0 and 200": Encoding(".png", grey(200)),
    "0 and 255 of 16 bit": Encoding(".png", grey(255, np.uint16), "noted", "fit 8 bits"),
    "0 and 1023": Encoding(".png", grey(1023, np.uint16), "noted", "needs 10 bits"),
    "0 and 4095": Encoding(".png", grey(4095, np.uint16), "noted", "needs 12 bits"),
    "0 and 4095 of tif": Encoding(".tif", grey(4095, np.uint16), "noted", "needs 12 bits"),
    "0 and 1 of 16 bit colour": Encoding(".png", png_of_16_bits(3, 1), "refused", "16 bits per channel"),
    "0 and 4095 of 16 bit colour": Encoding(
        ".png", png_of_16_bits(3, 4095), "refused", "16 bits per channel"
    ),
    "128 and 255": Encoding(".png", grey(255, black=128), "refused", "brighter than the threshold"),
    "soft edges": Encoding(".png", grey_of(soft)),
    "soft edges of 16 bit": Encoding(".png", grey_of(lambda mask: scaled(soft(mask), 257))),
    # Polarity
    "tif white is 0, 1 bit": Encoding(".tif", tiff(lambda mask: np.packbits(~mask, axis=1), 0, 1)),
    "tif white is 0, 8 bit": Encoding(".tif", tiff(lambda mask: opaque(~mask), 0)),
    "tif white is 0, 16 bit": Encoding(".tif", tiff(lambda mask: scaled(opaque(~mask), 257), 0, 16)),
    "black on white": Encoding(".png", grey(0, black=255), rule=ForegroundRule(invert=True)),
    # Palettes
    "palette black, white": Encoding(".png", palette({0: BLACK, 1: WHITE}, 1, 0)),
    "palette white, black": Encoding(".png", palette({0: WHITE, 1: BLACK}, 0, 1)),
    "palette white, black of 1 bit": Encoding(".png", palette({0: WHITE, 1: BLACK}, 0, 1, bits=1)),
    "palette of quantize": Encoding(
        ".png", lambda path, mask: Image.fromarray(opaque(mask)).quantize(2).save(path)
    ),
    "palette black, 255 white": Encoding(".png", palette({0: BLACK, 255: WHITE}, 255, 0)),
    "palette red, black": Encoding(".png", palette({0: RED, 1: BLACK}, 0, 1)),
    "palette black, dark red": Encoding(
        ".png", palette({0: BLACK, 1: DARK_RED}, 1, 0), "noted", "only 0 and 1"
    ),
    "palette black, class 8": Encoding(
        ".png", palette({0: BLACK, 8: DARK_RED}, 8, 0), "refused", "values 0, 8)"
    ),
    "palette blue, red": Encoding(".png", palette({0: BLUE, 1: RED}, 1, 0), "refused", "values 0, 1)"),
    "palette of bmp, white first": Encoding(".bmp", white_first_bmp),
    "palette of bmp": Encoding(".bmp", palette({0: WHITE, 1: BLACK}, 0, 1)),
    "palette of tif": Encoding(".tif", palette({0: WHITE, 1: BLACK}, 0, 1)),
    "palette with transparent black": Encoding(
        ".png", palette({0: BLACK, 1: WHITE}, 1, 0, transparency=0), "noted", "transparency was ignored"
    ),
    "palette with transparent white": Encoding(
        ".png", palette({0: WHITE, 1: WHITE}, 1, 0, transparency=0), "refused", "alpha channel"
    ),
    # Colours
    "red on black": Encoding(".png", coloured(RED)),
    "red on black jpg": Encoding(".jpg", coloured(RED, quality=95), "nearly"),
    "dark red on black": Encoding(".png", coloured(DARK_RED), "refused", "colours 000000, 400000"),
    "red on blue": Encoding(".png", coloured(RED, BLUE), "refused", "colours 0000ff, ff0000"),
    "red on blue jpg": Encoding(".jpg", coloured(RED, BLUE, quality=95), "refused", "colours"),
    "red on blue, by colour": Encoding(".png", coloured(RED, BLUE), rule=ForegroundRule(colour="ff0000")),
    "red on blue jpg, by colour": Encoding(
        ".jpg",
        coloured(RED, BLUE, quality=95, subsampling=0),
        "nearly",
        rule=ForegroundRule(colour="#FF0000"),
    ),
    "black on red": Encoding(".png", coloured(BLACK, RED), rule=ForegroundRule(invert=True)),
    # Transparency
    "opaque": Encoding(
        ".png",
        with_alpha(
            opaque_white := lambda mask: np.dstack([opaque(mask)] * 3), lambda mask: np.full(SHAPE, 255)
        ),
    ),
    "white with alpha": Encoding(".png", with_alpha(white_everywhere, opaque), "refused", "alpha channel"),
    "white with alpha, by alpha": Encoding(".png", with_alpha(white_everywhere, opaque), rule=ALPHA),
    "black with alpha": Encoding(
        ".png", with_alpha(lambda mask: np.zeros((*SHAPE, 3)), opaque), "refused", "alpha channel"
    ),
    "photo with alpha": Encoding(
        ".png", with_alpha(photo, lambda mask: opaque(~mask)), "refused", "alpha channel"
    ),
    "photo with alpha, by alpha": Encoding(
        ".png", with_alpha(photo, lambda mask: opaque(~mask)), rule=UNDER_ALPHA
    ),
    "grey with alpha": Encoding(
        ".png", with_alpha(lambda mask: np.full(SHAPE, 255), opaque), "refused", "alpha channel"
    ),
    "overlay on nothing": Encoding(
        ".png",
        with_alpha(lambda mask: np.where(mask[..., None], RED, BLACK), lambda mask: opaque(mask) // 2),
        "noted",
        "transparency was ignored",
    ),
    "no alpha, by alpha": Encoding(".png", coloured(WHITE), "refused", "no transparency", ALPHA),
    # Orientation
    **{
        f"turned by {orientation}, {suffix}": Encoding(
            suffix, turned(orientation), "noted", "EXIF orientation"
        )
        for orientation in range(2, 9)
        for suffix in (".png", ".tif")
    },
    **{
        f"turned by {orientation}, .jpg": Encoding(
            ".jpg", turned(orientation, quality=95), "noted", "EXIF orientation"
        )
        for orientation in (3, 6, 8)
    },
    # Pages and frames
    "tif of two pages": Encoding(".tif", pages, "refused", "several pages"),
    "animated png": Encoding(".png", pages, "refused", "several pages"),
    # Classes
    "classes 0, 1, 2": Encoding(".png", grey_of(classes(1, 2, 0)), "refused", "values 0, 1, 2)"),
    "classes 0, 1, 255": Encoding(".png", grey_of(classes(1, 255, 0)), "refused", "values 0, 1, 255)"),
    "classes 0, 127, 255": Encoding(
        ".png", grey_of(classes(127, 255, 0)), "refused", "values 0, 127, 255)", is_large=True
    ),
    "class of thin lines": Encoding(
        ".png",
        grey_of(lambda mask: np.where(rim(mask, 1), 127, opaque(mask)).astype(np.uint8)),
        "told",
        "its grey level 127 was read by the threshold 127",
    ),
    "classes 255, 128, 0": Encoding(".png", grey_of(classes(0, 128, 255)), "refused", "values 0, 128, 255)"),
    "classes of 16 bit": Encoding(
        ".png", grey_of(classes(300, 600, 0, np.uint16)), "refused", "values 0, 300, 600)", is_large=True
    ),
    "class 300 of 16 bit": Encoding(
        ".png",
        grey_of(lambda mask: np.where(mask, 300, np.where(rim(~mask), 600, 0)).astype(np.uint16)),
        rule=ForegroundRule(label=300),
    ),
    "classes in colours": Encoding(
        ".png",
        grey_of(
            lambda mask: np.where(
                rim(mask)[..., None], RED, np.where(mask[..., None], DARK_RED, BLACK)
            ).astype(np.uint8)
        ),
        "refused",
        "colours 000000, 400000, ff0000",
    ),
    "classes in colours, every one": Encoding(
        ".png",
        grey_of(
            lambda mask: np.where(
                rim(mask)[..., None], RED, np.where(mask[..., None], DARK_RED, BLACK)
            ).astype(np.uint8)
        ),
        rule=EVERY_LABEL,
    ),
    "classes, every one": Encoding(".png", grey_of(classes(1, 2, 0)), rule=EVERY_LABEL),
    "classes of jpg": Encoding(
        ".jpg", grey_of(classes(128, 255, 0), quality=95), "refused", "label map", is_large=True
    ),
    "photo": Encoding(".png", grey_of(photo), "refused", "photograph"),
    "grey photo": Encoding(".png", grey_of(lambda mask: photo(mask)[..., 0]), "refused", ""),
    "photo of jpg": Encoding(".jpg", grey_of(photo, quality=90), "refused", ""),
    "palette red, green": Encoding(
        ".png", palette({0: (200, 0, 0), 1: (0, 255, 0)}, 1, 0), "refused", "values 0, 1)"
    ),
    "label of jpg": Encoding(
        ".jpg",
        grey(255, quality=95),
        "refused",
        "save it as PNG, or leave out",
        rule=ForegroundRule(label=255),
    ),
    "every label of jpg": Encoding(
        ".jpg", grey(255, quality=95), "refused", "or set a threshold above 0", rule=EVERY_LABEL
    ),
}


def wrong(mask: Mask, found: Mask) -> int:
    return int((mask != found).sum())


@pytest.mark.parametrize("name", ENCODINGS)
def test_no_mask_is_read_wrong_in_silence(tmp_path: Path, name: str) -> None:
    encoding = ENCODINGS[name]
    for number in range(list(ENCODINGS).index(name) % STEP, MASKS, STEP):
        mask = drawn(number)
        if encoding.is_large:
            mask = mask.repeat(4, axis=0).repeat(4, axis=1)
        path = tmp_path / f"{number}{encoding.suffix}"
        encoding.write(path, mask)
        if encoding.outcome == "refused":
            with pytest.raises(MaskError) as caught:
                read_mask(path, encoding.rule)
            assert str(path) in str(caught.value)
            assert encoding.says in str(caught.value)
            continue
        reading = read_mask(path, encoding.rule)
        assert (reading.note is None) == (encoding.outcome in ("right", "nearly")), reading.note
        assert encoding.says in (reading.note or "")
        if encoding.outcome != "told":
            assert wrong(mask, reading.mask) <= (0.02 * mask.size if encoding.outcome == "nearly" else 0)
        path.unlink()


def test_a_bright_colour_too_thin_for_a_flat_area_counts_as_a_second_one(tmp_path: Path) -> None:
    path, mask = tmp_path / "thin.jpg", np.zeros((64, 64), bool)
    mask[20, 10:50] = True
    coloured(RED, BLUE, quality=95)(path, mask)
    with pytest.raises(MaskError, match="colours"):
        read_mask(path)
