"""Image priors: real images used as hints besides or instead of masks, which some baselines require."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siamese_core.masks.folder_contents import Tell
from siamese_core.pairs.captions import stem_key
from siamese_core.pairs.pair_files import PairError, find_pairs, images_by_stem, pairs_of_masks
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
    """The image for each of the ``masks`` found at ``source``, or None if only masks are used as hints.

    Images come from ``folder``, if given. Otherwise, if the record ``training`` in ``checkpoint`` says that
    the model needs images as hints, they come from ``source``, which must be a folder of pairs. Raises
    OptionError for a mask without an image.
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
    by_stem = images_by_stem(folder)
    missing = [path.name for path in masks if stem_key(path.stem) not in by_stem]
    if missing:
        raise OptionError(
            f"{folder}: no image with the stem of {missing[0]} ({len(missing)} of {len(masks)} masks have "
            "none); leave out --images to sample with the masks alone"
        )
    return [by_stem[stem_key(path.stem)] for path in masks]


def _of_pairs(source: Path, masks: Sequence[Path]) -> list[Path]:
    """Images from a folder of pairs. Raises PairError if it is not one or a mask belongs to no pair."""
    if not source.is_dir():
        raise PairError(f"'{source}' is no folder of pairs")
    found = pairs_of_masks(find_pairs(source, default_prompt=""), masks)
    alone = [path for path, pair in zip(masks, found, strict=True) if pair is None]
    if alone:
        raise PairError(f"'{alone[0]}' belongs to no pair ({len(alone)} of {len(masks)} masks)")
    return [pair.image for pair in found if pair is not None]
