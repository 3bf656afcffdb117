"""What a pair on disk is, and the error of those that cannot be used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..masks.image_decoding import MaskError


class PairError(UserError):
    """Pairs that cannot be used; the message names the file, the line if any, and what to do about it."""


@dataclass(frozen=True)
class Pair:
    """One image and its mask on disk; ``stem``, the image's, is unique among the pairs of a source."""

    stem: str
    image: Path
    mask: Path
    prompt: str | None


@contextlib.contextmanager
def as_pair_errors() -> Iterator[None]:
    """Raise what is wrong with a single file as PairError."""
    try:
        yield
    except MaskError as error:
        raise PairError(str(error)) from error
