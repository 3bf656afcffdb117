"""Damaged images and masks: each is read, or refused with a sentence that names the file."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.masks.image_decoding import image_header
from siamese_core.masks.mask_files import read_mask
from siamese_core.pairs.image_files import read_image
from siamese_core.pairs.pair_checks import check_pairs
from siamese_core.pairs.pair_files import Pair, load_pair
from tests.support.fuzzing import inputs, refusal

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

SAVED = {
    ".png": [("PNG", mode, {}) for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "I;16")],
    ".bmp": [("BMP", mode, {}) for mode in ("1", "L", "P", "RGB")],
    ".jpg": [
        ("JPEG", mode, {"progressive": flag}) for mode in ("L", "RGB", "CMYK") for flag in (False, True)
    ],
    ".tif": [
        ("TIFF", mode, {"compression": packing})
        for mode in ("1", "L", "P", "RGB", "RGBA", "I;16", "I", "F")
        for packing in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
    ],
}
TOKENS = (
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"PLTE",
    b"tRNS",
    b"zTXt",
    b"iTXt",
    b"eXIf",
    b"acTL",
    b"\xff\xd8",
    b"\xff\xda",
)
TOKENS += (
    b"\xff\xc4",
    b"\xff\xc2",
    b"\xff\xdb",
    b"II*\0",
    b"MM\0*",
    b"BM",
    b"GIF89a",
    b"P5\n9 9\n255\n",
    b"%!PS",
    b"qoif",
)


def seeds(suffix: str) -> list[bytes]:
    rows, columns = np.indices((16, 24))
    disc = Image.fromarray((((rows - 8) ** 2 + (columns - 12) ** 2 < 30) * 255).astype(np.uint8))
    files = []
    for kind, mode, options in SAVED[suffix]:
        buffer = io.BytesIO()
        disc.convert(mode).save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


def mask_of(path: Path) -> Path:
    """Where the mask of the image ``path`` lies."""
    return path.with_name(f"mask-{path.name}")


def write_pair(path: Path, data: bytes) -> None:
    """``data`` as an image and as its mask."""
    path.write_bytes(data)
    mask_of(path).write_bytes(data)


def read_in_every_way(path: Path, number: int) -> None:
    """What commands and nodes do with a file, one way after the other."""
    label, threshold = (None, None, 1, 255)[number % 4], (127, 0, 254)[number % 3]
    pair, rule = (
        Pair(path.stem, path, mask_of(path), None),
        ForegroundRule(threshold, label, invert=number % 5 == 0),
    )
    image_header(path)
    load_pair(pair, size=(16, 16), rule=rule)
    check_pairs([pair], rule)


def test_each_half_of_a_pair_is_refused_alone(tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    for number, data in enumerate(inputs(seeds(".png"), 200, TOKENS)):
        path.write_bytes(data)
        refusal(lambda: read_image(path), path.name)
        refusal(lambda label=number % 3: read_mask(path, ForegroundRule(label=label)), path.name)


@pytest.mark.parametrize("suffix", SAVED)
def test_damaged_files_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    refused = 0
    for number, data in enumerate(inputs(seeds(suffix), 500, TOKENS)):
        write_pair(path, data)
        refused += refusal(lambda number=number: read_in_every_way(path, number), path.name) is not None
    assert refused > 60


def fixed_checksums(png: bytes) -> bytes:
    """``png`` with the checksum of every chunk made right, so that a decoder looks at what is in it."""
    out, place = png[:8], 8
    while place + 8 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        body = png[place + 4 : place + 8 + length]
        if len(body) < 4:
            break
        out += png[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return out


def test_damaged_png_with_right_checksums(tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    for number, data in enumerate(inputs(seeds(".png"), 500, TOKENS)):
        write_pair(path, fixed_checksums(data))
        refusal(lambda number=number: read_in_every_way(path, number), path.name)


def test_what_is_no_image_by_content_is_not_decoded_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n")
    assert "not an image that can be read" in str(refusal(lambda: read_mask(path), path.name))
    for kind in ("GIF", "WEBP", "PPM", "TGA", "ICO"):
        buffer = io.BytesIO()
        Image.new("L", (16, 16)).save(buffer, kind)
        path.write_bytes(buffer.getvalue())
        assert "not an image that can be read" in str(refusal(lambda: read_image(path), path.name))


def test_scans_without_end_are_not_waited_for(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000), 200).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    (tmp_path / "mask.jpg").write_bytes(whole)
    assert refusal(lambda: read_mask(tmp_path / "mask.jpg"), "mask.jpg") is None
    last_scan = whole[whole.rindex(b"\xff\xda") : -2]
    (tmp_path / "mask.jpg").write_bytes(whole[:-2] + last_scan * 3000 + whole[-2:])
    assert "more than 40 scans" in str(refusal(lambda: read_mask(tmp_path / "mask.jpg"), "mask.jpg"))


def test_a_large_image_is_read_in_time_and_a_larger_one_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (5000, 5000), (3, 3, 3, 3)).save(tmp_path / "mask.png", compress_level=1)
    assert refusal(lambda: read_mask(tmp_path / "mask.png", ForegroundRule(label=3)), "mask.png") is None
    (tmp_path / "mask.png").write_bytes(larger(tmp_path / "mask.png", 40_000))
    assert "far too large" in str(refusal(lambda: read_mask(tmp_path / "mask.png"), "mask.png"))


def larger(path: Path, side: int) -> bytes:
    """The PNG file ``path`` with a header that tells of so many pixels along each side."""
    data = path.read_bytes()
    return fixed_checksums(data[:16] + struct.pack(">II", side, side) + data[24:])
