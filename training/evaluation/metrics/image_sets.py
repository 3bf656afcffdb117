"""Sets of images to compare (pairs or plain folders), and matching synthetic to real images by mask."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from siamese_core.errors import counted
from siamese_core.files import file_digest
from siamese_core.json_lines import json_objects, text_in
from siamese_core.masks.folder_contents import IMAGE_EXTENSIONS, Tell, left_out, nothing_read
from siamese_core.masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from siamese_core.masks.mask_files import MASK_FOLDERS, first_subfolder
from siamese_core.masks.plausibility import MaskSurvey
from siamese_core.masks.resizing import ResizeMode, resize_mask
from siamese_core.pairs.image_files import ImageSurvey, read_image
from siamese_core.pairs.manifest import MANIFEST
from siamese_core.pairs.pair import PairError, as_pair_errors
from siamese_core.pairs.pair_files import (
    IMAGE_FOLDERS,
    PROMPT_FILE,
    Pair,
    find_pairs,
    images_without_masks,
    load_pair,
)
from siamese_core.pairs.written_masks import read_mask_by_origin

_VARIANT = re.compile(r"(.+)_\d+")
_LEAST_DICE = 0.7
"""Dice from which on two masks of one name are the same, perhaps written at another size."""


@dataclass(frozen=True)
class RecordedMask:
    """A mask in a manifest: its ``stem``, None if it was transformed, and its file's SHA-256, if known."""

    stem: str | None
    digest: str | None


@dataclass(frozen=True)
class ImageSet:
    """The image files of one folder; ``pairs``, in the same order, is None for a folder without masks."""

    root: Path
    images: tuple[Path, ...]
    pairs: tuple[Pair, ...] | None

    @property
    def stems(self) -> list[str]:
        return [path.stem for path in self.images]

    @cached_property
    def recorded_masks(self) -> dict[str, RecordedMask]:
        """The masks that a manifest records by pair stem; {} without masks or a manifest.

        Raises PairError for a manifest that cannot be read.
        """
        return {} if self.pairs is None else _masks_in_manifest(self.root)

    def __len__(self) -> int:
        return len(self.images)


def find_images(source: Path, tell: Tell = lambda note: None) -> ImageSet:
    """The images at ``source``: pairs in any layout of find_pairs, or a folder of images without masks.

    ``tell`` is called with messages on files that may be meant as images but are not read. Raises PairError
    when there is no image or a pair is incomplete.
    """
    if (
        source.is_dir()
        and not (source / PROMPT_FILE).is_file()
        and first_subfolder(source, MASK_FOLDERS) is None
    ):
        folder = first_subfolder(source, IMAGE_FOLDERS) or source
        images = tuple(images_without_masks(folder, tell))
        if not images:
            raise PairError(nothing_read(folder, "images", "holds no images"))
        for phrase in left_out(folder):
            tell(f"not read in '{folder}': {phrase}")
        return ImageSet(source, images, None)
    pairs = tuple(find_pairs(source, default_prompt="", tell=tell))
    return ImageSet(source, tuple(pair.image for pair in pairs), pairs)


@dataclass(frozen=True)
class CheckedImages:
    """The images that passed a check, a sentence per skipped file, and notes for the user.

    ``sizes`` counts the images of each (height, width).
    """

    images: ImageSet
    skipped: list[str]
    sizes: Counter[tuple[int, int]]
    notes: list[str]


def check_images(images: ImageSet, rule: ForegroundRule, *, skip_corrupt: bool) -> CheckedImages:
    """Decode every file once, before hours of work depend on it.

    Raises PairError for the first bad file (unless ``skip_corrupt``), when no file is left, and for a set of
    masks that is implausible as a whole.
    """
    kept: list[int] = []
    skipped: list[str] = []
    sizes: Counter[tuple[int, int]] = Counter()
    survey, headers = MaskSurvey(rule), ImageSurvey()
    for i in tqdm(range(len(images)), desc=f"checking {images.root.name}", unit="image", mininterval=1.0):
        try:
            if images.pairs is None:
                image = read_image(images.images[i])
            else:
                loaded = load_pair(images.pairs[i], size=None, rule=rule)
                image = loaded.image
                survey.add(images.pairs[i].mask, loaded.reading)
            headers.add(images.images[i])
        except PairError as error:
            if not skip_corrupt:
                raise PairError(f"{error} (--skip-corrupt leaves such files out)") from error
            skipped.append(str(error))
            continue
        kept.append(i)
        sizes[image.shape[0], image.shape[1]] += 1
    if not kept:
        raise PairError(f"The folder '{images.root}' holds no image that can be read.")
    with as_pair_errors():
        survey.refuse_implausible()
    pairs = images.pairs and tuple(images.pairs[i] for i in kept)
    left = replace(images, images=tuple(images.images[i] for i in kept), pairs=pairs)
    return CheckedImages(left, skipped, sizes, [*survey.notes(), *headers.notes()])


def match_by_mask(
    synthetic: ImageSet, real: ImageSet, rule: ForegroundRule = PLAIN_MASKS, tell: Tell = lambda note: None
) -> list[int | None]:
    """For each synthetic image, the index of the real image with the same mask, or None.

    The mask is the one recorded in manifest.jsonl, or else the one with the pair's stem, with or without
    ``_<variant>``. Transformed masks match no real image, and neither do masks of which only the name is the
    same: their digest is another one than the manifest's, and they, read with ``rule``, hardly overlap.
    ``tell`` is called with the number of those. Raises ValueError unless both sets have pairs.
    """
    index: dict[str, int] = {}
    for i, pair in enumerate(_pairs(real)):
        index.setdefault(pair.mask.stem, i)
        index.setdefault(pair.stem, i)
    digest_of = cache(file_digest)
    matches, strangers = [], 0
    for pair in _pairs(synthetic):
        recorded = synthetic.recorded_masks.get(pair.stem)
        match = _index_of(pair.stem, recorded, index)
        if match is not None and recorded is not None and recorded.digest is not None:
            mask = _pairs(real)[match].mask
            if digest_of(mask) != recorded.digest and not _overlap(pair.mask, mask, rule):
                match, strangers = None, strangers + 1
        matches.append(match)
    if strangers:
        tell(
            f"{counted(strangers, 'mask')} of {synthetic.root} called like other masks of {real.root}: their "
            "images are not compared with the real ones of that name"
        )
    return matches


def _overlap(first: Path, second: Path, rule: ForegroundRule) -> bool:
    """Whether two masks are nearly the same once the second is resized to the first, in whatever mode."""
    with as_pair_errors():
        one, other = (read_mask_by_origin(path, rule).mask for path in (first, second))
    resized = (resize_mask(other, one.shape, mode) for mode in get_args(ResizeMode))
    return any(2 * int((one & at).sum()) >= _LEAST_DICE * int(one.sum() + at.sum()) for at in resized)


def groups_by_mask(synthetic: ImageSet, matches: Sequence[int | None]) -> list[list[int]]:
    """Groups of indices of the synthetic images that share a mask, two or more each.

    The mask is that of the real image they match or else, if they match none, the one that their manifest
    records.
    """
    groups: dict[int | str, list[int]] = {}
    for i, (stem, match) in enumerate(zip(synthetic.stems, matches, strict=True)):
        recorded = synthetic.recorded_masks.get(stem)
        own = recorded.stem if recorded is not None else None
        mask = own if match is None else match
        if mask is not None:
            groups.setdefault(mask, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _pairs(images: ImageSet) -> tuple[Pair, ...]:
    if images.pairs is None:
        raise ValueError(f"{images.root} holds no masks")
    return images.pairs


def _index_of(stem: str, recorded: RecordedMask | None, index: dict[str, int]) -> int | None:
    if recorded is not None:
        return None if recorded.stem is None else index.get(recorded.stem)
    if stem in index:
        return index[stem]
    variant = _VARIANT.fullmatch(stem)
    return index.get(variant[1]) if variant else None


def _masks_in_manifest(root: Path) -> dict[str, RecordedMask]:
    path = root / MANIFEST
    if not path.is_file():
        return {}
    masks: dict[str, RecordedMask] = {}
    for line in json_objects(path):
        stem, mask = text_in(line.value, "stem"), text_in(line.value, "mask_file")
        if stem is None or mask is None:
            raise PairError(f"Line {line.number} of '{path}' is no line of a manifest; correct or remove it.")
        own = None if line.value.get("transform") else _without_suffix(mask)
        masks[stem] = RecordedMask(own, text_in(line.value, "mask_digest") or None)
    return masks


def _without_suffix(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in IMAGE_EXTENSIONS else path.name
