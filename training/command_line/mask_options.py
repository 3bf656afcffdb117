"""The flags, common to all commands, for how mask files are read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from siamese_core.masks.foreground_rule import ForegroundRule, ForegroundSource
from siamese_core.settings import CLASS, GREY_LEVEL, option, recorded


@dataclass(frozen=True)
class MaskOptions:
    """Which pixels of a user's mask file are foreground; see docs/masks.md.

    The rule is passed along with all masks that a command reads, but not applied to those written by this
    package: see :mod:`siamese_core.pairs.written_masks`.
    """

    mask_threshold: int = option(
        127, "pixels above this value (0..255) are foreground; 0 takes every label", GREY_LEVEL
    )
    mask_label: int | None = option(None, "the class that counts as foreground, for multi-class masks", CLASS)
    mask_from: ForegroundSource = option(
        "auto",
        "how to find the foreground: brightness applies the threshold whatever the file looks like, alpha "
        "takes opaque pixels, labels every label but 0; auto refuses ambiguous files",
        added_later=True,
    )
    mask_colour: str | None = option(
        None, "the colour that counts as foreground, such as ff0000, for coloured masks", added_later=True
    )
    invert: bool = option(False, "swap foreground and background of the masks", added_later=True)

    @property
    def mask_rule(self) -> ForegroundRule:
        """The flags as a rule. Raises UserError for values out of range."""
        return ForegroundRule(
            self.mask_threshold, self.mask_label, self.mask_from, self.mask_colour, self.invert
        )

    @property
    def mask_record(self) -> dict[str, Any]:
        """The flags for a run's record; those added later are omitted at their defaults."""
        names = {field.name for field in fields(MaskOptions)}
        return {name: value for name, value in recorded(self).items() if name in names}
