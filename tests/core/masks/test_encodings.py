"""A hundred drawn masks in every way of storing one: read right, with a note, or refused; never wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from siamese_core.masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from siamese_core.masks.image_decoding import MaskError
from siamese_core.masks.mask_files import read_mask

Mask = NDArray[np.bool_]
Write = Callable[[Path, Mask], None]

MASKS, STEP = 100, 8  # each encoding takes every eighth mask, and the next one begins a mask further on
SHAPE = (48, 64)
RED, DARK_RED, BLUE, BLACK, WHITE = (255, 0, 0), (64, 0, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)


def drawn(number: int) -> Mask:
    """Mask ``number``: one to three ellipses and rectangles, away from some of the borders."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask = np.zeros(SHAPE, bool)
    for _ in range(rng.integers(1, 4)):
        y, x = rng.uniform(8, SHAPE[0] - 8), rng.uniform(8, SHAPE[1] - 8)
        height, width = rng.uniform(4, 10, 2)
        dy, dx = (rows - y) / height, (columns - x) / width
        mask |= (dy**2 + dx**2 < 1) if rng.random() < 0.6 else (np.maximum(abs(dy), abs(dx)) < 0.8)
    return mask


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


def grey(white: int, dtype: Any = np.uint8, black: int = 0, **options: Any) -> Write:
    def write(path: Path, mask: Mask) -> None:
        Image.fromarray(np.where(mask, white, black).astype(dtype)).save(path, **options)

    return write


def grey_of(draw: Callable[[Mask], NDArray[Any]], **options: Any) -> Write:
    return lambda path, mask: Image.fromarray(draw(mask)).save(path, **options)


def one_bit(path: Path, mask: Mask) -> None:
    Image.fromarray(mask).save(path)


def palette(colours: dict[int, tuple[int, int, int]], inside: int, outside: int, **options: Any) -> Write:
    """A palette image of two indices."""

    def write(path: Path, mask: Mask) -> None:
        image = Image.fromarray(np.where(mask, inside, outside).astype(np.uint8)).convert("P")
        image.putdata(np.where(mask, inside, outside).ravel().tolist())
        table = np.zeros((max(colours) + 1, 3), np.uint8)
        for index, colour in colours.items():
            table[index] = colour
        image.putpalette(table.ravel().tolist())
        image.save(path, **options)

    return write


def coloured(
    inside: tuple[int, ...], outside: tuple[int, ...] = BLACK, mode: str = "RGB", **options: Any
) -> Write:
    def write(path: Path, mask: Mask) -> None:
        pixels = np.where(mask[..., None], np.array(inside), np.array(outside)).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(path, **options)

    return write


def with_alpha(colour: Callable[[Mask], NDArray[Any]], alpha: Callable[[Mask], NDArray[Any]]) -> Write:
    def write(path: Path, mask: Mask) -> None:
        pixels = np.dstack([colour(mask), alpha(mask)]).astype(np.uint8)
        Image.fromarray(pixels).save(path)

    return write


def png_of_bits(bits: int, inside: int, outside: int = 0) -> Write:
    """A grey PNG of 1, 2 or 4 bits, which Pillow does not write."""

    def write(path: Path, mask: Mask) -> None:
        values = np.where(mask, inside, outside).astype(np.uint8)
        per_byte = 8 // bits
        rows = values.reshape(len(values), -1, per_byte)
        shifts = np.arange(per_byte - 1, -1, -1) * bits
        packed = (rows << shifts).sum(axis=-1).astype(np.uint8)
        write_png(path, bits, 0, b"".join(b"\0" + row.tobytes() for row in packed))

    return write


def png_of_16_bits(channels: int, white: int) -> Write:
    """A PNG of 16 bits per channel, grey with alpha (2) or colour (3), which Pillow does not write."""

    def write(path: Path, mask: Mask) -> None:
        pixels = np.repeat(np.where(mask, white, 0)[..., None], channels, axis=-1)
        if channels == 2:
            pixels[..., 1] = 65535
        rows = pixels.astype(">u2").reshape(len(mask), -1)
        write_png(path, 16, {2: 4, 3: 2}[channels], b"".join(b"\0" + row.tobytes() for row in rows))

    return write


def write_png(path: Path, bits: int, colour_type: int, rows: bytes) -> None:
    import zlib

    header = struct.pack(">IIBBBBB", SHAPE[1], SHAPE[0], bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def tiff(values: Callable[[Mask], NDArray[Any]], photometric: int, bits: int = 8) -> Write:
    """An uncompressed TIFF of one strip, whose tags say what Pillow would not write."""

    def write(path: Path, mask: Mask) -> None:
        content = values(mask).tobytes()
        tags = {256: SHAPE[1], 257: SHAPE[0], 258: bits, 259: 1, 262: photometric, 277: 1, 278: SHAPE[0]}
        tags |= {273: 8, 279: len(content)}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
        directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
        path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory)

    return write


def white_first_bmp(path: Path, mask: Mask) -> None:
    """A 1-bit BMP whose colour table is white, black."""
    bits = np.packbits(~mask, axis=1)[::-1]
    header = struct.pack("<IiiHHIIiiII", 40, SHAPE[1], SHAPE[0], 1, 1, 0, bits.size, 2835, 2835, 2, 2)
    start = struct.pack("<IHHI", 62 + bits.size, 0, 0, 62)
    path.write_bytes(b"BM" + start + header + bytes([255, 255, 255, 0, 0, 0, 0, 0]) + bits.tobytes())


def turned(orientation: int, **options: Any) -> Write:
    """Stored so that it has to be turned by ``orientation`` to show what was drawn."""
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]

    def write(path: Path, mask: Mask) -> None:
        image = Image.fromarray(mask.astype(np.uint8) * 255).transpose(stored)
        if path.suffix == ".tif":
            tags = ImageFileDirectory_v2()
            tags[0x112] = orientation
            image.save(path, tiffinfo=tags)
        else:
            exif = Image.Exif()
            exif[0x112] = orientation
            image.save(path, exif=exif, **options)

    return write


def pages(path: Path, mask: Mask) -> None:
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    image.save(path, save_all=True, append_images=[Image.fromarray((~mask).astype(np.uint8) * 255)])


def boxes(mask: Mask, count: int, dtype: Any) -> NDArray[Any]:
    """``count`` cells of 3 x 3 pixels with a number each; where they lie does not depend on ``mask``."""
    values = np.zeros(SHAPE, dtype)
    number = 0
    for y in range(0, SHAPE[0] - 3, 4):
        for x in range(0, SHAPE[1] - 3, 4):
            number += 1
            values[y : y + 3, x : x + 3] = number if number <= count else 0
    return values


def rim(mask: Mask, width: int = 3) -> Mask:
    """The outermost ``width`` pixels of ``mask``."""
    inner = mask
    for _ in range(width):
        inner = (
            inner
            & np.roll(inner, 1, 0)
            & np.roll(inner, -1, 0)
            & np.roll(inner, 1, 1)
            & np.roll(inner, -1, 1)
        )
    return mask & ~inner


def classes(inside: int, at_rim: int, outside: int, dtype: Any = np.uint8) -> Callable[[Mask], NDArray[Any]]:
    return lambda mask: np.where(rim(mask, len(mask) // 16), at_rim, np.where(mask, inside, outside)).astype(
        dtype
    )


def soft(mask: Mask) -> NDArray[Any]:
    """The mask as drawn four times as large and made smaller, with soft edges that one half restores."""
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize((SHAPE[1] * 4, SHAPE[0] * 4), 0)
    shifted = np.asarray(large, float)
    return (shifted.reshape(SHAPE[0], 4, SHAPE[1], 4).mean(axis=(1, 3)) * 0.98).astype(np.uint8)


def photo(mask: Mask) -> NDArray[Any]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(100, 150, (*SHAPE, 3))
    pixels[..., 0] += 40
    pixels[mask] = rng.integers(20, 80, 3)
    return pixels.astype(np.uint8)


def white_everywhere(mask: Mask) -> NDArray[Any]:
    return np.full((*mask.shape, 3), 255, np.uint8)


def opaque(mask: Mask) -> NDArray[Any]:
    return mask.astype(np.uint8) * 255


def scaled(values: NDArray[Any], factor: int) -> NDArray[Any]:
    return (values.astype(np.uint16) * factor).astype(np.uint16)


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
