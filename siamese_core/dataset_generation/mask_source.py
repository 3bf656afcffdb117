"""The masks of a generated dataset: the mask file and random transform of each pair."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import file_digest
from ..masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from ..masks.mask_files import read_mask
from ..masks.plausibility import MaskSurvey
from ..masks.random_transforms import TransformError, TransformSettings, transform_mask, variant_seed
from ..masks.resizing import ResizeMode, Size, resize_mask
from ..pairs.pair_writer import pair_stem
from ..pairs.written_masks import read_mask_as_known, rule_by_origin
from ..settings import recorded

PairSize = Literal["model", "source"]


@dataclass(frozen=True)
class MaskUse:
    """How a mask file becomes the mask of a pair.

    ``size`` (height, width) in pixels is what the model gets; ``written`` selects the size of the written
    pair. Random ``transforms`` are applied at the written size.
    """

    size: Size
    resize_mode: ResizeMode = "stretch"
    written: PairSize = "model"
    rule: ForegroundRule = PLAIN_MASKS
    transforms: TransformSettings | None = None

    def apply(self, mask: NDArray[np.bool_], seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The mask to write and the mask for the model, both (H, W) bool, from the file's ``mask`` (H, W).

        ``seed`` is the transform's. Raises TransformError when no transform meets the constraints or there is
        no foreground to transform.
        """
        used = mask if self.written == "source" else resize_mask(mask, self.size, self.resize_mode)
        if self.transforms is not None:
            if not used.any():
                height, width = used.shape
                raise TransformError(f"There is no foreground to transform at {width} x {height} pixels.")
            used = transform_mask(used, self.transforms, seed)
        return used, resize_mask(used, self.size, self.resize_mode) if self.written == "source" else used


@dataclass(frozen=True)
class PairMask:
    """The mask of a pair: its file and the file's SHA-256, and the (H, W) bool masks to write and to sample.

    ``rule`` is the rule that the file was read with.
    """

    stem: str
    file: Path
    digest: str
    written: NDArray[np.bool_]
    for_model: NDArray[np.bool_]
    transform: dict[str, Any] | None
    rule: ForegroundRule


class MaskSource:
    """Mask files, each used ``per_mask`` times: pair i is variant i % per_mask of mask i // per_mask.

    ``total``, if given, replaces ``per_mask``: that many pairs are spread evenly over the N masks, pair i
    using mask i * N // total, and ``per_mask`` becomes the largest number of pairs per mask.

    All files are read once on construction, so that bad ones are refused before hours of sampling;
    ``on_mask`` is called after each with the note on its reading, if any. ``notes`` are messages for the user
    on the set as a whole, ``changes`` describe files that the first versions read differently. Raises
    MaskError for a bad file and for an implausible set, and UserError when a file changes afterwards, since
    equal settings would no longer mean an equal dataset.
    """

    def __init__(
        self,
        files: Sequence[Path],
        use: MaskUse,
        per_mask: int,
        seed: int,
        on_mask: Callable[[Path, str | None], None] = lambda path, note: None,
        *,
        total: int | None = None,
    ) -> None:
        self.files, self.use, self.seed = files, use, seed
        self._total = len(files) * per_mask if total is None else total
        self.per_mask = -(-self._total // len(files))
        self._digests: list[bytes] = []
        self._rules: list[ForegroundRule] = []
        survey = MaskSurvey(use.rule, use.size, use.resize_mode)
        for path in files:
            self._digests.append(bytes.fromhex(file_digest(path)))
            self._rules.append(rule_by_origin(path, use.rule))
            reading = read_mask_as_known(path, self._rules[-1], use.rule)
            survey.add(path, reading)
            on_mask(path, reading.note)
        survey.refuse_implausible(needs_foreground=use.transforms is not None)
        self.notes, self.changes = survey.notes(), survey.changes
        self._read = lru_cache(maxsize=1)(self._read_again)

    def __len__(self) -> int:
        return self._total

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file's content, by the file's name."""
        return {path.name: digest.hex() for path, digest in zip(self.files, self._digests, strict=True)}

    @property
    def digest(self) -> str:
        """SHA-256 of the names and contents of all files, in order."""
        total = hashlib.sha256()
        for path, digest in zip(self.files, self._digests, strict=True):
            total.update(path.name.encode("utf-8", "surrogateescape") + b"\0" + digest)
        return total.hexdigest()

    def number(self, index: int) -> int:
        """The position in ``files`` of pair ``index``'s mask file."""
        return index * len(self.files) // self._total

    def _variant(self, index: int) -> tuple[int, int]:
        """The position of pair ``index``'s file, and the number of earlier pairs of the same file."""
        number = self.number(index)
        first = -(-number * self._total // len(self.files))
        return number, index - first

    def stem(self, index: int) -> str:
        """The name of pair ``index``."""
        number, variant = self._variant(index)
        return pair_stem(self.files[number].stem, variant, self.per_mask)

    def mask(self, index: int) -> PairMask:
        """The mask of pair ``index``. Raises TransformError like :meth:`MaskUse.apply`."""
        number, variant = self._variant(index)
        path, digest = self.files[number], self._digests[number].hex()
        seed = variant_seed(self.seed, number, variant)
        written, for_model = self.use.apply(self._read(number), seed)
        transforms = self.use.transforms
        return PairMask(
            stem=self.stem(index),
            file=path,
            digest=digest,
            written=written,
            for_model=for_model,
            transform=None if transforms is None else {"seed": seed, **recorded(transforms)},
            rule=self._rules[number],
        )

    def _read_again(self, number: int) -> NDArray[np.bool_]:
        path = self.files[number]
        # The digest is taken after reading, so that a change in between is detected.
        mask = read_mask(path, self._rules[number]).mask
        if file_digest(path) != self._digests[number].hex():
            raise UserError(
                f"{path}: the mask has changed since the run began; put the old file back and resume, or "
                "start a new dataset in another folder"
            )
        return mask
