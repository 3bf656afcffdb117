"""The prompts of a generated dataset: one for all pairs, each mask's own, or drawn by training shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_core.masks.folder_contents import Tell
from siamese_core.masks.mask_files import MASK_FOLDERS, first_subfolder
from siamese_core.pairs.captions import read_captions, stem_key
from siamese_core.pairs.pair_files import IMAGE_FOLDERS, MASK_SUFFIXES, PROMPT_FILE, pairs_of_masks
from siamese_core.pairs.prompt_file import read_prompt_file
from siamese_core.weights.training_record import draw_prompt, recorded_prompts

from ..command_line.options import OptionError


@dataclass(frozen=True)
class Prompts:
    """``own[k]`` is the prompt of mask file k; for None, each pair draws one from ``shares`` by ``seed``."""

    own: Sequence[str | None]
    shares: Mapping[str, float]
    seed: int

    def of(self, number: int, index: int) -> str:
        """The prompt of pair ``index``, whose mask is file ``number``."""
        own = self.own[number]
        return draw_prompt(self.shares, self.seed, index) if own is None else own

    @property
    def all(self) -> set[str]:
        """Every prompt that a pair can have."""
        own = {prompt for prompt in self.own if prompt is not None}
        return own | {*self.shares} if None in self.own else own

    @property
    def digest(self) -> str:
        """SHA-256 of everything that determines the prompts besides the seed."""
        if len(self.shares) <= 1 or None not in self.own:  # the digest of versions without shares
            only = next(iter(self.shares), "")
            content: object = [only if prompt is None else prompt for prompt in self.own]
        else:
            content = [list(self.own), sorted(self.shares.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def chosen_prompts(
    given: str | None,
    source: Path,
    masks: Sequence[Path],
    checkpoint: Path,
    training: Mapping[str, Any],
    seed: int,
    tell: Tell,
) -> Prompts:
    """``given`` for all pairs, else each mask's own prompt, else training prompts drawn by their shares.

    ``training`` is the record in the model file ``checkpoint``; ``masks`` were found at ``source``. Raises
    OptionError when a mask is left without a prompt.
    """
    if given is not None:
        return Prompts([given] * len(masks), {}, seed)
    own = own_prompts(source, masks, tell)
    if None in own and (unread := _list_above(source)):
        tell(f"{unread}: its prompts are not read; --masks {unread.parent} takes them for all of its masks")
    shares = recorded_prompts(training)
    if None in own and not shares:
        raise OptionError(
            f"--prompt is needed: {checkpoint} does not record what it was trained on, and "
            f"{own.count(None)} of {len(own)} masks have no prompt of their own; the paper's authors trained "
            "on 'a photo of polyps' and 'a photo of skin lesions'"
        )
    return Prompts(own, shares, seed)


def own_prompts(source: Path, masks: Sequence[Path], tell: Tell) -> list[str | None]:
    """The prompt stored with each of the ``masks`` found at ``source``, or None.

    It is read from ``prompt.json`` or else by :func:`read_captions`. ``tell`` is called with where prompts
    were found. Raises PairError and CaptionError for lists that cannot be read.
    """
    if not source.is_dir():
        return [None] * len(masks)
    if (source / PROMPT_FILE).is_file():
        pairs = [pair for _, pair in read_prompt_file(source / PROMPT_FILE)]
        return [(found.prompt or None) if found else None for found in pairs_of_masks(pairs, masks)]
    images = first_subfolder(source, IMAGE_FOLDERS) or source
    names = [_image_stems(path) for path in masks]
    captions = read_captions(source, images, [images / f"{stem}.png" for stems in names for stem in stems])
    for place in captions.sources:
        tell(f"{source}: prompts come from {place}")
    found = ((captions.by_stem.get(stem_key(stem)) for stem in stems) for stems in names)
    return [next((prompt for prompt in prompts if prompt), None) for prompts in found]


def _list_above(source: Path) -> Path | None:
    """The prompt file of the pairs whose ``masks/``, or one file in it, is ``source``."""
    folder = source if source.is_dir() else source.parent
    file = folder.parent / PROMPT_FILE
    return file if folder.name in MASK_FOLDERS and file.is_file() else None


def _image_stems(mask: Path) -> list[str]:
    """The stems that the image of ``mask`` may have."""
    suffixes = [suffix for suffix in MASK_SUFFIXES if mask.stem.lower().endswith(suffix)]
    return [mask.stem, *(mask.stem[: -len(suffix)] for suffix in suffixes)]
