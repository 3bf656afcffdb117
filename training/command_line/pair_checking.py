"""Checking pairs before a command's work, with a progress bar if it takes a while."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.masks.resizing import ResizeMode, Size
from siamese_core.pairs.pair_checks import PairCheck, check_pairs
from siamese_core.pairs.pair_files import Pair

from .notes import note


def checked(
    pairs: Sequence[Pair],
    rule: ForegroundRule,
    size: Size | None = None,
    resize_mode: ResizeMode = "stretch",
    *,
    place: Path | None = None,
    is_told: bool = True,
) -> PairCheck:
    """Run :func:`~siamese_core.pairs.pair_checks.check_pairs` on ``pairs`` and print its notes.

    Each note is prefixed with ``place``, if given. Nothing is printed unless ``is_told``.
    """
    with tqdm(
        total=len(pairs), desc="checking pairs", unit="pair", delay=2.0, leave=False, disable=not is_told
    ) as progress:
        check = check_pairs(pairs, rule, size=size, resize_mode=resize_mode, on_pair=progress.update)
    for text in check.notes if is_told else ():
        note(text if place is None else f"{place}: {text}")
    return check
