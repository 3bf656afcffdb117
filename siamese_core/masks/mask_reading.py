"""A mask as it was read from a file, with what had to be interpreted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class UnclearMask(Exception):
    """The pixels do not tell which of them are foreground; the message continues after the file's name."""


@dataclass(frozen=True)
class MaskReading:
    """A mask and how it was understood.

    ``mask`` is (H, W) bool, True on the foreground. ``note`` is None for a plain black-and-white
    mask, else a phrase for the user about what had to be interpreted; files that were interpreted
    alike have equal notes. ``changed`` is a phrase for what the first versions of this package read
    differently, None for what they read alike. ``is_blank`` tells that the file shows one value everywhere.
    """

    mask: Mask
    note: str | None = None
    changed: str | None = None
    is_blank: bool = False

    def noted(self, note: str) -> MaskReading:
        """The same with ``note`` put before its own."""
        return replace(self, note=f"{note}; {self.note}" if self.note else note)
