"""Masks drawn by number, and files that store one in the ways that programs have."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

Mask = NDArray[np.bool_]
Write = Callable[[Path, Mask], None]

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
