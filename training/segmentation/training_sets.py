"""Checked pairs and fingerprints of an experiment's folders, each of which is read once."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from siamese_core.files import file_digest
from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.pairs.image_files import unlike_whites
from siamese_core.pairs.pair_files import Pair, find_pairs, pairs_fingerprint

from ..command_line.notes import note
from ..command_line.pair_checking import checked
from .mixing import Mixing
from .plan import Experiment, PlanError, Variant, evenly_chosen, synthetic_count


@dataclass(frozen=True)
class VariantSet:
    """A variant's pairs, real ones first, and the fingerprints of its folders.

    ``mixing`` is how real and synthetic pairs share the steps.
    """

    pairs: tuple[Pair, ...]
    real: int
    synthetic: int
    fingerprints: tuple[str, ...]
    mixing: Mixing


@dataclass(frozen=True)
class HeldOutSet:
    """The pairs of a test set and their fingerprint."""

    pairs: tuple[Pair, ...]
    fingerprint: str


@dataclass(frozen=True)
class Sets:
    """The sets of an experiment by name; ``variants`` are in order, the baseline first."""

    tests: Mapping[str, HeldOutSet]
    variants: Mapping[str, VariantSet]


class Folders:
    """Caches pairs and fingerprints by folder; all masks are read with ``rule``.

    ``changes`` collects those of ``check_pairs``.
    """

    def __init__(self, rule: ForegroundRule) -> None:
        self._rule = rule
        self.changes: list[str] = []
        self._found: dict[Path, tuple[Pair, ...]] = {}
        self._checked: set[Path] = set()
        self._whites: dict[Path, int] = {}
        self._fingerprints: dict[Path, str] = {}

    def pairs(self, folder: Path) -> tuple[Pair, ...]:
        """The pairs of ``folder``, checked once. Raises PairError for unusable files."""
        pairs = self._listed(folder)
        if folder not in self._checked:
            check = checked(pairs, self._rule, place=folder)
            self.changes += [f"{folder.name}: {change}" for change in check.changes]
            self._checked.add(folder)
            self._tell_unlike_whites(check.whites)
        return pairs

    def _tell_unlike_whites(self, more: Mapping[Path, int]) -> None:
        """Print a note when images of more than 8 bits are scaled in one folder unlike in those before."""
        if more and self._whites and (told := unlike_whites({**self._whites, **more})):
            note(told)
        self._whites |= more

    def _listed(self, folder: Path) -> tuple[Pair, ...]:
        """The pairs of ``folder``, unchecked."""
        if folder not in self._found:
            self._found[folder] = tuple(find_pairs(folder, default_prompt="", tell=note))
        return self._found[folder]

    def fingerprint(self, folder: Path) -> str:
        """The fingerprint of all pairs of ``folder``."""
        if folder not in self._fingerprints:
            self._fingerprints[folder] = pairs_fingerprint(self.pairs(folder))
        return self._fingerprints[folder]

    def sets(self, experiment: Experiment) -> Sets:
        """Read the folders of ``experiment``.

        Raises PairError for an unusable folder, and PlanError when there are too few synthetic pairs or a
        test image is also a training image.
        """
        for variant in experiment.variants:  # checked first, since decoding the masks takes minutes
            self._wanted(variant)
        tests = {
            name: HeldOutSet(self.pairs(folder), self.fingerprint(folder))
            for name, folder in experiment.tests.items()
        }
        variants = {variant.name: self._training_set(variant) for variant in experiment.variants}
        trained_on = {pair.image.resolve() for one in variants.values() for pair in one.pairs}
        for name, test in tests.items():
            if shared := same_image(trained_on, [pair.image for pair in test.pairs]):
                raise PlanError(
                    f"{shared[1]}: this image of the test set {name!r} is also trained on, as {shared[0]}; "
                    "divide the data with training.prepare"
                )
        return Sets(tests, variants)

    def _wanted(self, variant: Variant) -> int:
        """The number of synthetic pairs that ``variant`` uses. Raises PlanError when there are too few."""
        real, synthetic = (
            sum(len(self._listed(folder)) for folder in folders)
            for folders in (variant.real, variant.synthetic)
        )
        return synthetic_count(variant, real, synthetic) if synthetic else 0

    def _training_set(self, variant: Variant) -> VariantSet:
        real = [pair for folder in variant.real for pair in self.pairs(folder)]
        synthetic = [pair for folder in variant.synthetic for pair in self.pairs(folder)]
        wanted = self._wanted(variant)
        taken = [synthetic[place] for place in evenly_chosen(len(synthetic), wanted)]
        folders = (*variant.real, *variant.synthetic)
        fingerprints = tuple(self.fingerprint(folder) for folder in folders)
        return VariantSet((*real, *taken), len(real), len(taken), fingerprints, variant.mixing)


def order_digest(pairs: Sequence[Pair]) -> str:
    """SHA-256 of the stems of ``pairs`` in their order, which decides on the batches that they come in."""
    return hashlib.sha256("\n".join(pair.stem for pair in pairs).encode("utf-8", "surrogatepass")).hexdigest()


def same_image(first: Iterable[Path], second: Sequence[Path]) -> tuple[Path, Path] | None:
    """A file of ``first`` and a file of ``second`` with the same content, or None."""
    digest = cache(file_digest)
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in first:
        by_size[path.stat().st_size].append(path)
    for path in second:
        for other in by_size.get(path.stat().st_size, ()):
            if digest(other) == digest(path):
                return other, path
    return None
