"""The user's rule for which pixels of a mask file are foreground."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import UserError

ForegroundSource = Literal["auto", "brightness", "alpha", "labels"]

_HEX_COLOUR = re.compile(r"#?[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class ForegroundRule:
    """Which pixels of a mask file are foreground.

    ``threshold``: pixels brighter than this (0..255); 0 takes every label.
    ``label``: pixels whose stored value or palette index (0..65535) equals it.
    ``colour``: pixels of this colour, six hexadecimal digits.
    ``source``: ``auto`` refuses ambiguous files; ``brightness`` applies the threshold to any file; ``alpha``
    takes opaque pixels; ``labels`` takes every label but 0 or, with colours, everything but black.
    ``invert``: swap foreground and background.

    Raises UserError for a value out of range and for settings that exclude each other.
    """

    threshold: int = 127
    label: int | None = None
    source: ForegroundSource = "auto"
    colour: str | None = None
    invert: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 255:
            raise UserError(f"The mask threshold is {self.threshold}; give a whole number from 0 to 255.")
        if self.label is not None and not 0 <= self.label <= 65535:
            raise UserError(f"The mask label is {self.label}; give a whole number from 0 to 65535.")
        if self.colour is not None and not _HEX_COLOUR.fullmatch(self.colour):
            raise UserError(
                f"The mask colour is '{self.colour}'; give six hexadecimal digits, red first, such as ff0000."
            )
        if (self.label is not None) + (self.colour is not None) + (self.source != "auto") > 1:
            raise UserError("A mask's label, its colour and where it is from exclude each other; give one.")

    @property
    def takes_every_label(self) -> bool:
        """Whether all labels except the background are foreground."""
        return self.source == "labels" or (self.threshold == 0 and self.source == "auto")

    @property
    def described(self) -> str:
        """The condition for foreground as a phrase for messages, such as "value exceeds 127"."""
        if self.colour is not None:
            return f"pixel has the colour {self.colour}"
        if self.label is not None:
            return f"value is the label {self.label}"
        return f"{'opacity' if self.source == 'alpha' else 'value'} exceeds {self.threshold}"


PLAIN_MASKS = ForegroundRule()
"""The default: bright pixels are foreground, and ambiguous files are refused."""
