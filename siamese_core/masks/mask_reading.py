"""A mask read from a file, with notes on how the file was interpreted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class UnclearMask(Exception):
    """The foreground is ambiguous; the message continues a sentence that begins with the file's name."""


@dataclass(frozen=True)
class MaskReading:
    """A mask and how its file was interpreted.

    ``mask`` is (H, W) bool, True on the foreground. ``note`` is None for a plain black-and-white mask, else a
    phrase for the user on what had to be interpreted; files interpreted in the same way have equal notes.
    ``changed`` is a phrase for files that the first versions of this package read differently, else None.
    ``is_blank``: the file has one value everywhere.
    """

    mask: Mask
    note: str | None = None
    changed: str | None = None
    is_blank: bool = False

    def noted(self, note: str) -> MaskReading:
        """A copy with ``note`` put before the existing note."""
        return replace(self, note=f"{note}; {self.note}" if self.note else note)
