"""Checking pairs before a long run: all masks, the headers of all images, and the set as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from ..masks.plausibility import MaskSurvey
from ..masks.resizing import ResizeMode, Size
from .image_files import ImageSurvey, read_image
from .pair import PairError, as_pair_errors
from .pair_files import Pair, require_equal_sizes
from .written_masks import read_mask_by_origin

_SAMPLED = 16  # number of pairs whose images are decoded


@dataclass(frozen=True)
class PairCheck:
    """The result: ``notes`` for the user, one line per observation, and ``changes`` for the run's record.

    ``changes`` describes files that earlier versions read differently, so that runs begun with those versions
    are not resumed. It is empty for plain files. ``whites`` are those of folders of more than 8 bits.
    """

    notes: list[str]
    changes: list[str]
    whites: Mapping[Path, int]


def check_pairs(
    pairs: Sequence[Pair],
    rule: ForegroundRule = PLAIN_MASKS,
    *,
    size: Size | None = None,
    resize_mode: ResizeMode = "stretch",
    on_pair: Callable[[], object] = lambda: None,
) -> PairCheck:
    """Check all ``pairs``, which will be used at ``size`` (height, width) if that is set.

    Decodes every mask and some of the images, and reads the headers of all images. ``on_pair`` is called
    after each pair. Raises PairError for the first file that cannot be read, the first pair whose sizes
    differ, and when the masks as a whole are implausible: all empty, all full, or copies of their images.
    """
    survey, images = MaskSurvey(rule, size, resize_mode), ImageSurvey()
    with as_pair_errors():
        for pair in pairs:
            reading = read_mask_by_origin(pair.mask, rule)
            require_equal_sizes(pair, images.add(pair.image).size, reading.mask.shape)
            survey.add(pair.mask, reading)
            on_pair()
        survey.refuse_implausible()
    _refuse_copies(pairs, rule)
    changes = [*survey.changes, *images.changes()]
    return PairCheck([*survey.notes(), *images.notes()], changes, images.whites())


def _refuse_copies(pairs: Sequence[Pair], rule: ForegroundRule) -> None:
    """Raise PairError when a mask is the image file itself, or all sampled images equal their masks."""
    for pair in pairs:
        if pair.image.samefile(pair.mask):
            raise PairError(
                f"The mask '{pair.mask}' is the image itself; name the mask of '{pair.image.name}' instead."
            )
    sampled = pairs[:: -(-len(pairs) // _SAMPLED) or 1]
    copies = [pair for pair in sampled if _is_copy(pair, rule)]
    if copies and len(copies) == len(sampled):
        raise PairError(
            f"The images look like their masks ({len(copies)} of {len(sampled)} looked at, first: "
            f"'{copies[0].image}'); give the images themselves."
        )


def _is_copy(pair: Pair, rule: ForegroundRule) -> bool:
    """Whether the image is white exactly on the foreground of the mask and black elsewhere."""
    mask = read_mask_by_origin(pair.mask, rule).mask
    if not mask.any() or mask.all():
        return False
    pixels = read_image(pair.image)
    return bool(np.array_equal((pixels == 255).all(axis=-1), mask) and not pixels[~mask].any())
