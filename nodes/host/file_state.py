"""Detecting model files that are replaced while the host holds their old content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...siamese_core.errors import UserError
from ...siamese_core.files import file_digest


@dataclass(frozen=True)
class FileState:
    """Path, size and modification time of a file, by which a replaced file is recognised."""

    path: Path
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The current state of ``path``. Raises OSError when the file does not exist."""
        stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns)

    def digest(self) -> str:
        """SHA-256 of the content. Raises UserError when the file has been replaced since."""
        digest = _digest(self)
        if FileState.of(self.path) != self:
            raise UserError(
                f"'{self.path.name}' has been replaced since it was loaded; queue the graph again, which "
                "loads the new file."
            )
        return digest


@lru_cache(maxsize=64)
def _digest(state: FileState) -> str:
    return file_digest(state.path)


def file_fingerprint(path: str | Path | None) -> Any:
    """The fingerprint that the host compares before it reuses a node's result; changes with the file.

    For an unknown or missing file it equals nothing, so that the node runs and reports the problem.
    """
    try:
        state = None if path is None else FileState.of(Path(path))
    except OSError:
        state = None
    # Without the path, because ComfyUI's nodes save fingerprints in every image's metadata.
    return never_equal() if state is None else f"{state.size} bytes of {state.changed}"


def files_fingerprint(files: Iterable[Path]) -> str:
    """A digest of the names, sizes and modification times of ``files``. Raises OSError for a missing one."""
    facts = [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def never_equal() -> float:
    """A fingerprint (NaN) that equals no other one, so that the node always runs.

    It has to be a new object: the host compares tuples, where an identical object counts as equal.
    """
    return float("nan")
