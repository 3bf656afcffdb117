"""The real image that is sampled with beside a mask: the image prior, and what models of baselines need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siamese_core.masks.folder_contents import Tell
from siamese_core.masks.mask_files import list_images
from siamese_core.pairs.pair_files import PairError, find_pairs
from siamese_core.weights.recorded_sampling import recorded_hint_weights

from ..command_line.options import OptionError


def prior_images(
    folder: Path | None,
    source: Path,
    masks: Sequence[Path],
    checkpoint: Path,
    training: Mapping[str, Any],
    tell: Tell,
) -> list[Path] | None:
    """The image of each of the ``masks`` found at ``source``, or None where masks alone are sampled with.

    They are those of ``folder``, if it is given. Else a ``checkpoint`` whose record ``training`` tells of
    images in its hint takes those of ``source``, a folder of pairs. Raises OptionError for a mask without.
    """
    if folder is not None:
        return _of_stems(folder, masks)
    if not recorded_hint_weights(training)[1]:
        return None
    trained = f"{checkpoint} was trained with --branches {training['branches']}"
    try:
        images = _of_pairs(source, masks)
    except PairError as error:
        raise OptionError(
            f"{trained}: it needs the image of each mask; give a folder of pairs as --masks, or --images DIR "
            f"({error})"
        ) from error
    tell(f"{trained}: it samples with the image of each mask, and what it makes repeats those")
    return images


def _of_stems(folder: Path, masks: Sequence[Path]) -> list[Path]:
    by_stem = {path.stem: path for path in list_images(folder)}
    missing = [path.name for path in masks if path.stem not in by_stem]
    if missing:
        raise OptionError(
            f"{folder}: no image with the stem of {missing[0]} ({len(missing)} of {len(masks)} masks have "
            "none); leave out --images to sample with the masks alone"
        )
    return [by_stem[path.stem] for path in masks]


def _of_pairs(source: Path, masks: Sequence[Path]) -> list[Path]:
    """Raises PairError where ``source`` is no folder of pairs, and where a mask belongs to none."""
    if not source.is_dir():
        raise PairError(f"'{source}' is no folder of pairs")
    by_mask = {pair.mask.resolve(): pair.image for pair in find_pairs(source, default_prompt="")}
    alone = [path for path in masks if path.resolve() not in by_mask]
    if alone:
        raise PairError(f"'{alone[0]}' belongs to no pair ({len(alone)} of {len(masks)} masks)")
    return [by_mask[path.resolve()] for path in masks]
