"""The layouts in which a set of pairs is written, one a module, and what they have in common."""

from __future__ import annotations

from .layout import FinishedPair, PairFormat, StoredFile
from .pairs import Pairs

FORMATS: dict[str, PairFormat] = {kind.name: kind for kind in (Pairs(),)}

__all__ = ["FORMATS", "FinishedPair", "PairFormat", "StoredFile"]
