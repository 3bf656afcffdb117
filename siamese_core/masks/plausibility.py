"""Plausibility checks over all masks of a folder, made once before work begins.

Sets that are certainly wrong are refused; odd ones are reported with counts and the first file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from .. import advice
from .foreground_rule import ForegroundRule
from .image_decoding import MaskError
from .mask_reading import MaskReading
from .resizing import ResizeMode, Size, resize_mask

_LARGE_SHARE = 0.5
_FEWEST_ALIKE = 8  # fewer masks may be alike on purpose


class _Found:
    """The number of masks with some property, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Path | None = None

    def add(self, path: Path) -> None:
        self.count += 1
        self.first = self.first or path


class MaskSurvey:
    """Collects facts about masks read with ``rule`` and used at ``size`` (height, width), if that is set."""

    def __init__(
        self, rule: ForegroundRule, size: Size | None = None, resize_mode: ResizeMode = "stretch"
    ) -> None:
        self._rule, self._size, self._mode = rule, size, resize_mode
        self._all, self._empty, self._blank = _Found(), _Found(), _Found()
        self._full, self._large, self._lost = _Found(), _Found(), _Found()
        self._by_note: dict[str, _Found] = {}
        self._by_change: dict[str, _Found] = {}
        self._contents: set[bytes] = set()

    def add(self, path: Path, reading: MaskReading) -> None:
        """Include ``reading``, the mask read from ``path``."""
        mask = reading.mask
        share = float(mask.mean())
        self._all.add(path)
        if len(self._contents) < 2:
            content = repr(mask.shape).encode() + mask.tobytes()
            self._contents.add(hashlib.sha256(content).digest())
        if reading.note:
            self._by_note.setdefault(reading.note, _Found()).add(path)
        if reading.changed:
            self._by_change.setdefault(reading.changed, _Found()).add(path)
        if share == 0:
            (self._blank if reading.is_blank else self._empty).add(path)
        elif share == 1:
            self._full.add(path)
        elif share > _LARGE_SHARE:
            self._large.add(path)
        if share and self._size is not None and not resize_mask(mask, self._size, self._mode).any():
            self._lost.add(path)

    @property
    def changes(self) -> list[str]:
        """One phrase, for records, per way in which files are read differently than by the first versions."""
        return [f"{self._counted(found)}: {change}" for change, found in sorted(self._by_change.items())]

    def refuse_implausible(self, needs_foreground: bool = True) -> None:
        """Raise MaskError when the masks as a whole are certainly not what was meant.

        That is when all are empty, all are foreground everywhere, or all lose their foreground when resized.
        Unless ``needs_foreground``, blank files and full masks are accepted.
        """
        total, shown = self._all.count, self._all.count - self._empty.count - self._blank.count
        first = self._all.first
        if not total:
            return
        if not shown and (needs_foreground or self._empty.count):
            raise MaskError(
                f"All masks are empty ({_number(total)}, first: '{first}'): no {self._rule.described}; lower "
                f"the threshold, or {advice.LABEL_OF_FOREGROUND}"
            )
        if self._full.count == total and needs_foreground:
            raise MaskError(
                f"All masks are foreground everywhere ({_number(total)}, first: '{first}'); give masks that "
                f"show a shape, or {advice.LABEL_OF_FOREGROUND}"
            )
        if shown and self._lost.count == shown:
            raise MaskError(
                f"All masks lose all foreground at {self._told_size} ({_number(shown)}, first: "
                f"'{self._lost.first}'); raise the resolution, or crop images and masks around it."
            )

    def notes(self) -> list[str]:
        """Notes for the user, one line per observation."""
        lines = [self._line(found, f": {note}") for note, found in self._by_note.items()]
        empty = _Found()
        empty.count = self._empty.count + self._blank.count
        firsts = [found.first for found in (self._empty, self._blank) if found.first]
        empty.first = min(firsts, default=None)
        lines.append(self._line(empty, " without any foreground"))
        lines.append(self._line(self._lost, f" with foreground, of which none is left at {self._told_size}"))
        lines.append(self._line(self._full, " with foreground everywhere"))
        if 2 * self._large.count > self._all.count:
            told = f" with more than {_LARGE_SHARE:.0%} foreground; {advice.INVERT}"
            lines.append(self._line(self._large, told))
        if len(self._contents) == 1 and self._all.count >= _FEWEST_ALIKE:
            lines.append(self._line(self._all, ", all of them alike"))
        return [line for line in lines if line]

    @property
    def _told_size(self) -> str:
        height, width = self._size or (0, 0)
        return f"{height} px" if height == width else f"{width} x {height} px"

    def _line(self, found: _Found, told: str) -> str:
        return f"{self._counted(found, first=False)}{told} (first: {found.first.name})" if found.first else ""

    def _counted(self, found: _Found, first: bool = True) -> str:
        name = f" (first: {found.first.name})" if first and found.first else ""
        return f"{found.count} of {_number(self._all.count)}{name}"


def _number(count: int) -> str:
    return f"{count} mask" if count == 1 else f"{count} masks"
