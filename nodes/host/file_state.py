"""Model files that may be replaced while the host keeps what it read of them."""

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
    """A file as it was at one time: a replaced one has another size, time or both."""

    path: Path
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The file as it is now; raises OSError when it is not there."""
        stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns)

    def digest(self) -> str:
        """SHA-256 of the content; raises UserError when the file has been replaced since."""
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
    """What the host compares before it keeps a node's result: another value for a replaced file.

    Where the file is not known yet, or not there, a value that equals none: the node runs and says so.
    """
    try:
        state = None if path is None else FileState.of(Path(path))
    except OSError:
        state = None
    # Without the path, which would end up in every image that core's own nodes save.
    return never_equal() if state is None else f"{state.size} bytes of {state.changed}"


def files_fingerprint(files: Iterable[Path]) -> str:
    """A digest of the names, sizes and times of ``files``. Raises OSError when one is not there."""
    facts = [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def never_equal() -> float:
    """A fingerprint that differs from every other one, so that the node runs each time.

    Made anew: the host compares tuples, in which the very same object counts as equal, NaN or not.
    """
    return float("nan")
