"""A pair on disk, and the error for pairs that cannot be used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..masks.image_decoding import MaskError


class PairError(UserError):
    """Pairs cannot be used; the message names the file, the line if any, and the fix."""


@dataclass(frozen=True)
class Pair:
    """An image and its mask on disk; ``stem`` is the image's and unique within a dataset."""

    stem: str
    image: Path
    mask: Path
    prompt: str | None


@contextlib.contextmanager
def as_pair_errors() -> Iterator[None]:
    """Within the block a MaskError becomes a PairError."""
    try:
        yield
    except MaskError as error:
        raise PairError(str(error)) from error
