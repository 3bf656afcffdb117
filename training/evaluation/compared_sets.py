"""The sets that an evaluation compares: real images, and synthetic images of one or several methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.pairs.pair_files import Pair, find_pairs

from ..command_line.notes import note
from ..command_line.options import OptionError
from ..command_line.pair_checking import checked
from ..rating.study_files import REAL
from ..rating.study_results import StudyResults
from ..segmentation.plan import check_names, named_folders
from ..segmentation.training_sets import same_image
from .measuring import RealSets
from .metrics.image_sets import ImageSet, check_images, find_images

UNNAMED = "synthetic"


@dataclass(frozen=True)
class Compared:
    """The folder of real images and the methods' folders by name.

    ``is_single``: there is a single method without a name, which is reported by itself.
    """

    real: Path
    synthetic: Mapping[str, Path]
    is_single: bool


@dataclass(frozen=True)
class Found:
    """The images in the ``compared`` folders, and notes by set (the real images' under "real")."""

    compared: Compared
    real: RealSets
    synthetic: Mapping[str, ImageSet]
    notes: Mapping[str, Sequence[str]]


def compared_folders(real: Path, synthetic: Sequence[str]) -> Compared:
    """Parse ``synthetic``: one folder, or ``NAME=DIR`` for each method to compare with ``real``.

    Raises PlanError or OptionError for names that are equal or reserved.
    """
    if len(synthetic) == 1 and ("=" not in synthetic[0] or Path(synthetic[0]).exists()):
        return Compared(real, {UNNAMED: Path(synthetic[0])}, is_single=True)
    folders = {name: Path(folder) for name, folder in named_folders(synthetic).items()}
    check_names([*folders], "methods")
    if REAL in folders:
        raise OptionError(f"--synthetic {REAL}=...: so the real images are called; give it another name")
    return Compared(real, folders, is_single=False)


def check_study(study: StudyResults, path: Path, compared: Compared) -> Iterator[str]:
    """Yield notes on sources of the rating study at ``path`` that are not compared or had other folders.

    Raises OptionError when the study rates none of the methods.
    """
    if compared.is_single:
        raise OptionError("--rating-study needs the method's name in that study: --synthetic NAME=DIR")
    sources = [name for name in study.sources if name != REAL]
    if not set(sources) & set(compared.synthetic):
        raise OptionError(
            f"{path}: rates {', '.join(sources)}, none of {', '.join(compared.synthetic)}; call the methods "
            "as the study does"
        )
    for name in sources:
        if name not in compared.synthetic:
            yield f"{path} rates {name} too, which --synthetic does not name"
    for name, folder in {REAL: compared.real, **compared.synthetic}.items():
        rated = study.folders.get(name)
        if rated is not None and rated.resolve() != folder.resolve():
            yield f"{path}: the raters saw images of {rated} for {name}, not of {folder}"


def find_sets(
    compared: Compared,
    train: Path | None,
    test: Path | None,
    rule: ForegroundRule,
    *,
    skip_corrupt: bool,
) -> Found:
    """Find and check all images, and the real pairs to ``train`` and ``test`` the judge of mask adherence on.

    Raises PairError for unusable files, and OptionError when the judge has no masks to compare with.
    """
    notes: dict[str, list[str]] = {}
    found: dict[str, ImageSet] = {}
    for name, folder in {REAL: compared.real, **compared.synthetic}.items():
        check = check_images(find_images(folder, note), rule, skip_corrupt=skip_corrupt)
        found[name] = check.images
        is_plain = name == REAL or compared.is_single
        counted = f"{len(check.images)} {name} images" if is_plain else f"{name}: {len(check.images)} images"
        told = notes[name] = [f"{counted}, {_sizes(check.sizes)}."]
        told += [f"Skipped: {sentence}" for sentence in check.skipped]
        for text in check.notes:
            note(f"{folder}: {text}")
            told.append(f"{name}: {text}.")
    pairs = [_judges_pairs(folder, compared.real, rule) if folder else [] for folder in (train, test)]
    if shared := same_image([pair.image for pair in pairs[0]], [pair.image for pair in pairs[1]]):
        raise OptionError(
            f"{shared[1]}: this image of --real-test is also in --segmenter-train, as {shared[0]}; the "
            "judge's score on real images would be too good: divide the data with training.prepare"
        )
    real = found.pop(REAL)
    for name, images in found.items():
        if train and images.pairs is None:
            raise OptionError(
                f"{compared.synthetic[name]}: holds no masks, and mask adherence compares with them; give "
                "pairs, or leave out --segmenter-train"
            )
    return Found(compared, RealSets(real, *pairs), found, notes)


def _judges_pairs(folder: Path, real: Path, rule: ForegroundRule) -> list[Pair]:
    """The pairs in ``folder``, checked unless they are those of ``real``, which are checked already."""
    pairs = find_pairs(folder, default_prompt="", tell=note)
    if folder.resolve() != real.resolve():
        checked(pairs, rule, place=folder)
    return pairs


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    (height, width), count = sizes.most_common(1)[0]
    rest = f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
    return f"{width} x {height} pixels ({count} of them){rest}" if rest else f"{width} x {height} pixels"
