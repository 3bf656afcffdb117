"""Reporting the contents of a folder that are not read, with advice on what to do about them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import counted

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Extensions of the image files that are read."""

Tell = Callable[[str], object]
"""Called with each message for the user, a sentence at a time."""

_SHOWN = 3
_MOST_LISTED = 100_000
# Files that are commonly beside images without being images.
_NOT_IMAGES = (
    *(".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".md", ".html", ".log"),
    *(".xlsx", ".xls", ".docx", ".pdf", ".py", ".db", ".ini", ".sha256", ".md5"),
)


class _Kind(NamedTuple):
    name: str
    advice: str


_AS_PNG = "save as PNG"
_VOLUME = "export the slices as PNG"
_UNPACK = "unpack, and give the folder"
_KINDS = {
    ".dcm": _Kind("DICOM", "export as PNG"),
    ".dicom": _Kind("DICOM", "export as PNG"),
    ".ima": _Kind("DICOM", "export as PNG"),
    ".nii.gz": _Kind("NIfTI", _VOLUME),
    ".nii": _Kind("NIfTI", _VOLUME),
    ".mha": _Kind("MetaImage", _VOLUME),
    ".mhd": _Kind("MetaImage", _VOLUME),
    ".nrrd": _Kind("NRRD", _VOLUME),
    ".gif": _Kind("GIF", _AS_PNG),
    ".webp": _Kind("WebP", _AS_PNG),
    ".heic": _Kind("HEIC", _AS_PNG),
    ".avif": _Kind("AVIF", _AS_PNG),
    ".jp2": _Kind("JPEG 2000", _AS_PNG),
    ".svg": _Kind("SVG", _AS_PNG),
    ".ppm": _Kind("PPM", _AS_PNG),
    ".pgm": _Kind("PGM", _AS_PNG),
    ".npy": _Kind("NumPy", _AS_PNG),
    ".npz": _Kind("NumPy", _AS_PNG),
    ".mat": _Kind("MATLAB", _AS_PNG),
    ".h5": _Kind("HDF5", _AS_PNG),
    ".svs": _Kind("whole-slide", "export tiles as PNG"),
    ".ndpi": _Kind("whole-slide", "export tiles as PNG"),
    ".tar.gz": _Kind("archive", _UNPACK),
    ".zip": _Kind("archive", _UNPACK),
    ".tar": _Kind("archive", _UNPACK),
    ".tgz": _Kind("archive", _UNPACK),
    ".gz": _Kind("archive", _UNPACK),
    ".rar": _Kind("archive", _UNPACK),
    ".7z": _Kind("archive", _UNPACK),
}
_OTHER = _Kind("other", _AS_PNG)
_STARTS = {b"PK\x03\x04": ".zip", b"\x1f\x8b": ".gz", b"Rar!": ".rar", b"7z\xbc\xaf": ".7z", b"GIF8": ".gif"}


def listed(names: Sequence[str]) -> str:
    """The first few of ``names`` and the number of the others."""
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def foreign_file(path: Path) -> str | None:
    """A phrase on what ``path`` is and what to do, if it is in a known unsupported format; else None."""
    kind = _kind(path)
    return None if kind in (None, _OTHER) else f"is {_article(kind)} file; {kind.advice}"


def left_out(folder: Path) -> list[str]:
    """What in ``folder`` is not read but may be meant as an image: a phrase with advice for each kind.

    These are dead links, files of other formats, and folders. Hidden files and text files are left out.
    """
    dead: list[str] = []
    folders: list[str] = []
    by_kind: dict[_Kind, list[str]] = {}
    for path in _visible(folder):
        if path.is_symlink() and not path.exists():
            dead.append(path.name)
        elif path.is_dir():
            folders.append(path.name)
        elif kind := _kind(path):
            by_kind.setdefault(kind, []).append(path.name)
    found = []
    if dead:
        found.append(
            f"{counted(len(dead), 'link')} to nothing ({listed(dead)}): fetch the files, for instance with "
            "git annex get, dvc pull, or by copying them again"
        )
    for kind, names in by_kind.items():
        found.append(f"{counted(len(names), f'{kind.name} file')} ({listed(names)}): {kind.advice}")
    if folders:
        found.append(
            f"{counted(len(folders), 'folder')} ({listed(folders)}): move the files out of there, or give "
            "each as a dataset of its own"
        )
    return found


def nothing_read(folder: Path, sought: str, empty: str) -> str:
    """A sentence on a ``folder`` without images: what it holds instead of ``sought``, or else ``empty``."""
    kinds = ", ".join(IMAGE_EXTENSIONS)
    if found := left_out(folder):
        return f"The folder '{folder}' holds no {sought} ({kinds}), but {', and '.join(found)}."
    return f"The folder '{folder}' {empty}; put {kinds} files into it."


def tell_unread(source: Path, used: Iterable[Path], tell: Tell) -> None:
    """Report the folders directly in ``source`` that hold images but none of the files ``used``."""
    parents = {parent for path in {path.parent for path in used} for parent in (path, *path.parents)}
    others = [
        path.name
        for path in _visible(source)
        if path.is_dir() and path not in parents and _holds_images(path)
    ]
    if others:
        tell(f"{source}: the images in its other folders are not used ({listed(others)})")


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))


def _holds_images(folder: Path) -> bool:
    seen = 0
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name.lower().endswith(IMAGE_EXTENSIONS) for name in names if not name.startswith(".")):
            return True
        seen += len(names) + len(folders)
        if seen > _MOST_LISTED:
            break
    return False


def _kind(path: Path) -> _Kind | None:
    name = path.name.lower()
    if name.endswith((*IMAGE_EXTENSIONS, *_NOT_IMAGES)):
        return None
    for suffix, kind in _KINDS.items():
        if name.endswith(suffix):
            return kind
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":  # DICOM files often have no suffix or a numeric one
        return _KINDS[".dcm"]
    return next((_KINDS[suffix] for mark, suffix in _STARTS.items() if start.startswith(mark)), _OTHER)


def _article(kind: _Kind) -> str:
    return f"{'an' if kind.name[0] in 'aoA' else 'a'} {kind.name}"
