"""Masks from image files: which pixels are foreground, and how a mask and its image change size together."""

from __future__ import annotations

import contextlib
import mmap
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from ..errors import UserError
from ..files import natural_key
from .folder_contents import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from .folder_contents import foreign_file, nothing_read

ResizeMode = Literal["stretch", "crop", "pad"]
Size = tuple[int, int]
"""(height, width) in pixels."""

MASK_FOLDERS = ("masks", "mask")

_SMALLEST_SIDE = 8
_LARGEST_SIDE = 16384
_MOST_PIXELS = 100_000_000
# A progressive JPEG has about ten. Each costs a pass over all pixels, and a few bytes in the file.
_MOST_SCANS = 40
_LARGEST_LABEL = 63
_VOID_LABEL = 255
_SHOWN_VALUES = 10
# By content, whatever the name says. Pillow knows many more, some of them read by programs that it starts
# (Ghostscript for PostScript) or by decoders that hardly anybody tests.
_FORMATS = ("BMP", "DIB", "JPEG", "PNG", "TIFF")
# JPEG rounds values, so small numbers in it are noise of the compression and never label ids.
_LOSSY_FORMATS = ("JPEG", "MPO")
_DECODING_ERRORS = (OSError, EOFError, SyntaxError, ValueError, struct.error)


class MaskError(UserError):
    """A mask that cannot be used; the message names the file and what to do about it."""


@dataclass(frozen=True)
class MaskReading:
    """A mask and how it was understood.

    ``mask`` is (H, W) bool, True on the foreground. ``note`` is None for a plain black-and-white
    mask, else a phrase for the user about what had to be interpreted. Files that were interpreted
    alike have equal notes.
    """

    mask: NDArray[np.bool_]
    note: str | None


def read_mask(path: Path, *, threshold: int = 127, label: int | None = None) -> MaskReading:
    """Read the mask file ``path``: foreground is where its value exceeds ``threshold`` (0..255).

    - 8-bit grey: the value. A file whose largest value is 1 holds 0 and 1, so 1 is foreground.
    - 1-bit: white is foreground.
    - 16-bit grey: 0..65535 is scaled to 0..255, unless every value fits 8 bits already; programs
      that save 8-bit masks in 16-bit files are common, intended levels below 1/257 are not.
    - Colour: the largest of the three channels, because a pure red or green overlay is
      foreground to the eye but dark in luminance. Alpha is ignored.
    - Palette: the indices are the values, whatever colours they are shown in.
    - Label maps (only small ids such as 0, 1, 2, 3; ids beside the void label 255; palettes with
      several indices) are refused without ``label``: which class is foreground is the user's to say.
      ``threshold=0`` accepts them too, with every class as foreground.
    - JPEG: the same by value, but never taken for a label map.

    With ``label``, foreground is where the stored value or palette index (white is 1 in a 1-bit
    file, 16-bit values are not scaled) equals it, and ``threshold`` plays no part.

    Raises MaskError for a file that is no readable image, for sides outside 8..16384 or more than
    100 million pixels (judged from the header), for 32-bit floating-point values, for integers
    outside 0..65535, for a label map without ``label`` and for ``label`` on a coloured file.
    """
    image = decode_image(path)
    notes = ["its transparency was ignored"] if _has_alpha_detail(image) else []
    if label is not None:
        mask = _label_values(image, path) == label
        return MaskReading(mask, _joined(notes))

    values = _grey_values(image, path)
    if values.max() <= 1:
        if image.mode != "1" and values.any():
            notes.append("it holds only 0 and 1 and was read as black and white")
        return MaskReading(values == 1, _joined(notes))
    if has_deep_grey(image):
        if values.max() <= 255:
            notes.append("its 16-bit values fit 8 bits and were read as 8-bit values")
        values = eight_bit_values(values)
    if image.format not in _LOSSY_FORMATS and _looks_like_labels(values, threshold, image.mode == "P"):
        raise MaskError(
            f"The mask '{path}' looks like a label map (values {_listed(np.unique(values))}) rather than "
            "black and white; pick the label that is foreground (--mask-label, or label in the node), or set "
            "the threshold to 0 to take every label."
        )
    mask = values > threshold
    if not mask.any():
        notes.append(f"no value in it exceeds the threshold {threshold}, so it was read as empty")
    return MaskReading(mask, _joined(notes))


def mask_to_uint8(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The (H, W) bool ``mask`` as grey levels: 255 on the foreground, 0 elsewhere."""
    return mask.astype(np.uint8) * np.uint8(255)


def resize_mask(mask: NDArray[np.bool_], size: Size, mode: ResizeMode = "stretch") -> NDArray[np.bool_]:
    """Resize the (H, W) bool ``mask`` to ``size`` (height, width) with nearest neighbours.

    ``stretch`` ignores the aspect ratio; ``crop`` cuts the centre to the target's aspect ratio
    first; ``pad`` fits the whole mask inside and fills the border with background. The result lies
    pixel for pixel on that of :func:`resize_image` with the same arguments.
    """
    placement = _place(mask.shape, size, mode)
    source = Image.fromarray(mask_to_uint8(mask)).crop(placement.crop)
    canvas = Image.new("L", (size[1], size[0]))
    canvas.paste(source.resize(placement.inner, Image.Resampling.NEAREST), placement.offset)
    return np.asarray(canvas) > 0


def resize_image(image: NDArray[np.uint8], size: Size, mode: ResizeMode = "stretch") -> NDArray[np.uint8]:
    """Resize the (H, W, 3) uint8 ``image`` to ``size`` (height, width); modes as in :func:`resize_mask`.

    Each axis is averaged over areas where it shrinks and interpolated linearly where it grows.
    ``pad`` fills the border with black.
    """
    placement = _place(image.shape[:2], size, mode)
    inner = Image.fromarray(image).crop(placement.crop)
    width, height = placement.inner
    inner = inner.resize((width, inner.height), _image_filter(inner.width, width))
    inner = inner.resize((width, height), _image_filter(inner.height, height))
    canvas = Image.new("RGB", (size[1], size[0]))
    canvas.paste(inner, placement.offset)
    return np.array(canvas)


def discover_masks(path: Path) -> list[Path]:
    """The mask files at ``path``, in natural order.

    ``path`` is one file, or a folder; a folder's ``masks/`` or ``mask/`` subfolder is used when there
    is one. Hidden files and files that are no images by extension are skipped. Raises MaskError when
    ``path`` is missing, is a file of another kind, holds no mask, or holds two masks with the same
    stem, whose results would overwrite each other.
    """
    if path.is_file():
        if path.suffix.lower() not in IMAGE_EXTENSIONS:
            what = foreign_file(path) or f"is no image file; use one of {', '.join(IMAGE_EXTENSIONS)}"
            raise MaskError(f"The mask '{path}' {what}.")
        return [path]
    if not path.is_dir():
        raise MaskError(f"The mask file or folder '{path}' does not exist; check the path.")
    folder = first_subfolder(path, MASK_FOLDERS) or path
    masks = list_images(folder)
    if not masks:
        raise MaskError(nothing_read(folder, "masks", "holds no masks"))
    seen: dict[str, Path] = {}
    for mask in masks:
        if other := seen.get(mask.stem):
            raise MaskError(
                f"The masks '{other.name}' and '{mask.name}' in '{folder}' would give results of the same "
                "name; rename or remove one of them."
            )
        seen[mask.stem] = mask
    return masks


def list_images(folder: Path) -> list[Path]:
    """The image files (by extension) directly in ``folder``, hidden ones skipped, in natural order.

    Raises MaskError for a name that is no text, which no list of files could hold.
    """
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".") and path.is_file()
    ]
    for path in files:
        # Bytes of a name that are no UTF-8 come as halves of surrogate pairs.
        if any("\ud800" <= character <= "\udfff" for character in path.name):
            raise MaskError(f"The name {path.name!r} in '{folder}' is not UTF-8 text; rename the file.")
    return sorted(files, key=lambda path: (natural_key(path.name), path.name))


def first_subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the subfolders ``names`` that exists in ``folder``, or None."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def image_size(path: Path, kind: str = "mask") -> Size:
    """(height, width) of the file ``path`` from its header; errors as in :func:`decode_image`."""
    with _pillow_errors(path, kind), _open(path, kind) as image:
        return image.height, image.width


def decode_image(path: Path, kind: str = "mask") -> Image.Image:
    """Decode ``path`` completely, its dimensions checked from the header before any pixel is read.

    ``kind`` is what messages call the file. Raises MaskError for an unreadable file, for a side
    outside 8..16384, for more than 100 million pixels and for a JPEG of more than 40 scans.
    """
    with _pillow_errors(path, kind), _open(path, kind) as image:
        if image.format in _LOSSY_FORMATS and _has_many_scans(path):
            raise MaskError(
                f"The {kind} '{path}' is a JPEG of more than {_MOST_SCANS} scans, which would take very long "
                "to read; save it again, as PNG."
            )
        image.load()
        return image


def has_deep_grey(image: Image.Image) -> bool:
    """Whether ``image`` stores one value of more than 8 bits per pixel."""
    return image.mode.startswith(("I", "F"))


def deep_grey_values(image: Image.Image, path: Path, kind: str = "mask") -> NDArray[np.integer]:
    """The (H, W) values 0..65535 of an image for which :func:`has_deep_grey` holds.

    Raises MaskError for floating-point values, whose range cannot be taken for granted, and for
    integers outside 0..65535.
    """
    values = np.asarray(image)
    if image.mode == "F":
        raise MaskError(f"The {kind} '{path}' holds 32-bit floating-point values; save it as 8-bit grey.")
    if values.min() < 0 or values.max() > 65535:
        raise MaskError(f"The {kind} '{path}' holds values outside 0..65535; save it as 8-bit grey.")
    return values


def eight_bit_values(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Scale 16-bit ``values`` to 0..255, or keep them when all of them fit 8 bits already."""
    if values.max() <= 255:
        return values.astype(np.uint8)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


@contextlib.contextmanager
def _open(path: Path, kind: str) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        # Pillow warns at a size of its own; the limit that users are told is checked right below.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path, formats=_FORMATS)
    with image:
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
            )  # no pixels look like that: their ff has a 00 after it
            if place < 0:
                return False
    return True


def _grey_values(image: Image.Image, path: Path) -> NDArray[np.integer]:
    """The (H, W) stored values of a mask; for colour the largest channel."""
    if image.mode in ("1", "L", "P"):
        return np.asarray(image).astype(np.uint8)
    if image.mode == "LA":
        return np.asarray(image.getchannel("L"))
    if has_deep_grey(image):
        return deep_grey_values(image, path)
    red, green, blue = image.convert("RGB").split()
    # Many times faster than numpy's maximum over an axis of three.
    return np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue))


def _label_values(image: Image.Image, path: Path) -> NDArray[np.integer]:
    values = _grey_values(image, path)
    coloured = len(image.getbands()) >= 3
    if coloured and not all(
        np.array_equal(np.asarray(band), values) for band in image.convert("RGB").split()
    ):
        raise MaskError(
            f"The mask '{path}' is a colour image, which holds no label numbers; leave out the label, "
            "or save it as 8-bit grey or with a palette."
        )
    return values


def _has_alpha_detail(image: Image.Image) -> bool:
    if image.mode not in ("LA", "RGBA"):
        return False
    alpha = np.asarray(image.getchannel("A"))
    return bool(alpha.min() != alpha.max())


def _looks_like_labels(values: NDArray[np.integer], threshold: int, palette: bool) -> bool:
    if threshold == 0:
        return False
    if values.max() <= min(_LARGEST_LABEL, threshold):
        return True
    foreground = np.unique(values[values > 0])
    if palette and len(foreground) > 1:
        return True
    # Ids that count up from 1, beside the customary value for pixels to leave out.
    ids = foreground[:-1]
    counts_up = 0 < len(ids) <= _LARGEST_LABEL and np.array_equal(ids, np.arange(1, len(ids) + 1))
    return bool(counts_up and foreground[-1] == _VOID_LABEL)


def _listed(values: NDArray[np.integer]) -> str:
    shown = ", ".join(str(value) for value in values[:_SHOWN_VALUES])
    return f"{shown} and {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else shown


def _joined(notes: list[str]) -> str | None:
    return "; ".join(notes) or None


class _Placement(NamedTuple):
    """Pillow's order, x first: which box of the source goes where on the target canvas, and how large."""

    crop: tuple[int, int, int, int]
    inner: tuple[int, int]
    offset: tuple[int, int]


def _place(source: tuple[int, ...], target: Size, mode: ResizeMode) -> _Placement:
    """Geometry shared by an image and its mask, in whole pixels so that both land on the same grid."""
    source_height, source_width = source
    height, width = target
    if mode == "stretch":
        return _Placement((0, 0, source_width, source_height), (width, height), (0, 0))
    if mode == "crop":
        cut_width, cut_height = _fitted((width, height), (source_width, source_height))
        left, top = (source_width - cut_width) // 2, (source_height - cut_height) // 2
        return _Placement((left, top, left + cut_width, top + cut_height), (width, height), (0, 0))
    if mode == "pad":
        inner = _fitted((source_width, source_height), (width, height))
        offset = ((width - inner[0]) // 2, (height - inner[1]) // 2)
        return _Placement((0, 0, source_width, source_height), inner, offset)
    raise ValueError(f"Unknown resize mode '{mode}'; use one of stretch, crop and pad.")


def _fitted(shape: tuple[int, int], bounds: tuple[int, int]) -> tuple[int, int]:
    """The largest whole-pixel (width, height) with the aspect ratio of ``shape`` inside ``bounds``."""
    scale = min(bounds[0] / shape[0], bounds[1] / shape[1])
    return (
        min(bounds[0], max(1, round(shape[0] * scale))),
        min(bounds[1], max(1, round(shape[1] * scale))),
    )


def _image_filter(source: int, target: int) -> Image.Resampling:
    return Image.Resampling.BOX if target < source else Image.Resampling.BILINEAR
