"""Finding and reading mask files."""

from __future__ import annotations

from pathlib import Path

from ..files import natural_key
from .folder_contents import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from .folder_contents import foreign_file, nothing_read
from .foreground import read_foreground
from .foreground_rule import PLAIN_MASKS, ForegroundRule
from .image_decoding import MaskError, decode_image
from .mask_reading import MaskReading

MASK_FOLDERS = ("masks", "mask")


def read_mask(path: Path, rule: ForegroundRule = PLAIN_MASKS) -> MaskReading:
    """Read the mask file ``path`` upright; ``rule`` decides which pixels are foreground (see docs/masks.md).

    Raises MaskError for an unreadable image, like :func:`~siamese_core.masks.image_decoding.decode_image`,
    and when the foreground is ambiguous: label maps and several colours without ``rule.label`` or
    ``rule.colour``, photographs, shapes in the transparency, floating-point values, and integers outside
    0..65535.
    """
    return read_foreground(decode_image(path), rule)


def discover_masks(path: Path) -> list[Path]:
    """The mask files at ``path``, in natural order.

    ``path`` is a file or a folder; a ``masks/`` or ``mask/`` subfolder is used if there is one. Hidden files
    and files without an image extension are skipped. Raises MaskError when ``path`` is missing, is another
    kind of file, holds no mask, or holds two masks with the same stem, whose results would overwrite each
    other.
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
    """The image files (by extension) directly in ``folder`` except hidden ones, in natural order.

    Raises MaskError for a file name that is not valid UTF-8, since it could not be written to a list.
    """
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".") and path.is_file()
    ]
    for path in files:
        # Python represents bytes that are not UTF-8 as lone surrogates.
        if any("\ud800" <= character <= "\udfff" for character in path.name):
            raise MaskError(f"The name {path.name!r} in '{folder}' is not UTF-8 text; rename the file.")
    return sorted(files, key=lambda path: (natural_key(path.name), path.name))


def first_subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first subfolder of ``folder`` in ``names`` that exists, or None."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)
