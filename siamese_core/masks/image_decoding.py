"""Decoding image files safely: limits are checked before decoding, and EXIF orientation is applied."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from ..errors import UserError
from .resizing import Size

_SMALLEST_SIDE = 8
_LARGEST_SIDE = 16384
_MOST_PIXELS = 100_000_000
# A progressive JPEG has about ten. A scan takes only a few bytes in the file but a pass over all pixels.
_MOST_SCANS = 40
# Further pages of a TIFF may be smaller copies of the first; this is the most that are looked at.
_MOST_COPIES = 16
# Detected by content, not by name. Pillow's other formats include some read by external programs (PostScript
# by Ghostscript) or by rarely tested decoders.
_FORMATS = ("BMP", "DIB", "JPEG", "PNG", "TIFF")
# MPO is a camera's JPEG with embedded previews.
_LOSSY_FORMATS = ("JPEG", "MPO")
_LOSSY_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp")  # of TIFF
_DECODING_ERRORS = (OSError, EOFError, SyntaxError, ValueError, struct.error)

# The transpose operation that turns an image upright, by EXIF orientation (EXIF 2.32, tag 0x0112).
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_SIGNATURE, _MOST_EXIF = b"\x89PNG\r\n\x1a\n", 1 << 16
_WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SUBFILE = 256, 257, 258, 262, 254


class MaskError(UserError):
    """An image file that cannot be used as mask or image; the message names the file and the fix."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image file, called ``kind`` in messages.

    ``pixels`` are upright: the file's EXIF ``orientation`` (1 to 8) has been applied. ``bits`` is the file's
    depth per channel; ``is_lossy``: values may be altered by lossy compression.
    """

    path: Path
    kind: str
    pixels: Image.Image
    bits: int
    orientation: int
    is_lossy: bool

    @property
    def has_deep_grey(self) -> bool:
        """Whether the file is grey with more than 8 bits per pixel."""
        return self.pixels.mode.startswith(("I", "F"))

    @property
    def has_deep_colour(self) -> bool:
        """Whether the file is in colour with 16 bits per channel, of which Pillow reads the upper 8."""
        return self.bits == 16 and not self.has_deep_grey


@dataclass(frozen=True)
class ImageHeader:
    """Facts known without decoding the pixels. ``size`` is (height, width) after applying ``orientation``.

    ``is_deep_grey``: grey with more than 8 bits per pixel.
    """

    size: Size
    orientation: int
    is_deep_grey: bool


def decode_image(path: Path, kind: str = "mask") -> DecodedImage:
    """Decode ``path`` completely, after checking the dimensions in its header.

    ``kind`` is what messages call the file. Raises MaskError for an unreadable file, a side outside 8..16384,
    more than 100 million pixels, several pages or frames, a JPEG of more than 40 scans, and 16-bit colours
    that do not use the upper half of their range.
    """
    with _pillow_errors(path, kind), _open(path, kind) as image:
        is_jpeg = image.format in _LOSSY_FORMATS
        if is_jpeg and _has_many_scans(path):
            raise MaskError(
                f"The {kind} '{path}' is a JPEG of more than {_MOST_SCANS} scans, which would take very long "
                "to read; save it again, as PNG."
            )
        _refuse_pages(image, path, kind)
        bits, is_tiff = _bits(image), image.format == "TIFF"
        counts_white_as_zero = is_tiff and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
        orientation = _orientation(image) if is_tiff else 1  # Pillow applies and drops a TIFF's on loading
        image.load()
        pixels: Image.Image = image
        if not is_tiff:  # a PNG's EXIF may follow the pixels
            orientation = _orientation(image)
            if orientation in _UPRIGHT:
                pixels = image.transpose(_UPRIGHT[orientation])
        if counts_white_as_zero and pixels.mode.startswith("I;16"):  # Pillow inverts 1 to 8 bits, but not 16
            pixels = Image.fromarray(np.uint16(65535) - np.asarray(pixels).astype(np.uint16))
        is_lossy = is_jpeg or image.info.get("compression") in _LOSSY_COMPRESSIONS
        decoded = DecodedImage(path, kind, pixels, bits, orientation, is_lossy)
        _refuse_dim_deep_colour(decoded)
        return decoded


def image_header(path: Path, kind: str = "mask") -> ImageHeader:
    """Read the header of ``path`` without decoding pixels; raises like :func:`decode_image`."""
    with _pillow_errors(path, kind), _open(path, kind) as image:
        orientation = _orientation(image)
        if image.format == "PNG" and "exif" not in image.info:
            orientation = _orientation_behind_pixels(path)
        size = _stored_size(image)
        upright = size[::-1] if orientation >= 5 else size
        return ImageHeader(upright, orientation, image.mode.startswith(("I", "F")))


def deep_grey_values(image: DecodedImage) -> NDArray[np.integer]:
    """The (H, W) integer values, 0..65535, of an image with :attr:`~DecodedImage.has_deep_grey`.

    Raises MaskError for floating-point values, whose range is unknown, and for integers outside 0..65535.
    """
    values = np.asarray(image.pixels)
    if image.pixels.mode == "F":
        raise MaskError(
            f"The {image.kind} '{image.path}' holds 32-bit floating-point values; save it as 8-bit grey."
        )
    if values.min() < 0 or values.max() > 65535:
        raise MaskError(
            f"The {image.kind} '{image.path}' holds values outside 0..65535; save it as 8-bit grey."
        )
    return values


def rgb_pixels(image: DecodedImage) -> NDArray[np.uint8]:
    """The pixels as (H, W, 3) uint8 RGB, ignoring transparency. Raises MaskError if Pillow cannot convert."""
    with _pillow_errors(image.path, image.kind):
        return np.asarray(image.pixels.convert("RGB"))


def white_value(highest: int) -> int:
    """The value that counts as white in a file of more than 8 bits whose highest value is ``highest``.

    It is 255 if that fits 8 bits (many programs save 8-bit values in 16-bit files), else 2^n - 1 for the n
    bits that it needs, because cameras and scanners of 10 to 14 bits save their values unscaled.
    """
    return 255 if highest <= 255 else int(2 ** int(highest).bit_length() - 1)


def scaled_to_8_bits(values: NDArray[np.integer], white: int) -> NDArray[np.uint8]:
    """Scale ``values`` from 0..``white`` to 0..255 uint8, rounded; higher values are clipped."""
    if white == 255:
        return np.minimum(values, 255).astype(np.uint8)
    scaled = (np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white
    return scaled.astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        # Not the PNG plugin's getexif, which decodes all pixels to look for EXIF behind them.
        found = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except (*_DECODING_ERRORS, KeyError, TypeError, AttributeError):
        return 1  # the pixels may be intact even if EXIF is damaged
    return found if found in _UPRIGHT else 1


def _orientation_behind_pixels(path: Path) -> int:
    """The orientation of a PNG whose EXIF may follow the pixels, found by walking its chunks."""
    with path.open("rb") as file:
        file.seek(len(_PNG_SIGNATURE))
        while len(start := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", start)
            if name == b"eXIf":
                exif = Image.Exif()
                exif.load(file.read(min(length, _MOST_EXIF)))
                found = exif.get(_ORIENTATION, 1)
                return found if found in _UPRIGHT else 1
            file.seek(length + 4, os.SEEK_CUR)
    return 1


def _stored_size(image: Image.Image) -> Size:
    width, height = image.size
    if image.format == "TIFF":  # Pillow versions differ in the size they report before loading
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = tags[_WIDTH], tags[_HEIGHT]
    return height, width


def _bits(image: Image.Image) -> int:
    """Bits per channel in the file; must be called before the image is loaded."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
    if isinstance(image, PngImageFile) and image.tile:
        raw_mode = str(image.tile[0][3])
        depth = re.search(r"(?:;|^)(\d+)", raw_mode)
        return int(depth[1]) if depth else 8
    return 1 if image.mode == "1" else 8


def _refuse_dim_deep_colour(image: DecodedImage) -> None:
    """Raise MaskError for dim 16-bit colours, because Pillow reads their upper 8 bits only."""
    if not image.has_deep_colour or image.pixels.mode not in ("LA", "RGB", "RGBA"):
        return
    bands = image.pixels.getextrema()
    colours = bands[:-1] if image.pixels.mode.endswith("A") else bands
    if max(highest for _, highest in colours) < 128:  # type: ignore[misc]
        raise MaskError(
            f"The {image.kind} '{image.path}' has 16 bits per channel and no value in the upper half of that "
            "range, so that what counts as white cannot be told; save it with 8 bits per channel."
        )


def _refuse_pages(image: Image.Image, path: Path, kind: str) -> None:
    """Raise MaskError when the file holds several images; reduced-size copies in a TIFF do not count."""
    several = image.format == "PNG" and bool(getattr(image, "is_animated", False))
    if image.format == "TIFF":
        several = _has_other_pages(image)
    if several:
        raise MaskError(
            f"The {kind} '{path}' holds several pages or frames, and which one counts is yours to say; save "
            "that one as a file of its own."
        )


def _has_other_pages(image: Image.Image) -> bool:
    found = False
    for page in range(1, _MOST_COPIES):
        try:
            image.seek(page)
        except (*_DECODING_ERRORS, KeyError, TypeError):  # no further page, or an unreadable one
            break
        if not image.tag_v2.get(_SUBFILE, 0) & 1:  # type: ignore[attr-defined]
            found = True
            break
    image.seek(0)
    return found


@contextlib.contextmanager
def _open(path: Path, kind: str) -> Iterator[Image.Image]:
    # Opened as a stream, because Pillow memory-maps a TIFF opened by name and then scrambles rotated ones.
    with path.open("rb") as file, _opened(file) as image:
        width, height = image.size
        if min(width, height) < _SMALLEST_SIDE or max(width, height) > _LARGEST_SIDE:
            raise MaskError(
                f"The {kind} '{path}' is {width} x {height} pixels; each side must be between "
                f"{_SMALLEST_SIDE} and {_LARGEST_SIDE}."
            )
        if width * height > _MOST_PIXELS:
            raise MaskError(
                f"The {kind} '{path}' is {width} x {height} pixels; shrink it to at most "
                f"{_MOST_PIXELS // 1_000_000} million pixels."
            )
        yield image


def _opened(file: BinaryIO) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns at a limit of its own; the caller checks ours.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=_FORMATS)


@contextlib.contextmanager
def _pillow_errors(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except MaskError:
        raise
    except FileNotFoundError as error:
        raise MaskError(f"The {kind} '{path}' does not exist; check the path.") from error
    except Image.DecompressionBombError as error:
        raise MaskError(
            f"The {kind} '{path}' is far too large; shrink it to at most "
            f"{_MOST_PIXELS // 1_000_000} million pixels."
        ) from error
    except UnidentifiedImageError as error:
        raise MaskError(f"The {kind} '{path}' is not an image that can be read; save it as PNG.") from error
    except _DECODING_ERRORS as error:
        raise MaskError(
            f"The {kind} '{path}' cannot be read and may be damaged ({error}); export it again as PNG."
        ) from error


def _has_many_scans(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = -1
        for _ in range(_MOST_SCANS + 1):
            place = content.find(
                b"\xff\xda", place + 1
            )  # a start-of-scan marker; in pixel data ff is always followed by 00
            if place < 0:
                return False
    return True
