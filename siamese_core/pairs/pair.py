"""What a pair on disk is, and the error of those that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError


class PairError(UserError):
    """Pairs that cannot be used; the message names the file, the line if any, and what to do about it."""


@dataclass(frozen=True)
class Pair:
    """One image and its mask on disk; ``stem``, the image's, is unique among the pairs of a source."""

    stem: str
    image: Path
    mask: Path
    prompt: str | None
