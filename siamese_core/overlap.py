"""Checking that outputs do not overlap inputs, so that no command replaces its own input."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .errors import UserError


class OverlapError(UserError):
    """An output overlaps an input; the message names both and the fix."""


def require_apart(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Raise OverlapError when a ``written`` folder equals, contains or is inside a ``read`` folder.

    A ``read`` file may be beside a written folder, but not inside it. Symbolic links are followed, and paths
    are compared as the file system does.
    """
    folders: dict[Path, None] = {}
    files: dict[Path, Path] = {}
    for path in read:
        if path.is_dir():
            folders[path] = None
        else:
            files.setdefault(Path(os.path.realpath(path)).parent, path)
    for target in written:
        for folder in folders:
            inside, around = _lies_in(target, folder), _lies_in(folder, target)
            if inside and around:
                raise _error(target, "the input is read from there")
            if inside or around:
                raise _error(target, f"that {'lies in' if inside else 'holds'} '{folder}', which is read")
        for parent, file in files.items():
            if _lies_in(parent, target):
                raise _error(target, f"that holds '{file}', which is read")


def places_of(files: Iterable[Path]) -> list[Path]:
    """The parent folders of ``files``, and the files, which may be links; for :func:`require_apart`."""
    files = list(files)
    return [*dict.fromkeys(file.parent for file in files), *files]


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or below it."""
    if not folder.exists():
        return False
    real = Path(os.path.realpath(path))
    return any(place.exists() and place.samefile(folder) for place in (real, *real.parents))


def _error(target: Path, relation: str) -> OverlapError:
    return OverlapError(
        f"{target}: the output would be written there, and {relation}; give an output folder beside the input"
    )
